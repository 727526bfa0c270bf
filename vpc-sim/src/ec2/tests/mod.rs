//! Laws and refusals of the API, asked as a client asks: by forms.

mod assignment;
mod control;
mod fabric;
mod laws;
mod limits;
mod metadata;
mod reading;
mod refusals;
mod time;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::ec2::{
    Cloud, Consistency, Delay, GroupId, HandClock, InstanceFacts, Latencies, NewInstance, Settings, SimTime,
    SubnetId, VpcId,
};

/// A cloud with one subnet, one m5.large in it, and a clock that stands still.
struct Bench {
    cloud: Arc<Cloud>,
    clock: Arc<HandClock>,
    vpc: VpcId,
    subnet: SubnetId,
    group: GroupId,
    node: InstanceFacts,
}

/// An answer of the API.
#[derive(Debug, Clone)]
struct Reply {
    status: u16,
    body: String,
    delay: Duration,
}

impl Reply {
    /// The texts of all elements of that name, in order.
    fn all(&self, element: &str) -> Vec<String> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let parts = self.body.split(&open).skip(1);
        parts.filter_map(|part| part.split(&close).next()).map(str::to_owned).collect()
    }

    /// The text of the first element of that name.
    fn one(&self, element: &str) -> String {
        self.all(element).into_iter().next().unwrap_or_else(|| panic!("no <{element}> in {}", self.body))
    }

    /// The code of the refusal; "" for none.
    fn code(&self) -> String {
        self.all("Code").into_iter().next().unwrap_or_default()
    }
}

impl Bench {
    /// A calm cloud with a subnet of that size.
    fn new(subnet: &str) -> Self {
        Self::with(Settings::calm(), subnet, "m5.large")
    }

    fn with(settings: Settings, subnet: &str, instance_type: &str) -> Self {
        let clock = Arc::new(HandClock::at(SimTime(Duration::from_secs(1_700_000_000))));
        let cloud = Cloud::with_clock(settings, clock.clone());
        let vpc = cloud.add_vpc("10.0.0.0/16".parse().expect("a network")).expect("a VPC");
        let subnet = cloud.add_subnet(&vpc, subnet.parse().expect(subnet), "us-west-2a").expect(subnet);
        let group = cloud.add_security_group(&vpc, "nodes").expect("a group");
        let node = cloud
            .add_instance(NewInstance {
                name: "node-a".to_owned(),
                instance_type: instance_type.to_owned(),
                subnet: subnet.clone(),
                groups: vec![group.clone()],
                tags: Vec::new(),
            })
            .expect("an instance");
        Self { cloud, clock, vpc, subnet, group, node }
    }

    fn call(&self, form: &str) -> Reply {
        let answer = self.cloud.answer("node-a", form);
        Reply { status: answer.status, body: answer.body, delay: answer.delay }
    }

    /// A call that must succeed.
    fn ok(&self, form: &str) -> Reply {
        let reply = self.call(form);
        assert_eq!(reply.status, 200, "{form}: {}", reply.body);
        reply
    }

    /// A new interface, with more parameters (`&A=b`).
    fn create(&self, more: &str) -> String {
        let form = format!("Action=CreateNetworkInterface&SubnetId={}{more}", self.subnet);
        self.ok(&form).one("networkInterfaceId")
    }

    /// Attaches an interface to the node; the attachment.
    fn attach(&self, eni: &str, device_index: u32) -> String {
        self.ok(&self.attach_form(eni, device_index)).one("attachmentId")
    }

    fn attach_form(&self, eni: &str, device_index: u32) -> String {
        format!(
            "Action=AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId={}&DeviceIndex={device_index}",
            self.node.instance_id
        )
    }

    fn describe(&self, eni: &str) -> Reply {
        self.call(&format!("Action=DescribeNetworkInterfaces&NetworkInterfaceId.1={eni}"))
    }

    fn status(&self, eni: &str) -> String {
        // The second is that of the attachment, where there is one.
        self.describe(eni).one("status")
    }

    /// All of an interface's single addresses, as Describe says.
    fn addresses(&self, eni: &str) -> Vec<Ipv4Addr> {
        let set = Reply { body: self.describe(eni).one("privateIpAddressesSet"), ..self.describe(eni) };
        set.all("privateIpAddress").iter().map(|text| text.parse().expect(text)).collect()
    }

    fn free(&self) -> u32 {
        let reply = self.ok(&format!("Action=DescribeSubnets&SubnetId.1={}", self.subnet));
        reply.one("availableIpAddressCount").parse().expect("a number")
    }

    fn wait(&self, span: Duration) {
        self.clock.advance(span);
    }
}

/// A calm cloud, but with some latencies.
fn with_latencies(change: impl FnOnce(&mut Latencies)) -> Settings {
    let mut settings = Settings::calm();
    change(&mut settings.latency);
    settings
}

/// A calm cloud in which changes are seen late.
fn with_consistency(not_found: u64, stale: u64) -> Settings {
    Settings {
        consistency: Consistency { not_found: Delay::always(not_found), stale: Delay::always(stale) },
        ..Settings::calm()
    }
}
