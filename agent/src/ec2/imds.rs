//! What the instance metadata service says: facts that do not change while an
//! instance runs, and a listing of its ENIs that lags behind EC2 and is only
//! ever a hint.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use aws_config::imds::client::{Client, error::ImdsError as SdkImdsError};
use aws_config::provider_config::ProviderConfig;
use aws_smithy_http_client::{Builder, tls};
use futures::future::BoxFuture;
use ipam_core::{EniId, InstanceId, MacAddr, SubnetId};
use ipnetwork::IpNetwork;

const TOKEN_AND_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// What does not change while the instance runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImdsFacts {
    /// The instance.
    pub instance: InstanceId,
    /// Its type.
    pub instance_type: String,
    /// Its region.
    pub region: String,
    /// Its availability zone.
    pub zone: String,
    /// The primary ENI's address.
    pub local_ipv4: IpAddr,
    /// The primary ENI's MAC address.
    pub mac: MacAddr,
    /// The primary ENI.
    pub primary_eni: EniId,
    /// The primary ENI's subnet.
    pub subnet: SubnetId,
    /// The VPC.
    pub vpc: String,
    /// The VPC's IPv4 blocks.
    pub vpc_cidrs: Vec<IpNetwork>,
}

/// Who ends the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// Its Auto Scaling group: the target lifecycle state is `Terminated`.
    AutoScaling,
    /// EC2, which needs the capacity of a Spot instance.
    Spot,
}

impl std::fmt::Display for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AutoScaling => "its Auto Scaling group terminates it",
            Self::Spot => "its Spot capacity is reclaimed",
        })
    }
}

/// One ENI as the metadata service lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImdsEni {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its device index.
    pub device_index: u32,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its prefixes.
    pub prefixes: Vec<IpNetwork>,
}

/// The metadata service did not answer, or not what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ImdsError {
    /// No answer, or a refusal.
    #[error("metadata service: GET {path}")]
    Get {
        /// What was asked for.
        path: String,
        /// What went wrong.
        #[source]
        source: Box<SdkImdsError>,
    },
    /// An answer that makes no sense.
    #[error("metadata service: {path} is {text:?}, which is not {expected}")]
    Nonsense {
        /// What was asked for.
        path: String,
        /// The answer.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
}

/// Lists the instance's ENIs, as a hint.
pub trait EniListing: Send + Sync {
    /// Every ENI that the instance knows of.
    fn list_enis(&self) -> BoxFuture<'_, Result<Vec<ImdsEni>, ImdsError>>;
}

/// A client of the metadata service (version 2, with session tokens); at
/// 169.254.169.254 or where `AWS_EC2_METADATA_SERVICE_ENDPOINT` says.
#[derive(Clone, Debug)]
pub struct ImdsClient {
    client: Client,
}

impl ImdsClient {
    /// Makes the client; nothing is asked yet.
    pub fn new() -> Self {
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let http = Builder::new().tls_provider(ring).build_https();
        // Without an HTTP client of our own the SDK's default is missing and
        // `build` panics.
        let config = ProviderConfig::default().with_http_client(http);
        let client = Client::builder()
            .configure(&config)
            .connect_timeout(TOKEN_AND_READ_TIMEOUT)
            .read_timeout(TOKEN_AND_READ_TIMEOUT)
            .max_attempts(3)
            .build();
        Self { client }
    }

    /// Reads what does not change.
    pub async fn facts(&self) -> Result<ImdsFacts, ImdsError> {
        let mac_text = self.get("mac").await?;
        let mac = parse("mac", &mac_text, "a MAC address")?;
        let nic = format!("network/interfaces/macs/{mac_text}");
        let zone = self.get("placement/availability-zone").await?;
        let region = match self.find("placement/region").await? {
            Some(region) => region,
            // Older services: the zone is the region and a letter.
            None => zone.trim_end_matches(|c: char| c.is_ascii_lowercase()).to_owned(),
        };
        let cidrs_path = format!("{nic}/vpc-ipv4-cidr-blocks");
        let mut vpc_cidrs = Vec::new();
        for line in self.get(&cidrs_path).await?.lines() {
            vpc_cidrs.push(parse(&cidrs_path, line, "an IPv4 block")?);
        }
        Ok(ImdsFacts {
            instance: InstanceId::new(self.get("instance-id").await?),
            instance_type: self.get("instance-type").await?,
            local_ipv4: parse("local-ipv4", &self.get("local-ipv4").await?, "an address")?,
            primary_eni: EniId::new(self.get(&format!("{nic}/interface-id")).await?),
            subnet: SubnetId::new(self.get(&format!("{nic}/subnet-id")).await?),
            vpc: self.get(&format!("{nic}/vpc-id")).await?,
            region,
            zone,
            mac,
            vpc_cidrs,
        })
    }

    /// The VPC's IPv4 blocks as they are now: one can be added to a VPC.
    pub async fn vpc_cidrs(&self, mac: MacAddr) -> Result<Vec<IpNetwork>, ImdsError> {
        let path = format!("network/interfaces/macs/{mac}/vpc-ipv4-cidr-blocks");
        let text = self.get(&path).await?;
        text.lines().map(|line| parse(&path, line, "an IPv4 block")).collect()
    }

