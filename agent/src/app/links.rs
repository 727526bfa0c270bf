//! ENIs: from the pool's view to links with routes, and back to the pool as «this one can be leased from».

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipam_core::{MacAddr, SubnetId};
use ipnetwork::IpNetwork;
use netlink::Mac;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cause::chain;
use crate::config::{Config, Snat};
use crate::ec2::{ImdsClient, ImdsFacts};
use crate::hostnet::{
    self, ActionKind, EniLink, HostNet, HostNetError, NodeNet, PortChoice, Report, SnatMode, table_of,
};
use crate::ipam::{EniView, Pool, PoolView};
use crate::metrics::{Metrics, ReasonLabel};
use crate::ports::Teller;
use crate::readiness::{Part, Readiness};

/// How long the metadata service may take to tell the block of a subnet, which EC2 tells at the same time.
const BLOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two attempts at that.
const BLOCK_PAUSE: Duration = Duration::from_secs(1);

/// Host networking with everybody who hears of it.
#[derive(Clone)]
pub(super) struct Keeper {
    hostnet: HostNet,
    pool: Pool,
    metrics: Metrics,
    readiness: Readiness,
    /// Secondary ENIs that the pool knows to have a link. Held for an instant.
    told: Arc<Mutex<BTreeSet<Mac>>>,
    /// Pods whose link is gone, as of the last look.
    vanished: watch::Sender<BTreeSet<IpAddr>>,
    teller: Teller,
    /// What others do to us, as of the last look. Held for an instant.
    findings: Arc<Mutex<HashSet<hostnet::Finding>>>,
}

impl Keeper {
    pub(super) fn new(
        hostnet: HostNet,
        pool: Pool,
        metrics: Metrics,
        readiness: Readiness,
        teller: Teller,
    ) -> Self {
        let (vanished, findings) = (watch::Sender::new(BTreeSet::new()), Arc::default());
        Self { hostnet, pool, metrics, readiness, told: Arc::default(), vanished, teller, findings }
    }

    /// Pods whose link is gone.
    pub(super) fn vanished(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.vanished.subscribe()
    }

    /// Counts what was put back, and tells the pool which ENIs have links and routes.
    fn report(&self, outcome: Result<Report, HostNetError>) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                self.metrics.host_errors.inc();
                self.readiness.lost(Part::Host, chain(&error));
                return;
            }
        };
        match unusable(&report) {
            None => self.readiness.reached(Part::Host),
            Some(reason) => self.readiness.lost(Part::Host, reason),
        }
        if let Some(refused) = &report.refused {
            self.metrics.host_errors.inc();
            let (error, left) = (&refused.error, &refused.left);
            tracing::warn!(error, ?left, "the kernel refused host networking");
        }
        self.vanished.send_replace(vanished(&report));
        self.tell_new(&report.findings);
        for (kind, count) in &report.repairs {
            let told = report.findings.contains(&hostnet::Finding::Contested(*kind));
            let (name, done) = (kind.as_str(), put_back(*kind, &report));
            match told {
                true => tracing::debug!(kind = name, count, done, "it was put back once more"),
                false => tracing::warn!(
                    kind = name,
                    count,
                    done,
                    "something else had removed or changed it; it was put back"
                ),
            }
            let reason = kind.as_str().to_owned();
            self.metrics.host_repairs.get_or_create(&ReasonLabel { reason }).inc_by(*count);
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for mac in report.linked.difference(&told) {
            self.pool.link_ready(MacAddr(mac.0));
        }
        for mac in told.difference(&report.linked) {
            self.pool.link_lost(MacAddr(mac.0));
        }
        *told = report.linked;
    }

    /// Tells once of what others do to us, for as long as it stands.
    fn tell_new(&self, findings: &[hostnet::Finding]) {
        let mut told = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let now: HashSet<_> =
            findings.iter().filter(|finding| event_of(finding).is_some()).cloned().collect();
        for finding in now.difference(&told) {
            let message = finding.to_string();
            tracing::warn!(message);
            if let Some((reason, subject)) = event_of(finding) {
                self.teller.node_about(reason, &subject, &message);
            }
        }
        *told = now;
    }
}

