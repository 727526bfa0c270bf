//! aws-node's case cni/PD_toggle: modes change on a running node.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};

use super::{NODE, quick};
use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, World};

const PREFIX: (&str, &str) = ("ENABLE_PREFIX_DELEGATION", "true");

fn say(stream: &mut TcpStream, word: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == word.as_bytes(), "{}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn prefixes(world: &World) -> Result<usize> {
    Ok(world.enis()?.iter().map(|eni| items(&eni["prefixes"]).count()).sum())
}

fn in_prefix(world: &World, address: IpAddr) -> Result<bool> {
    let enis = world.enis()?;
    let mut all = enis.iter().flat_map(|eni| items(&eni["prefixes"]));
    Ok(all.any(|prefix| super::is_in(address, text(prefix)).unwrap_or(false)))
}

pub(crate) fn mode_switch() -> Result<()> {
    // No warm ones: one of a /28 would keep all of it.
    let secondary = quick(&[("MINIMUM_IP_TARGET", "2")]);
    let prefix: Vec<_> = secondary.iter().copied().chain([PREFIX]).collect();
    let mut world = World::of(1, "m5.large", &secondary)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&(pod("a", NODE, "a") + &pod("b", NODE, "a")))?;
    let mut running: BTreeMap<&str, IpAddr> = BTreeMap::new();
    for name in ["a", "b"] {
        running.insert(name, world.address_of(name)?);
    }
    let mut held = world.connect("a", "b")?;
    say(&mut held, "before")?;
    ensure!(prefixes(&world)? == 0, "a prefix in secondary mode");

    let still = |world: &World, running: &BTreeMap<&str, IpAddr>| -> Result<()> {
        for (name, address) in running {
            ensure!(world.address_of(name)? == *address, "{name} has another address");
            world.must_reach(name, INTERNET.0)?;
        }
        Ok(())
    };
    for (environment, newcomers, in_a_prefix) in
        [(&prefix, ["c", "d"], true), (&secondary, ["e", "f"], false)]
    {
        world.kill_agent(NODE)?;
        world.set_environment(environment);
        world.start_agent(NODE)?;
        world.wait_until_ready(NODE)?;
        say(&mut held, "agent away and back")?;
        // What is warm of the former mode serves first; enough come to need the new one.
        let crowd: Vec<String> = (0..4).map(|number| format!("crowd-{}-{number}", newcomers[0])).collect();
        world.apply(&crowd.iter().map(|name| pod(name, NODE, "crowd")).collect::<String>())?;
        world.wait_for_pods(&crowd.iter().map(String::as_str).collect::<Vec<_>>())?;
        world.apply(&newcomers.iter().map(|name| pod(name, NODE, "a")).collect::<String>())?;
        let mut in_new_mode = 0;
        for name in newcomers {
            let address = world.address_of(name)?;
            in_new_mode += usize::from(in_prefix(&world, address)? == in_a_prefix);
            running.insert(name, address);
        }
        // Addresses of a /28 that is there are used up before a single one is asked for.
        ensure!(!in_a_prefix || in_new_mode > 0, "nobody has an address of a prefix");
        world.delete(&crowd.iter().map(|name| pod(name, NODE, "crowd")).collect::<String>())?;
        still(&world, &running)?;
        say(&mut held, "newcomers")?;
    }

    // Back in secondary mode, with the last pod of a prefix the prefix goes.
    let in_prefixes: Vec<&str> = running
        .iter()
        .filter(|(_, address)| in_prefix(&world, **address).unwrap_or(false))
        .map(|(name, _)| *name)
        .collect();
    ensure!(!in_prefixes.is_empty(), "no pod in a prefix is left to be kept");
    world.two_readings()?;
    ensure!(prefixes(&world)? > 0, "a prefix with pods was given back");
    still(&world, &running)?;
    world.delete(&in_prefixes.iter().map(|name| pod(name, NODE, "a")).collect::<String>())?;
    running.retain(|name, _| !in_prefixes.contains(name));
    world.wait("empty prefixes are given back", || (prefixes(&world).ok()? == 0).then_some(()))?;
    still(&world, &running)?;
    if !in_prefixes.contains(&"a") && !in_prefixes.contains(&"b") {
        say(&mut held, "after")?;
    }
    let calls: Value = world.control("/calls/log", None)?;
    ensure!(!items(&calls).any(|call| call["operation"] == "DetachNetworkInterface" && call["node"] != NODE));
    Ok(())
}