    /// The IPv4 block of an ENI's subnet; `None` where the service does not list the ENI (yet).
    pub async fn subnet_block(&self, mac: MacAddr) -> Result<Option<IpNetwork>, ImdsError> {
        let path = format!("network/interfaces/macs/{mac}/subnet-ipv4-cidr-block");
        self.find(&path).await?.map(|text| parse(&path, &text, "an IPv4 block")).transpose()
    }

    /// Whether the instance is about to be ended, and by whom. `None` where the service knows of nothing.
    ///
    /// # Errors
    ///
    /// Where the service does not answer; that it has no such path is an answer.
    pub async fn leaving(&self) -> Result<Option<Leaving>, ImdsError> {
        let state = self.find("autoscaling/target-lifecycle-state").await?;
        if state.as_deref() == Some("Terminated") {
            return Ok(Some(Leaving::AutoScaling));
        }
        // There only once the interruption is decided: to terminate, stop or hibernate.
        Ok(self.find("spot/instance-action").await?.map(|_| Leaving::Spot))
    }

    /// The MAC addresses of the instance's ENIs, foreign ones included. One request.
    ///
    /// # Errors
    ///
    /// Where the service does not answer, or not with MAC addresses.
    pub async fn macs(&self) -> Result<BTreeSet<MacAddr>, ImdsError> {
        const PATH: &str = "network/interfaces/macs/";
        self.get(PATH).await?.lines().map(|line| parse(PATH, line, "a MAC address")).collect()
    }

    /// The addresses of an ENI, its primary one included, and its prefixes where `prefixes` asks for them. One
    /// request, or two; an ENI that is gone has none.
    ///
    /// # Errors
    ///
    /// Where the service does not answer, or not with addresses.
    pub async fn blocks(&self, mac: MacAddr, prefixes: bool) -> Result<BTreeSet<IpNetwork>, ImdsError> {
        let base = format!("network/interfaces/macs/{mac}");
        let singles: Vec<IpAddr> = self.list_of(&format!("{base}/local-ipv4s"), "an address").await?;
        let mut blocks: BTreeSet<IpNetwork> = singles.into_iter().map(IpNetwork::from).collect();
        if prefixes {
            let found: Vec<IpNetwork> = self.list_of(&format!("{base}/ipv4-prefix"), "a prefix").await?;
            blocks.extend(found);
        }
        Ok(blocks)
    }

    async fn list(&self) -> Result<Vec<ImdsEni>, ImdsError> {
        let mut enis = Vec::new();
        for line in self.get("network/interfaces/macs/").await?.lines() {
            let mac: MacAddr = parse("network/interfaces/macs/", line, "a MAC address")?;
            let base = format!("network/interfaces/macs/{mac}");
            // An ENI that is going away answers 404 for its parts.
            let Some(id) = self.find(&format!("{base}/interface-id")).await? else {
                continue;
            };
            let index_path = format!("{base}/device-number");
            let Some(index) = self.find(&index_path).await? else {
                continue;
            };
            enis.push(ImdsEni {
                id: EniId::new(id),
                mac,
                device_index: parse(&index_path, &index, "a number")?,
                addresses: self.list_of(&format!("{base}/local-ipv4s"), "addresses").await?,
                prefixes: self.list_of(&format!("{base}/ipv4-prefix"), "prefixes").await?,
            });
        }
        Ok(enis)
    }

    async fn list_of<T: FromStr>(&self, path: &str, expected: &'static str) -> Result<Vec<T>, ImdsError> {
        let text = self.find(path).await?.unwrap_or_default();
        text.lines().map(|line| parse(path, line, expected)).collect()
    }

    async fn get(&self, path: &str) -> Result<String, ImdsError> {
        let answer = self.client.get(format!("/latest/meta-data/{path}")).await;
        match answer {
            Ok(text) => Ok(text.as_ref().trim().to_owned()),
            Err(source) => Err(ImdsError::Get { path: path.to_owned(), source: Box::new(source) }),
        }
    }

    /// `None` where the service says that there is no such thing.
    async fn find(&self, path: &str) -> Result<Option<String>, ImdsError> {
        match self.get(path).await {
            Ok(text) => Ok(Some(text)),
            Err(ImdsError::Get { source, .. }) if is_not_found(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_not_found(error: &SdkImdsError) -> bool {
    match error {
        SdkImdsError::ErrorResponse(answer) => answer.response().status().as_u16() == 404,
        _ => false,
    }
}

impl Default for ImdsClient {
    fn default() -> Self {
        Self::new()
    }
}

impl EniListing for ImdsClient {
    fn list_enis(&self) -> BoxFuture<'_, Result<Vec<ImdsEni>, ImdsError>> {
        Box::pin(self.list())
    }
}

fn parse<T: FromStr>(path: &str, text: &str, expected: &'static str) -> Result<T, ImdsError> {
    text.parse().map_err(|_| ImdsError::Nonsense { path: path.to_owned(), text: text.to_owned(), expected })
}