/// Objects of this kind that were put back, the first few.
fn put_back(kind: ActionKind, report: &Report) -> String {
    const FEW: usize = 3;
    let of_kind = report.actions.iter().filter(|action| action.kind() == kind);
    of_kind.take(FEW).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Reason and subject of the Event that tells of it: somebody has to look for who it is.
fn event_of(finding: &hostnet::Finding) -> Option<(&'static str, String)> {
    match finding {
        hostnet::Finding::PrecedingRule { address, .. } => Some(("ForeignRule", address.to_string())),
        hostnet::Finding::Contested(kind) => Some(("HostNetworkContested", kind.as_str().to_owned())),
        hostnet::Finding::EniWithoutLink { .. }
        | hostnet::Finding::PodWithoutLink { .. }
        | hostnet::Finding::NotAsked
        | hostnet::Finding::NoVpcCidrs => None,
    }
}

/// What no pod can do without.
fn unusable(report: &Report) -> Option<String> {
    let finding = report.findings.iter().find_map(|finding| match finding {
        hostnet::Finding::NotAsked => Some("the node's ENIs are not known yet"),
        hostnet::Finding::NoVpcCidrs => Some("no CIDR of the VPC is known"),
        // A secondary ENI without a link is not leased from; a pod without one is gone.
        hostnet::Finding::EniWithoutLink { .. } | hostnet::Finding::PodWithoutLink { .. } => None,
        // It is somebody else's, who may know why; what is contested stands most of the time.
        hostnet::Finding::PrecedingRule { .. } | hostnet::Finding::Contested(_) => None,
    });
    // A secondary ENI that lacks something is not leased from either.
    let refused = report.refused.as_ref().filter(|refused| !refused.of_secondary_only);
    finding.map(str::to_owned).or_else(|| {
        refused.map(|refused| format!("{} ({} steps are left)", refused.error, refused.left.len()))
    })
}

/// Pods whose link is gone.
fn vanished(report: &Report) -> BTreeSet<IpAddr> {
    let gone = report.findings.iter().filter_map(|finding| match finding {
        hostnet::Finding::PodWithoutLink { address, .. } => Some(*address),
        _ => None,
    });
    gone.collect()
}

/// Puts back what others remove, until `stop`.
pub(super) async fn keep(keeper: Keeper, stop: CancellationToken) -> &'static str {
    let hostnet = keeper.hostnet.clone();
    hostnet::keep(hostnet, stop, move |outcome| keeper.report(outcome)).await;
    "host networking"
}

/// Follows the pool's ENIs and the VPC's CIDRs.
pub(super) async fn follow(
    keeper: Keeper,
    config: Config,
    imds: Arc<ImdsClient>,
    facts: ImdsFacts,
) -> &'static str {
    let mut view = keeper.pool.view();
    let mut vpc_cidrs = facts.vpc_cidrs.clone();
    let mut blocks = Blocks::new();
    let mut period = tokio::time::interval(config.imds_period);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let current = view.borrow_and_update().clone();
        let all_known = learn_blocks(&mut blocks, &current, &imds).await;
        if let Some(node) = node_net(&current, &config, &vpc_cidrs, &blocks) {
            let hostnet = keeper.hostnet.clone();
            let work = move || hostnet.set_node(node).then(|| hostnet.reconcile());
            let outcome = tokio::task::spawn_blocking(work).await;
            if let Some(outcome) = outcome.unwrap_or(Some(Err(HostNetError::Cancelled))) {
                keeper.report(outcome);
            }
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return "ENI links" },
            () = tokio::time::sleep(BLOCK_PAUSE), if !all_known => {}
            _ = period.tick() => match imds.vpc_cidrs(facts.mac).await {
                Ok(cidrs) => vpc_cidrs = cidrs,
                Err(error) => tracing::debug!(error = chain(&error), "the VPC's CIDRs stay as they were"),
            },
        }
    }
}

/// Blocks of subnets, by the metadata service.
type Blocks = BTreeMap<SubnetId, IpNetwork>;

