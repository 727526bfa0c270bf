//! Which subnets pods' addresses may come from.
//!
//! The tags' meaning is aws-node's: the node's own subnet serves pods unless
//! it is tagged `kubernetes.io/role/cni=0`; others of its VPC and zone serve
//! them where that tag has another value. A subnet with cluster tags serves
//! the clusters that they name.

use std::collections::BTreeMap;

use crate::eni::{Eni, Owner};
use crate::plan::SubnetQuery;
use crate::record::tags;
use crate::state::PoolState;
use crate::targets::{SubnetChoice, Targets};
use crate::{Now, SubnetId};

/// What is known of the discovery as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Discovery {
    /// When the last reading that answered was taken in.
    pub(crate) read_at: Option<Now>,
    /// The last attempt failed.
    pub(crate) failed: bool,
}

/// Whether a subnet's tags offer it to pods of this node.
pub(crate) fn is_offered(
    tags: &BTreeMap<String, String>,
    is_node_subnet: bool,
    cluster: Option<&str>,
) -> bool {
    match tags.get(tags::SUBNET_ROLE).map(String::as_str) {
        Some("0") => false,
        // An empty value is no opt-in.
        None | Some("") => is_node_subnet,
        Some(_) => cluster.is_none_or(|cluster| names_cluster(tags, cluster)),
    }
}

/// Whether a subnet's cluster tags, if it has any, name `cluster`.
fn names_cluster(tags: &BTreeMap<String, String>, cluster: &str) -> bool {
    let mut named = tags.keys().filter_map(|key| key.strip_prefix(tags::SUBNET_CLUSTER_PREFIX)).peekable();
    named.peek().is_none() || named.any(|name| name == cluster)
}

impl SubnetChoice {
    /// The reading that finds the candidates, where they are to be found.
    pub(crate) fn query(&self) -> Option<SubnetQuery> {
        match self {
            Self::Fixed(_) => None,
            Self::Discover { vpc, zone, .. } => {
                Some(SubnetQuery::Discover { vpc: vpc.clone(), zone: zone.clone() })
            }
        }
    }
}

impl PoolState {
    /// Whether new leases may come from `eni` once it is attached: it is ours
    /// to use, and its subnet serves pods. One of ours that does not serve
    /// drains: its pods stay, and it is given back when the last has gone.
    pub fn serves(&self, eni: &Eni, targets: &Targets) -> bool {
        let subnet_serves = match (&targets.subnet_choice, eni.owner) {
            // A fixed choice is about new ENIs; `use_primary` decides here.
            (SubnetChoice::Fixed(_), Owner::Primary) => true,
            _ => self.subnet_serves(&eni.subnet, targets),
        };
        eni.is_managed(targets.use_primary) && subnet_serves
    }

    /// Subnets for new ENIs, the one with most free addresses first where they
    /// are discovered.
    pub fn new_eni_subnets(&self, targets: &Targets) -> Vec<SubnetId> {
        self.candidates(targets, |subnet| self.subnets.get(subnet).map_or(u32::MAX, |state| state.free()))
    }

    /// Subnets in which the pool could grow now: those for new ENIs and those
    /// of the ENIs that serve.
    pub fn growth_subnets(&self, targets: &Targets) -> Vec<SubnetId> {
        let mut all = self.candidates(targets, |_| 0);
        for eni in self.enis.values().filter(|eni| eni.is_attached() && self.serves(eni, targets)) {
            if !all.contains(&eni.subnet) {
                all.push(eni.subnet.clone());
            }
        }
        all
    }

    /// Whether ENIs in `subnet` serve pods. What has not been read is not
    /// held against it.
    pub(crate) fn subnet_serves(&self, subnet: &SubnetId, targets: &Targets) -> bool {
        match &targets.subnet_choice {
            // Nothing chosen (no ENIConfig yet): what is there goes on serving.
            SubnetChoice::Fixed(chosen) => chosen.is_empty() || chosen.contains(subnet),
            SubnetChoice::Discover { node_subnet, cluster, .. } => {
                let tags = self.subnets.get(subnet).and_then(|state| state.tags.as_ref());
                tags.is_none_or(|tags| is_offered(tags, subnet == node_subnet, cluster.as_deref()))
            }
        }
    }

