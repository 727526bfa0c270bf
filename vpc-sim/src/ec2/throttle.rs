//! How many calls the account may make: token buckets, as EC2 describes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::SimTime;

/// What the account is allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttling {
    /// Whether anything is refused at all.
    pub enabled: bool,
    /// What shares a bucket.
    pub mode: Mode,
    /// Tokens that a refused call takes as well. EC2 takes none.
    pub refused_cost: f64,
    /// Buckets other than EC2's own, by the bucket's name: that of the action,
    /// with `.unfiltered` behind it for a Describe without filter and paging, or
    /// in category mode `mutating`, `describe` or `describe.unfiltered`.
    pub rates: BTreeMap<String, Rate>,
}

impl Default for Throttling {
    fn default() -> Self {
        Self { enabled: true, mode: Mode::Action, refused_cost: 0.0, rates: BTreeMap::new() }
    }
}

/// What shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each action has its own, as EC2 does it now.
    Action,
    /// All mutating actions share one, and all Describes another two, as EC2 did it.
    Category,
}

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens it holds when full, and at the start.
    pub capacity: f64,
    /// Tokens it gains each second.
    pub refill_per_s: f64,
    /// Tokens that one call takes.
    #[serde(default = "one")]
    pub cost: f64,
}

fn one() -> f64 {
    1.0
}

impl Rate {
    const fn new(capacity: f64, refill_per_s: f64) -> Self {
        Self { capacity, refill_per_s, cost: 1.0 }
    }
}

/// The rate of a bucket that the settings do not name (EC2's published figures).
fn published_rate(bucket: &str) -> Rate {
    match bucket {
        "AssignPrivateIpAddresses"
        | "UnassignPrivateIpAddresses"
        | "AssignIpv6Addresses"
        | "CreateNetworkInterface"
        | "DeleteNetworkInterface"
        | "ModifyNetworkInterfaceAttribute" => Rate::new(100.0, 5.0),
        "CreateTags" | "DeleteTags" => Rate::new(100.0, 10.0),
        "mutating" => Rate::new(200.0, 5.0),
        _ if bucket.ends_with(".unfiltered") => Rate::new(50.0, 10.0),
        _ if bucket.starts_with("Describe") || bucket == "describe" => Rate::new(100.0, 20.0),
        _ => Rate::new(50.0, 5.0),
    }
}

/// The bucket that a call draws from. `narrowed`: it has a filter or asks for
/// pages; ids alone do not count, since EC2 does not say that they do.
fn bucket_of(mode: Mode, action: &str, narrowed: bool) -> String {
    let describes = action.starts_with("Describe");
    let splits = matches!(action, "DescribeNetworkInterfaces" | "DescribeInstances");
    let suffix = if splits && !narrowed { ".unfiltered" } else { "" };
    match mode {
        Mode::Action => format!("{action}{suffix}"),
        Mode::Category if describes => format!("describe{suffix}"),
        Mode::Category => "mutating".to_owned(),
    }
}

/// The account's buckets as they stand.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    levels: BTreeMap<String, Level>,
}

#[derive(Debug, Clone, Copy)]
struct Level {
    tokens: f64,
    at: SimTime,
}

impl Buckets {
    /// Draws for one call; whether it is allowed.
    pub(crate) fn draw(
        &mut self,
        throttling: &Throttling,
        now: SimTime,
        action: &str,
        narrowed: bool,
    ) -> bool {
        if !throttling.enabled {
            return true;
        }
        let bucket = bucket_of(throttling.mode, action, narrowed);
        let rate = throttling.rates.get(&bucket).copied().unwrap_or_else(|| published_rate(&bucket));
        let level = self.levels.entry(bucket).or_insert(Level { tokens: rate.capacity, at: now });
        let gained = now.since(level.at).as_secs_f64() * rate.refill_per_s;
        level.tokens = (level.tokens + gained).min(rate.capacity);
        level.at = level.at.max(now);
        if level.tokens >= rate.cost {
            level.tokens -= rate.cost;
            true
        } else {
            level.tokens = (level.tokens - throttling.refused_cost).max(0.0);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn second(n: u64) -> SimTime {
        SimTime(Duration::from_secs(1000 + n))
    }

    fn allowed(buckets: &mut Buckets, throttling: &Throttling, at: SimTime, calls: u32) -> usize {
        (0..calls).filter(|_| buckets.draw(throttling, at, "AssignPrivateIpAddresses", false)).count()
    }

    #[test]
    fn a_bucket_empties_and_refills() {
        let throttling = Throttling::default();
        let mut buckets = Buckets::default();
        assert_eq!(allowed(&mut buckets, &throttling, second(0), 150), 100);
        assert_eq!(allowed(&mut buckets, &throttling, second(2), 150), 10);
        assert_eq!(allowed(&mut buckets, &throttling, second(1000), 150), 100);
    }

    #[test]
    fn refused_calls_can_cost_too() {
        let throttling = Throttling { refused_cost: 1.0, ..Throttling::default() };
        let mut buckets = Buckets::default();
        assert_eq!(allowed(&mut buckets, &throttling, second(0), 100), 100);
        // 0.2 s apart, five a second: one token each, but the refused take it.
        let mut passed = 0;
        for n in 1..=10_u64 {
            let at = SimTime(Duration::from_millis(1_000_000 + n * 100));
            passed += allowed(&mut buckets, &throttling, at, 1);
        }
        assert_eq!(passed, 0);
    }

    #[test]
    fn each_call_draws_from_its_bucket() {
        for (mode, action, narrowed, expected) in [
            (Mode::Action, "DescribeInstances", true, "DescribeInstances"),
            (Mode::Action, "DescribeInstances", false, "DescribeInstances.unfiltered"),
            (Mode::Action, "DescribeSubnets", false, "DescribeSubnets"),
            (Mode::Action, "CreateTags", false, "CreateTags"),
            (Mode::Category, "CreateTags", false, "mutating"),
            (Mode::Category, "DescribeSubnets", false, "describe"),
            (Mode::Category, "DescribeNetworkInterfaces", false, "describe.unfiltered"),
        ] {
            assert_eq!(bucket_of(mode, action, narrowed), expected, "{action} {narrowed}");
        }
    }

    #[test]
    fn published_rates_stand_in_the_table() {
        for (bucket, capacity, refill) in [
            ("CreateNetworkInterface", 100.0, 5.0),
            ("AttachNetworkInterface", 50.0, 5.0),
            ("CreateTags", 100.0, 10.0),
            ("DescribeSubnets", 100.0, 20.0),
            ("DescribeNetworkInterfaces", 100.0, 20.0),
            ("DescribeNetworkInterfaces.unfiltered", 50.0, 10.0),
        ] {
            assert_eq!(published_rate(bucket), Rate::new(capacity, refill), "{bucket}");
        }
    }

    #[test]
    fn a_rate_of_ones_own_and_a_cost() {
        let mut throttling = Throttling::default();
        let rate = Rate { capacity: 10.0, refill_per_s: 1.0, cost: 5.0 };
        throttling.rates.insert("AssignPrivateIpAddresses".into(), rate);
        let mut buckets = Buckets::default();
        assert_eq!(allowed(&mut buckets, &throttling, second(0), 5), 2);
        assert_eq!(allowed(&mut buckets, &throttling, second(5), 5), 1);
        let off = Throttling { enabled: false, ..throttling };
        assert_eq!(allowed(&mut buckets, &off, second(5), 5), 5);
    }
}
