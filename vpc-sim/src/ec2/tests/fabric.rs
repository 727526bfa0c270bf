//! What the fabric is told, and when.

use std::net::IpAddr;
use std::sync::{Mutex, mpsc};

use ipnetwork::IpNetwork;

use super::*;
use crate::ec2::{EniId, EniLink, FabricPort};

/// Sends on what it is told.
struct Ear(Mutex<mpsc::Sender<Told>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Attached(EniId, String, u32, IpAddr),
    Detached(EniId),
    Addresses(EniId, usize),
    Check(EniId, bool),
}

impl Ear {
    fn send(&self, told: Told) {
        self.0.lock().expect("no other user").send(told).expect("the test listens");
    }
}

impl FabricPort for Ear {
    fn attached(&self, link: EniLink) {
        assert!(link.subnet_cidr.contains(link.gateway) && link.subnet_cidr.contains(link.primary_ip));
        self.send(Told::Attached(link.eni_id, link.node, link.device_index, link.gateway));
    }

    fn detached(&self, eni_id: &EniId) {
        self.send(Told::Detached(eni_id.clone()));
    }

    fn addresses_changed(&self, eni_id: &EniId, addresses: Vec<IpNetwork>) {
        self.send(Told::Addresses(eni_id.clone(), addresses.len()));
    }

    fn source_dest_check_changed(&self, eni_id: &EniId, enabled: bool) {
        self.send(Told::Check(eni_id.clone(), enabled));
    }
}

#[test]
fn the_fabric_is_told_in_order_and_before_the_answer() {
    let cloud = Cloud::new(Settings::calm());
    let (sender, told) = mpsc::channel();
    let pump = cloud.start_fabric(Arc::new(Ear(Mutex::new(sender)))).expect("a thread");
    let vpc = cloud.add_vpc("10.0.0.0/16".parse().expect("a network")).expect("a VPC");
    let subnet = cloud.add_subnet(&vpc, "10.0.4.0/24".parse().expect("a network"), "a").expect("a subnet");
    let node = NewInstance {
        name: "n".to_owned(),
        instance_type: "m5.large".to_owned(),
        subnet: subnet.clone(),
        groups: Vec::new(),
        tags: Vec::new(),
    };
    let facts = cloud.add_instance(node).expect("an instance");
    cloud.settle();
    let gateway: IpAddr = "10.0.4.1".parse().expect("an address");
    let primary = facts.eni_id.clone();
    let first = Told::Attached(primary.clone(), "n".to_owned(), 0, gateway);
    let all = |told: &mpsc::Receiver<Told>| told.try_iter().collect::<Vec<_>>();
    assert_eq!(all(&told), [first, Told::Addresses(primary.clone(), 1)]);

    let call = |form: &str| {
        let answer = cloud.answer("n", form);
        assert_eq!(answer.status, 200, "{}", answer.body);
        cloud.settle();
        Reply { status: answer.status, body: answer.body, delay: answer.delay }
    };
    call(&format!(
        "Action=AssignPrivateIpAddresses&NetworkInterfaceId={primary}&SecondaryPrivateIpAddressCount=2"
    ));
    assert_eq!(all(&told), [Told::Addresses(primary.clone(), 3)]);
    call(&format!(
        "Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId={primary}&SourceDestCheck.Value=false"
    ));
    assert_eq!(all(&told), [Told::Check(primary.clone(), false)]);

    let created = call(&format!("Action=CreateNetworkInterface&SubnetId={subnet}&Ipv4PrefixCount=1"));
    let eni = EniId::new(created.one("networkInterfaceId"));
    assert_eq!(all(&told), [], "nothing is attached yet");
    let attached = call(&format!(
        "Action=AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId={}&DeviceIndex=1",
        facts.instance_id
    ));
    let expected = Told::Attached(eni.clone(), "n".to_owned(), 1, gateway);
    assert_eq!(all(&told), [expected, Told::Addresses(eni.clone(), 2)]);
    call(&format!("Action=DetachNetworkInterface&AttachmentId={}", attached.one("attachmentId")));
    assert_eq!(all(&told), [Told::Detached(eni)]);

    cloud.terminate_instance(&facts.instance_id).expect("it runs");
    cloud.settle();
    assert_eq!(all(&told), [Told::Detached(primary)]);
    drop(pump);
    cloud.settle();
}

#[test]
fn a_device_appears_after_its_latency() {
    let settings = with_latencies(|latency| latency.device_attach = Delay::always(150));
    let cloud = Cloud::new(settings);
    let (sender, told) = mpsc::channel();
    let _pump = cloud.start_fabric(Arc::new(Ear(Mutex::new(sender)))).expect("a thread");
    let vpc = cloud.add_vpc("10.0.0.0/16".parse().expect("a network")).expect("a VPC");
    let subnet = cloud.add_subnet(&vpc, "10.0.4.0/24".parse().expect("a network"), "a").expect("a subnet");
    let node = NewInstance {
        name: "n".to_owned(),
        instance_type: "m5.large".to_owned(),
        subnet: subnet.clone(),
        groups: Vec::new(),
        tags: Vec::new(),
    };
    let facts = cloud.add_instance(node).expect("an instance");
    cloud.settle();
    assert_eq!(told.try_iter().count(), 2);
    let created = cloud.answer("n", &format!("Action=CreateNetworkInterface&SubnetId={subnet}"));
    let created = Reply { status: 200, body: created.body, delay: created.delay };
    let eni = created.one("networkInterfaceId");
    let began = std::time::Instant::now();
    let form = format!(
        "Action=AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId={}&DeviceIndex=1",
        facts.instance_id
    );
    assert_eq!(cloud.answer("n", &form).status, 200);
    let first = told.recv_timeout(Duration::from_secs(20)).expect("told in the end");
    assert!(began.elapsed() >= Duration::from_millis(150), "{first:?} after {:?}", began.elapsed());
    assert!(matches!(first, Told::Attached(id, ..) if id.as_str() == eni));
}