    /// Subnets for a new ENI, the best first; `left` says how many addresses
    /// each can still give.
    pub(crate) fn candidates(&self, targets: &Targets, left: impl Fn(&SubnetId) -> u32) -> Vec<SubnetId> {
        match &targets.subnet_choice {
            SubnetChoice::Fixed(chosen) => chosen.clone(),
            SubnetChoice::Discover { vpc, zone, node_subnet, .. } => {
                if self.discovery.read_at.is_none() {
                    // Where it may not be read, the node's own is known to exist.
                    return Vec::from_iter(
                        self.subnet_serves(node_subnet, targets).then(|| node_subnet.clone()),
                    );
                }
                let mut found: Vec<&SubnetId> = self
                    .subnets
                    .iter()
                    .filter(|(id, state)| {
                        state.is_listed(self.discovery.read_at)
                            && state.vpc.as_ref().is_none_or(|known| known == vpc)
                            && state.zone.as_ref().is_none_or(|known| known == zone)
                            && self.subnet_serves(id, targets)
                    })
                    .map(|(id, _)| id)
                    .collect();
                found.sort_by_key(|id| std::cmp::Reverse(left(id)));
                found.into_iter().cloned().collect()
            }
        }
    }

    /// Whether the subnets are to be discovered (anew): at first, and as often
    /// as the ENIs are read.
    pub(crate) fn is_discovery_due(&self, targets: &Targets, now: Now) -> bool {
        targets.subnet_choice.query().is_some()
            && self.discovery.read_at.is_none_or(|at| now.since(at) >= self.rediscover_after(&targets.timing))
    }

    /// Whether growth must wait for the first look at the subnets.
    pub(crate) fn awaits_discovery(&self, targets: &Targets) -> bool {
        targets.subnet_choice.query().is_some() && self.discovery == Discovery::default()
    }
}

#[cfg(test)]
mod tests {
    use super::is_offered;
    use std::collections::BTreeMap;

    #[test]
    fn tags_offer_or_withhold_a_subnet() {
        const ROLE: &str = "kubernetes.io/role/cni";
        const OURS: &str = "cni.networking.k8s.aws/cluster/ours";
        const OTHER: &str = "cni.networking.k8s.aws/cluster/other";
        // tags, offered as the node's own, offered as another, with a cluster's name
        type Row = (&'static [(&'static str, &'static str)], bool, bool);
        let rows: &[Row] = &[
            (&[], true, false),
            (&[(ROLE, "1")], true, true),
            (&[(ROLE, "yes")], true, true),
            (&[(ROLE, "")], true, false),
            (&[(ROLE, "0")], false, false),
            (&[(ROLE, "1"), (OURS, "shared")], true, true),
            (&[(ROLE, "1"), (OTHER, "")], false, false),
            (&[(ROLE, "1"), (OTHER, ""), (OURS, "")], true, true),
            (&[(ROLE, "0"), (OURS, "")], false, false),
            (&[(OTHER, "")], true, false),
        ];
        for (tags, as_node, as_other) in rows {
            let tags: BTreeMap<String, String> =
                tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(is_offered(&tags, true, Some("ours")), *as_node, "the node's own: {tags:?}");
            assert_eq!(is_offered(&tags, false, Some("ours")), *as_other, "another: {tags:?}");
        }
    }

    #[test]
    fn without_a_cluster_name_cluster_tags_mean_nothing() {
        let tags = BTreeMap::from([
            ("kubernetes.io/role/cni".to_owned(), "1".to_owned()),
            ("cni.networking.k8s.aws/cluster/other".to_owned(), String::new()),
        ]);
        assert!(is_offered(&tags, false, None));
    }
}
