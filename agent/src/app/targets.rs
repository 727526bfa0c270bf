//! The pool's targets: the operator's knobs, and what Kubernetes and the metadata service say of the node.

use std::collections::BTreeSet;

use ipam_core::{AllocationMode, Growth, Hold, InstanceLimits, SecurityGroupId, SubnetChoice, SubnetId};

use tokio::sync::watch;

use super::lifecycle::Notice;
use crate::config::{Config, CustomNetworking};
use crate::ec2::ImdsFacts;
use crate::ipam::{Pool, Targets};
use crate::k8s::{
    ClusterHandle, EniConfigWatch, EniConfigs, EventKind, EventObject, EventSpec, NodeFacts, Snapshot,
};
use crate::readiness::{Part, Readiness};

/// Set by AWS's own controllers; it comes before what an operator chose.
const EXTERNAL_LABEL: &str = "vpc.amazonaws.com/externalEniConfig";
/// The ENIConfig of nodes that name none.
const DEFAULT_NAME: &str = "default";

/// What an ENIConfig says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    subnet: SubnetId,
    groups: BTreeSet<SecurityGroupId>,
}

/// Custom networking is on, and no ENIConfig says where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    /// The ENIConfig that the Node names.
    name: String,
    /// What is wrong and what would be right.
    reason: String,
    /// Whether it is more than a list that has not come yet.
    certain: bool,
}

/// What is known of the Node object.
#[derive(Clone, Copy, Debug)]
enum Node<'a> {
    /// The Kubernetes API was not heard yet.
    Unheard,
    /// It is not there.
    Absent,
    /// As it is.
    There(&'a NodeFacts),
}

impl<'a> Node<'a> {
    fn facts(self) -> Option<&'a NodeFacts> {
        match self {
            Self::There(facts) => Some(facts),
            Self::Unheard | Self::Absent => None,
        }
    }
}

/// What the world says at one moment.
struct Circumstances<'a> {
    node: Node<'a>,
    /// `None` without custom networking.
    eni_configs: Option<&'a EniConfigs>,
    /// Whether the instance is about to go away.
    leaving: bool,
}

/// Makes targets of circumstances.
struct Aim {
    base: Targets,
    config: Config,
    /// What the ENIConfig said last: addresses that are there are leased on when it disappears.
    place: Option<Place>,
}

impl Aim {
    fn new(config: Config, limits: InstanceLimits, facts: &ImdsFacts) -> Self {
        let mut base = Targets::new(limits, facts.subnet.clone());
        if config.subnet_discovery {
            base.subnet_choice = SubnetChoice::Discover {
                vpc: facts.vpc.clone(),
                zone: facts.zone.clone(),
                node_subnet: facts.subnet.clone(),
                cluster: config.cluster_name.clone(),
            };
        }
        let pool = &config.pool;
        let max_pods = match config.custom_networking {
            Some(_) => base.limits.max_pods_without_primary(pool.prefixes),
            None => base.limits.max_pods(pool.prefixes),
        };
        let base = Targets {
            max_pods,
            mode: if pool.prefixes { AllocationMode::Prefix } else { AllocationMode::Secondary },
            warm_prefix: pool.warm_prefix,
            warm_eni: pool.warm_eni,
            warm_ip: pool.warm_ip,
            minimum_ip: pool.minimum_ip,
            max_eni: pool.max_eni,
            cooldown: pool.cooldown,
            timing: config.timing.into_timing(),
            account: config.ec2_share,
            ..base
        };
        Self { base, config, place: None }
    }

    fn targets(&mut self, now: &Circumstances<'_>) -> (Targets, Option<Missing>) {
        let mut targets = self.base.clone();
        let facts = now.node.facts();
        if let Some(limit) = facts.and_then(|node| node.max_pods) {
            targets.max_pods = limit;
        }
        let mut missing = None;
        if let Some(named) = &self.config.custom_networking {
            match placed(named, now) {
                Ok(place) => self.place = Some(place),
                Err(why) => missing = Some(why),
            }
            let place = self.place.clone();
            targets.use_primary = false;
            targets.subnet_choice =
                SubnetChoice::Fixed(place.iter().map(|place| place.subnet.clone()).collect());
            targets.security_groups = place.map(|place| place.groups).unwrap_or_default();
        }
        // A Node that is gone has left the cluster: nothing is to be built for it.
        let leaves = match now.node {
            Node::Unheard => false,
            Node::Absent => true,
            Node::There(facts) => facts.terminating,
        };
        let leaving = now.leaving || leaves;
        let cordoned = facts.is_some_and(|node| node.unschedulable);
        targets.hold = match &missing {
            _ if leaving => Some(Hold::Terminating),
            Some(missing) => Some(Hold::NoEniConfig { name: missing.name.clone() }),
            None if self.config.provisioning_disabled => Some(Hold::ProvisioningOff),
            None => None,
        };
        targets.growth = match targets.hold {
            Some(_) => Growth::None,
            // It may be cordoned or on its way out, and its limit of pods is not known.
            None if matches!(now.node, Node::Unheard) => Growth::None,
            None if cordoned && !self.config.manage_when_cordoned => Growth::DemandOnly,
            None => Growth::Normal,
        };
        (targets, missing)
    }
}

