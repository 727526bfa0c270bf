//! aws-node's cases ipamd/warm_target and ipamd/warm_target_PD: what the pool holds by which knobs.

use anyhow::Result;

use super::{NODE, quick};
use system_tests::world::World;

/// What a row expects of an empty m5.large: three ENIs of ten addresses.
enum Holds {
    /// As many ENIs as EC2 has attached.
    Enis(usize),
    /// As many addresses.
    Addresses(u64),
    /// As many /28 prefixes.
    Prefixes(usize),
}

type Knobs = &'static [(&'static str, &'static str)];

const PD: (&str, &str) = ("ENABLE_PREFIX_DELEGATION", "true");

const ROWS: &[(Knobs, Holds)] = &[
    (&[("WARM_ENI_TARGET", "3"), ("MAX_ENI", "2")], Holds::Enis(2)),
    (&[("WARM_ENI_TARGET", "3")], Holds::Enis(3)),
    (&[("WARM_ENI_TARGET", "2")], Holds::Enis(2)),
    (&[("WARM_IP_TARGET", "2")], Holds::Addresses(2)),
    (&[("WARM_IP_TARGET", "16")], Holds::Addresses(16)),
    (&[("MINIMUM_IP_TARGET", "2")], Holds::Addresses(2)),
    (&[("MINIMUM_IP_TARGET", "16")], Holds::Addresses(16)),
    (&[("MINIMUM_IP_TARGET", "6"), ("WARM_IP_TARGET", "10")], Holds::Addresses(10)),
];

const PREFIX_ROWS: &[(Knobs, Holds)] = &[
    (&[PD, ("WARM_PREFIX_TARGET", "2")], Holds::Prefixes(2)),
    (&[PD, ("WARM_IP_TARGET", "2")], Holds::Prefixes(1)),
    (&[PD, ("WARM_IP_TARGET", "16")], Holds::Prefixes(1)),
    (&[PD, ("MINIMUM_IP_TARGET", "2")], Holds::Prefixes(1)),
    (&[PD, ("MINIMUM_IP_TARGET", "16")], Holds::Prefixes(1)),
    (&[PD, ("MINIMUM_IP_TARGET", "6"), ("WARM_IP_TARGET", "10")], Holds::Prefixes(1)),
    (&[PD, ("WARM_PREFIX_TARGET", "0"), ("MINIMUM_IP_TARGET", "20")], Holds::Prefixes(2)),
];

pub(crate) fn warm_targets() -> Result<()> {
    go_through(ROWS)
}

pub(crate) fn warm_prefixes() -> Result<()> {
    go_through(PREFIX_ROWS)
}

/// One node goes through all rows, so that each is reached from the one before.
fn go_through(rows: &[(Knobs, Holds)]) -> Result<()> {
    let mut world = World::of(1, "m5.large", &quick(rows[0].0))?;
    for (number, (knobs, holds)) in rows.iter().enumerate() {
        if number > 0 {
            world.kill_agent(NODE)?;
            world.set_environment(&quick(knobs));
        }
        world.start_agent(NODE)?;
        world.wait_until_ready(NODE)?;
        let reached = || -> Option<bool> {
            let enis = world.enis().ok()?;
            let prefixes =
                || enis.iter().map(|eni| system_tests::house::items(&eni["prefixes"]).count()).sum::<usize>();
            Some(match holds {
                Holds::Enis(count) => enis.len() == *count,
                Holds::Addresses(count) => {
                    prefixes() == 0
                        && world.debug(NODE, "pool").ok()?["addresses"]["total"].as_u64() == Some(*count)
                }
                Holds::Prefixes(count) => prefixes() == *count,
            })
        };
        world.wait(&format!("the pool is as {knobs:?} say"), || reached()?.then_some(()))?;
        world.two_readings()?;
        world.wait(&format!("the pool stays as {knobs:?} say"), || reached()?.then_some(()))?;
    }
    Ok(())
}
