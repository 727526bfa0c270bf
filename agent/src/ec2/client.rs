//! The SDK's client behind the port: requests out, records back. The only
//! file that names `aws_sdk_ec2`.

mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, timeout::TimeoutConfig};
use aws_sdk_ec2::config::http::HttpResponse;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types as sdk;
use aws_sdk_ec2::types::{
    Filter, InstanceStateName, InstanceType, NetworkInterfaceAttachmentChanges, ResourceType, Tag,
    TagSpecification,
};
use aws_smithy_http_client::{Builder, tls};
use futures::future::BoxFuture;
use ipam_core::{
    AttachmentId, EniId, EniRecord, InstanceId, InstanceLimits, Operation, SecurityGroupId, SubnetId,
    SubnetQuery, SubnetRecord, Want, tags,
};
use ipnetwork::IpNetwork;
use records::{limits_of, read, record_of, subnet_of};

use super::{Assigned, Ec2, Ec2Error, Ec2Result, InstanceRecord, NewEni};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// EC2 answers within a second or two; an attach of a busy instance takes
/// longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest page of DescribeNetworkInterfaces.
const PAGE: i32 = 1000;

/// EC2 takes 200 values in one request; two of them name states.
const FILTER_VALUES: usize = 190;

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No region is known.
    #[error("the AWS region is not known")]
    NoRegion,
}

/// EC2 by the AWS SDK. Credentials come from the SDK's default chain, the
/// endpoint from `AWS_ENDPOINT_URL_EC2` where that is set.
#[derive(Clone, Debug)]
pub struct AwsEc2 {
    client: aws_sdk_ec2::Client,
}

impl AwsEc2 {
    /// Makes the client for `region`; no EC2 call is made. The SDK's own
    /// retries are off: repeating is the pool's decision.
    pub async fn connect(region: &str) -> Result<Self, ConnectError> {
        if region.is_empty() {
            return Err(ConnectError::NoRegion);
        }
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let http = Builder::new().tls_provider(ring).build_https();
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .load()
            .await;
        Ok(Self { client: aws_sdk_ec2::Client::new(&config) })
    }

    async fn enis_by(&self, filters: Vec<Filter>) -> Ec2Result<Vec<EniRecord>> {
        let operation = Operation::DescribeEnis;
        let mut records = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = self
                .client
                .describe_network_interfaces()
                .set_filters(Some(filters.clone()))
                .max_results(PAGE)
                .set_next_token(next.take())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            for eni in page.network_interfaces() {
                records.push(record_of(operation, eni)?);
            }
            match page.next_token().filter(|token| !token.is_empty()) {
                Some(token) => next = Some(token.to_owned()),
                None => return Ok(records),
            }
        }
    }
}

impl Ec2 for AwsEc2 {
    fn describe_self<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<InstanceRecord>> {
        Box::pin(async move {
            let operation = Operation::DescribeInstances;
            let answer = self
                .client
                .describe_instances()
                .instance_ids(instance.as_str())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            let found = answer
                .reservations()
                .iter()
                .flat_map(|reservation| reservation.instances())
                .find(|found| found.instance_id() == Some(instance.as_str()))
                .ok_or_else(|| Ec2Error::nonsense(operation, format!("the answer lacks {instance}")))?;
            let state = found.state().and_then(|state| state.name());
            Ok(InstanceRecord {
                id: instance.clone(),
                instance_type: found.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
                vpc: found.vpc_id().map(str::to_owned),
                subnet: found.subnet_id().map(SubnetId::new),
                zone: found.placement().and_then(|at| at.availability_zone()).map(str::to_owned),
                is_alive: matches!(state, Some(InstanceStateName::Pending | InstanceStateName::Running)),
            })
        })
    }

