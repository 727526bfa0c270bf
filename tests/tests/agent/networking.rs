//! Where addresses come from, and how far the pool may go for them: custom networking, discovered subnets, ENIs
//! of others, nodes that are cordoned or end, and modes that change on a running node.
//!
//! The cases are those of aws-node's own suites (custom-networking, eni-subnet-discovery, ipamd/warm_target,
//! cni/PD_toggle), on a simulated VPC.

#[path = "networking/custom.rs"]
mod custom;
#[path = "networking/discovery.rs"]
mod discovery;
#[path = "networking/foreign.rs"]
mod foreign;
#[path = "networking/modes.rs"]
mod modes;
#[path = "networking/node_state.rs"]
mod node_state;
#[path = "networking/targets.rs"]
mod targets;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use serde_json::Value;
use system_tests::house::{items, text};

type Body = fn() -> Result<()>;

/// All of them, by what they show.
pub(crate) const TESTS: &[(&str, Body)] = &[
    ("custom_networking_follows_the_nodes_eni_config", custom::custom_networking),
    ("new_enis_are_made_in_the_discovered_subnet_with_most_room", discovery::discovery),
    ("without_leave_to_describe_subnets_the_nodes_own_serves", discovery::discovery_refused),
    ("enis_of_others_are_counted_and_never_touched", foreign::foreign_enis),
    ("security_groups_follow_the_primary_eni_by_one_call", foreign::security_groups),
    ("a_cordoned_node_grows_for_waiting_pods_only", node_state::cordoned),
    ("an_instance_that_ends_changes_nothing_and_says_so", node_state::terminating),
    ("addresses_that_others_provision_are_used", node_state::provisioned_by_others),
    ("modes_switch_under_running_pods", modes::mode_switch),
    ("the_pool_holds_what_its_targets_say", targets::warm_targets),
    ("the_pool_holds_as_many_prefixes_as_its_targets_say", targets::warm_prefixes),
];

/// The node of these tests.
const NODE: &str = "node-1";
/// A pool that reads EC2 every second and has no patience; the simulated EC2 has no lag.
const QUICK: &[(&str, &str)] = &[
    ("TIDEPOOL_RECONCILE_PERIOD", "1"),
    ("TIDEPOOL_SHRINK_AFTER", "0.5"),
    ("TIDEPOOL_ENI_MIN_AGE", "0.5"),
    ("TIDEPOOL_GIVE_UP_AFTER", "2"),
    ("TIDEPOOL_DELETE_DELAY", "0.2"),
    ("TIDEPOOL_EC2_LAG", "0.5"),
    ("IP_COOLDOWN_PERIOD", "1"),
    ("TIDEPOOL_LOG", "info"),
];
/// [`QUICK`] and more.
fn quick<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

/// The first `<name>…</name>` of an answer.
fn field<'a>(xml: &'a str, name: &str) -> Result<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>")).with_context(|| format!("no {name} in {xml}"))?;
    Ok(rest.split('<').next().unwrap_or_default())
}

fn is_in(address: std::net::IpAddr, cidr: &str) -> Result<bool> {
    Ok(cidr.parse::<IpNetwork>()?.contains(address))
}

/// A list of text as a set.
fn set(value: &Value) -> BTreeSet<String> {
    items(value).map(|one| text(one).to_owned()).collect()
}