/// What the Node's ENIConfig says.
fn placed(named: &CustomNetworking, now: &Circumstances<'_>) -> Result<Place, Missing> {
    let Some(node) = now.node.facts() else {
        let reason = "the Node object, which names an ENIConfig, is not known".to_owned();
        return Err(Missing { name: DEFAULT_NAME.to_owned(), reason, certain: false });
    };
    let (name, by) = name_of(named, node);
    let missing = |certain, reason| Missing { name: name.to_owned(), reason, certain };
    let configs = now.eni_configs.ok_or_else(|| missing(false, "ENIConfigs are not watched".to_owned()))?;
    if configs.kind_missing {
        let reason = format!(
            "custom networking needs ENIConfig «{name}», and the API has no such kind: apply the \
             CustomResourceDefinition eniconfigs.crd.k8s.amazonaws.com"
        );
        return Err(missing(true, reason));
    }
    if !configs.synced {
        let cause = configs.failing.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
        return Err(missing(configs.failing.is_some(), format!("ENIConfigs are not listed yet{cause}")));
    }
    let Some(found) = configs.by_name.get(name) else {
        return Err(missing(true, format!("ENIConfig «{name}» ({by}) does not exist: create it")));
    };
    let Some(subnet) = &found.subnet else {
        return Err(missing(true, format!("ENIConfig «{name}» ({by}) has no spec.subnet")));
    };
    Ok(Place {
        subnet: SubnetId::new(subnet),
        groups: found.security_groups.iter().map(SecurityGroupId::new).collect(),
    })
}

/// The name of the Node's ENIConfig, and where it is written. As with aws-node a key that is there counts, even
/// with an empty value.
fn name_of<'a>(named: &CustomNetworking, node: &'a NodeFacts) -> (&'a str, String) {
    let label = |key: &str| node.labels.get(key);
    let written = [
        ("label", EXTERNAL_LABEL, label(EXTERNAL_LABEL)),
        ("annotation", &named.annotation, node.annotations.get(&named.annotation)),
        ("label", &named.label, label(&named.label)),
    ];
    for (kind, key, value) in written {
        if let Some(value) = value {
            return (value, format!("by the Node's {kind} {key}"));
        }
    }
    let keys = if named.annotation == named.label {
        named.label.clone()
    } else {
        format!("{} or {}", named.annotation, named.label)
    };
    (DEFAULT_NAME, format!("the Node has no annotation or label {keys}"))
}

/// Follows what decides the pool's targets.
pub(super) struct Follower {
    aim: Aim,
    cluster: ClusterHandle,
    eni_configs: Option<EniConfigWatch>,
    notice: Notice,
    readiness: Readiness,
    /// Nothing is changed at EC2 while it is true.
    held: Option<watch::Receiver<bool>>,
    /// What an Event was last published for.
    complained: Option<Missing>,
}

impl Follower {
    pub(super) fn new(
        config: Config,
        limits: InstanceLimits,
        facts: &ImdsFacts,
        cluster: ClusterHandle,
        notice: Notice,
        readiness: Readiness,
    ) -> Self {
        let eni_configs = cluster.eni_configs();
        let aim = Aim::new(config, limits, facts);
        Self { aim, cluster, eni_configs, notice, readiness, held: None, complained: None }
    }

    /// The same; while `held` is true nothing is changed at EC2.
    pub(super) fn holding_while(mut self, held: watch::Receiver<bool>) -> Self {
        self.held = Some(held);
        self
    }

    /// The targets as they are now.
    pub(super) fn look(&mut self) -> Targets {
        let snapshot = self.cluster.snapshot();
        self.judge(&snapshot)
    }

    fn judge(&mut self, snapshot: &Snapshot) -> Targets {
        let eni_configs = self.eni_configs.as_mut().map(EniConfigWatch::current);
        let now = Circumstances {
            node: match snapshot.node.as_deref() {
                Some(facts) => Node::There(facts),
                None if snapshot.synced => Node::Absent,
                None => Node::Unheard,
            },
            eni_configs: eni_configs.as_ref(),
            leaving: self.notice.borrow_and_update().is_some(),
        };
        let (mut targets, missing) = self.aim.targets(&now);
        if self.held.as_mut().is_some_and(|held| *held.borrow_and_update()) {
            targets.growth = Growth::None;
        }
        match &missing {
            None => self.readiness.reached(Part::Subnets),
            Some(missing) => self.readiness.lost(Part::Subnets, missing.reason.clone()),
        }
        if self.complained != missing {
            if let Some(missing) = missing.as_ref().filter(|missing| missing.certain) {
                self.cluster.publish_event(event(&self.aim.config.node_name, missing));
            }
            self.complained = missing;
        }
        targets
    }

    /// Tells the pool of every change.
    pub(super) async fn follow(mut self, pool: Pool) -> &'static str {
        let mut changes = self.cluster.changed();
        let mut told = None;
        loop {
            let snapshot = changes.borrow_and_update().clone();
            let targets = self.judge(&snapshot);
            if told.as_ref() != Some(&targets) {
                tracing::info!(growth = ?targets.growth, hold = ?targets.hold, subnets = ?targets.subnet_choice, "targets");
                pool.retarget(targets.clone());
                told = Some(targets);
            }
            let other = async {
                match &mut self.eni_configs {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let held = async {
                match &mut self.held {
                    Some(held) => held.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = held => changed,
                changed = changes.changed() => changed.is_ok(),
                changed = other => changed,
                changed = self.notice.changed() => changed.is_ok(),
            };
            if !goes_on {
                return "targets";
            }
        }
    }
}

fn event(node: &str, missing: &Missing) -> EventSpec {
    EventSpec {
        object: EventObject {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: node.to_owned(),
            // The kubelet's own Events on a Node bear its name here, and `kubectl describe` looks for that.
            uid: Some(node.to_owned()),
        },
        kind: EventKind::Warning,
        reason: "NoEniConfig",
        message: missing.reason.clone(),
    }
}

#[cfg(test)]
#[path = "targets/tests.rs"]
mod tests;