    fn describe_enis<'a>(&'a self, instance: &'a InstanceId) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(async move {
            // Two questions, since filters are joined by "and"; asked at once.
            let attached = self.enis_by(vec![filter("attachment.instance-id", instance.as_str())]);
            let loose = self.enis_by(vec![
                filter(&format!("tag:{}", tags::INSTANCE_ID), instance.as_str()),
                filter("status", "available"),
            ]);
            let (mut records, loose) = tokio::try_join!(attached, loose)?;
            for record in loose {
                if !records.iter().any(|known| known.id == record.id) {
                    records.push(record);
                }
            }
            Ok(records)
        })
    }

    fn describe_unattached<'a>(
        &'a self,
        cluster: &'a str,
        vpc: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Vec<EniRecord>>> {
        Box::pin(self.enis_by(vec![
            filter(&format!("tag:{}", tags::CLUSTER), &literal(cluster)),
            filter("tag-key", tags::INSTANCE_ID),
            filter("status", "available"),
            filter("vpc-id", vpc),
        ]))
    }

    fn living_instances<'a>(
        &'a self,
        instances: &'a BTreeSet<InstanceId>,
    ) -> BoxFuture<'a, Ec2Result<BTreeSet<InstanceId>>> {
        Box::pin(async move {
            let operation = Operation::DescribeInstances;
            let ids: Vec<String> = instances.iter().map(|id| literal(id.as_str())).collect();
            let mut living = BTreeSet::new();
            // By a filter, since one unknown id among those that are named
            // fails the call.
            for some in ids.chunks(FILTER_VALUES) {
                let named = Filter::builder().name("instance-id").set_values(Some(some.to_vec())).build();
                let states =
                    Filter::builder().name("instance-state-name").values("pending").values("running");
                let request = self.client.describe_instances().filters(named).filters(states.build());
                let answer = request.send().await.map_err(|error| failed(operation, error))?;
                let found = answer.reservations().iter().flat_map(|reservation| reservation.instances());
                living.extend(found.filter_map(|instance| instance.instance_id()).map(InstanceId::new));
            }
            Ok(living)
        })
    }

    fn describe_subnets<'a>(&'a self, query: &'a SubnetQuery) -> BoxFuture<'a, Ec2Result<Vec<SubnetRecord>>> {
        Box::pin(async move {
            let operation = Operation::DescribeSubnets;
            let request = self.client.describe_subnets();
            let request = match query {
                SubnetQuery::Ids(ids) => {
                    request.set_subnet_ids(Some(ids.iter().map(|id| id.as_str().to_owned()).collect()))
                }
                SubnetQuery::Discover { vpc, zone } => {
                    request.filters(filter("vpc-id", vpc)).filters(filter("availability-zone", zone))
                }
            };
            let mut subnets = Vec::new();
            let mut next = None;
            loop {
                let page = request.clone().set_next_token(next).send().await;
                let page = page.map_err(|error| failed(operation, error))?;
                for subnet in page.subnets() {
                    subnets.push(subnet_of(operation, subnet)?);
                }
                match page.next_token().filter(|token| !token.is_empty()) {
                    Some(token) => next = Some(token.to_owned()),
                    None => return Ok(subnets),
                }
            }
        })
    }

    fn instance_limits<'a>(
        &'a self,
        instance_type: &'a str,
    ) -> BoxFuture<'a, Ec2Result<Option<InstanceLimits>>> {
        Box::pin(async move {
            let operation = Operation::DescribeInstanceTypes;
            let answer = self
                .client
                .describe_instance_types()
                .instance_types(InstanceType::from(instance_type))
                .send()
                .await;
            match answer {
                Ok(answer) => {
                    answer.instance_types().first().map(|info| limits_of(operation, info)).transpose()
                }
                Err(error) => match failed(operation, error) {
                    error if error.code.as_deref() == Some("InvalidInstanceType") => Ok(None),
                    error => Err(error),
                },
            }
        })
    }

    fn create_eni<'a>(&'a self, eni: &'a NewEni) -> BoxFuture<'a, Ec2Result<EniRecord>> {
        Box::pin(async move {
            let operation = Operation::CreateEni;
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::NetworkInterface)
                .set_tags(Some(tags_of(&eni.tags)))
                .build();
            let answer = self
                .client
                .create_network_interface()
                .subnet_id(eni.subnet.as_str())
                .set_groups(Some(eni.groups.iter().map(|group| group.as_str().to_owned()).collect()))
                .set_secondary_private_ip_address_count(count(eni.want.singles))
                .set_ipv4_prefix_count(count(eni.want.prefixes))
                .description(&eni.description)
                .tag_specifications(tags)
                .client_token(eni.token.as_str())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            let made = answer
                .network_interface()
                .ok_or_else(|| Ec2Error::nonsense(operation, "the answer has no interface"))?;
            record_of(operation, made)
        })
    }

    fn attach<'a>(
        &'a self,
        eni: &'a EniId,
        instance: &'a InstanceId,
        device_index: u32,
        network_card: u32,
    ) -> BoxFuture<'a, Ec2Result<AttachmentId>> {
        Box::pin(async move {
            let operation = Operation::Attach;
            let answer = self
                .client
                .attach_network_interface()
                .network_interface_id(eni.as_str())
                .instance_id(instance.as_str())
                .set_device_index(i32::try_from(device_index).ok())
                // Always sent: left out, EC2 looks for the device index on
                // the wrong card of a type with several.
                .set_network_card_index(i32::try_from(network_card).ok())
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            answer
                .attachment_id()
                .map(AttachmentId::new)
                .ok_or_else(|| Ec2Error::nonsense(operation, "the answer has no attachment"))
        })
    }

    fn set_delete_on_termination<'a>(
        &'a self,
        eni: &'a EniId,
        attachment: &'a AttachmentId,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            let change = NetworkInterfaceAttachmentChanges::builder()
                .attachment_id(attachment.as_str())
                .delete_on_termination(true)
                .build();
            self.client
                .modify_network_interface_attribute()
                .network_interface_id(eni.as_str())
                .attachment(change)
                .send()
                .await
                .map_err(|error| failed(Operation::Modify, error))?;
            Ok(())
        })
    }

    fn set_groups<'a>(
        &'a self,
        eni: &'a EniId,
        groups: &'a BTreeSet<SecurityGroupId>,
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            self.client
                .modify_network_interface_attribute()
                .network_interface_id(eni.as_str())
                .set_groups(Some(groups.iter().map(|group| group.as_str().to_owned()).collect()))
                .send()
                .await
                .map_err(|error| failed(Operation::Modify, error))?;
            Ok(())
        })
    }

    fn assign<'a>(&'a self, eni: &'a EniId, want: Want) -> BoxFuture<'a, Ec2Result<Assigned>> {
        Box::pin(async move {
            let operation = Operation::Assign;
            let answer = self
                .client
                .assign_private_ip_addresses()
                .network_interface_id(eni.as_str())
                .set_secondary_private_ip_address_count(count(want.singles))
                .set_ipv4_prefix_count(count(want.prefixes))
                .send()
                .await
                .map_err(|error| failed(operation, error))?;
            let mut assigned = Assigned::default();
            for single in answer.assigned_private_ip_addresses() {
                assigned.singles.push(read(operation, single.private_ip_address())?);
            }
            for prefix in answer.assigned_ipv4_prefixes() {
                assigned.prefixes.push(read(operation, prefix.ipv4_prefix())?);
            }
            Ok(assigned)
        })
    }

    fn unassign<'a>(
        &'a self,
        eni: &'a EniId,
        singles: &'a [IpAddr],
        prefixes: &'a [IpNetwork],
    ) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            self.client
                .unassign_private_ip_addresses()
                .network_interface_id(eni.as_str())
                .set_private_ip_addresses(Some(singles.iter().map(IpAddr::to_string).collect()))
                .set_ipv4_prefixes(Some(prefixes.iter().map(IpNetwork::to_string).collect()))
                .send()
                .await
                .map_err(|error| failed(Operation::Unassign, error))?;
            Ok(())
        })
    }

    fn detach<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            self.client
                .detach_network_interface()
                .attachment_id(attachment.as_str())
                .send()
                .await
                .map_err(|error| failed(Operation::Detach, error))?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, eni: &'a EniId) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            self.client
                .delete_network_interface()
                .network_interface_id(eni.as_str())
                .send()
                .await
                .map_err(|error| failed(Operation::DeleteEni, error))?;
            Ok(())
        })
    }

    fn tag<'a>(&'a self, eni: &'a EniId, tags: &'a BTreeMap<String, String>) -> BoxFuture<'a, Ec2Result<()>> {
        Box::pin(async move {
            self.client
                .create_tags()
                .resources(eni.as_str())
                .set_tags(Some(tags_of(tags)))
                .send()
                .await
                .map_err(|error| failed(Operation::CreateTags, error))?;
            Ok(())
        })
    }
}