/// Asks the metadata service for blocks that EC2 has not told: an agent that may not describe subnets still has
/// routes. Blocks of subnets never change. False while one is missing.
async fn learn_blocks(blocks: &mut Blocks, view: &PoolView, imds: &ImdsClient) -> bool {
    let mut all_known = true;
    for eni in view.enis.iter().filter(|eni| eni.is_wanted_on_host() && eni.subnet_cidr.is_none()) {
        if blocks.contains_key(&eni.subnet) {
            continue;
        }
        match tokio::time::timeout(BLOCK_PATIENCE, imds.subnet_block(eni.mac)).await {
            Ok(Ok(Some(block))) => {
                blocks.insert(eni.subnet.clone(), block);
            }
            Ok(Ok(None) | Err(_)) | Err(_) => all_known = false,
        }
    }
    all_known
}

/// What the host shall look like; `None` while the primary ENI is not known.
fn node_net(view: &PoolView, config: &Config, vpc_cidrs: &[IpNetwork], blocks: &Blocks) -> Option<NodeNet> {
    let wanted = || view.enis.iter().filter(|eni| eni.is_wanted_on_host());
    let link = |eni| link(eni, blocks);
    let primary = wanted().find(|eni| eni.is_primary).and_then(link)?;
    Some(NodeNet {
        primary,
        secondary: wanted().filter(|eni| !eni.is_primary).filter_map(link).collect(),
        vpc_cidrs: vpc_cidrs.to_vec(),
        exclude_snat: config.exclude_snat.iter().copied().map(Into::into).collect(),
        external_services: config.external_services.iter().copied().map(Into::into).collect(),
        snat: match config.snat {
            Snat::External => SnatMode::External,
            Snat::RandomPorts => SnatMode::Internal(PortChoice::Random),
            Snat::HashedPorts => SnatMode::Internal(PortChoice::Hash),
            Snat::KeepPorts => SnatMode::Internal(PortChoice::Own),
        },
        node_port: config.node_port,
        mark: config.mark,
        veth_prefix: config.veth_prefix.clone(),
        eni_mtu: config.eni_mtu,
    })
}

/// An ENI as host networking knows it; `None` while its subnet's block is not known.
fn link(eni: &EniView, blocks: &Blocks) -> Option<EniLink> {
    let subnet = eni.subnet_cidr.or_else(|| blocks.get(&eni.subnet).copied())?;
    let device_index = eni.device_index?;
    Some(EniLink {
        mac: Mac(eni.mac.0),
        device_index,
        network_card: eni.network_card,
        primary_ip: eni.primary_ip,
        subnet,
        gateway: first_host(subnet),
        table: table_of(device_index, eni.network_card),
    })
}

/// A subnet's router has its first address after the network's own (VPC user guide, «Subnet CIDR blocks»).
fn first_host(subnet: IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(subnet) => IpAddr::from((u32::from(subnet.network()) + 1).to_be_bytes()),
        IpNetwork::V6(subnet) => IpAddr::from((u128::from(subnet.network()) + 1).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_asked_for_does_not_stand() {
        let with = |finding| Report { findings: vec![finding], ..Report::default() };
        assert!(unusable(&with(hostnet::Finding::NotAsked)).is_some());
        assert!(unusable(&with(hostnet::Finding::NoVpcCidrs)).is_some());
        assert_eq!(unusable(&with(hostnet::Finding::EniWithoutLink { mac: Mac([2; 6]) })), None);
        assert_eq!(unusable(&Report::default()), None);
    }

    #[test]
    fn what_the_kernel_refuses_counts_where_it_matters() {
        let with = |of_secondary_only| {
            let left = vec![hostnet::Action::RemoveTable];
            let refused = hostnet::Refused { error: "no".into(), left, of_secondary_only };
            Report { refused: Some(refused), ..Report::default() }
        };
        assert_eq!(unusable(&with(true)), None, "such an ENI is not leased from");
        assert!(unusable(&with(false)).is_some_and(|reason| reason.starts_with("no")));
    }

    #[test]
    fn the_router_is_the_first_host() {
        let of = |text: &str| first_host(text.parse().expect("a CIDR")).to_string();
        assert_eq!(of("10.20.16.0/20"), "10.20.16.1");
        assert_eq!(of("10.20.16.7/20"), "10.20.16.1", "host bits do not matter");
        assert_eq!(of("2001:db8::/64"), "2001:db8::1");
    }
}