fn filter(name: &str, value: &str) -> Filter {
    Filter::builder().name(name).values(value).build()
}

/// A filter's value that matches this text only: EC2 takes `*` and `?` for any
/// text and any character.
fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn tags_of(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// EC2 refuses a count of 0 beside another count: what is not wanted is left
/// out.
fn count(wanted: u32) -> Option<i32> {
    i32::try_from(wanted).ok().filter(|wanted| *wanted > 0)
}

fn failed<E>(operation: Operation, error: SdkError<E, HttpResponse>) -> Ec2Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    if let (Some(status), Some(code)) = (status, error.code()) {
        return Ec2Error::answered(operation, status, code, error.message().unwrap_or_default());
    }
    if let Some(status) = status.filter(|_| matches!(error, SdkError::ServiceError(_))) {
        return Ec2Error::answered(operation, status, "", "an error without a code");
    }
    match &error {
        // The request never left: most often no credentials.
        SdkError::ConstructionFailure(_) => {
            Ec2Error::no_credentials(operation, "the request could not be made", Some(error.into()))
        }
        SdkError::DispatchFailure(failure) => {
            let says = |words: &[&str]| {
                failure.as_connector_error().is_some_and(|connector| chain_says(connector, words))
            };
            if says(&["credentials"]) {
                return Ec2Error::no_credentials(operation, "no credentials", Some(error.into()));
            }
            // A connection that was never made carried nothing.
            let reached =
                !failure.is_user() && !says(&["tcp connect error", "dns error", "Connection refused"]);
            Ec2Error::unanswered(operation, "EC2 cannot be reached", reached, Some(error.into()))
        }
        SdkError::TimeoutError(_) => {
            Ec2Error::unanswered(operation, "no answer in time", true, Some(error.into()))
        }
        _ => Ec2Error::unanswered(operation, "the answer cannot be read", true, Some(error.into())),
    }
}

/// The SDK has no kinds for these failures; they come as "other" with a text
/// somewhere in their chain.
fn chain_says(error: &(dyn std::error::Error + 'static), words: &[&str]) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if words.iter().any(|word| text.contains(word)) {
            return true;
        }
        next = error.source();
    }
    false
}
