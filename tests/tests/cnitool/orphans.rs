//! A sandbox that goes without a DEL.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::house::{items, text};

use crate::NODE;
use crate::invoker::{List, SOCKET, Sandbox, node_with, nothing_left, ours};

pub(crate) fn link_gone() -> Result<()> {
    let mut world = node_with(&[])?;
    let list = List { world: &world, version: "1.0.0", plugins: vec![ours(SOCKET)], wishes: json!({}) };
    let (mut gone, mut renamed, mut stays) =
        (Sandbox::new("gone")?, Sandbox::new("renamed")?, Sandbox::new("stays")?);
    for sandbox in [&mut gone, &mut renamed, &mut stays] {
        list.add(sandbox)?;
    }
    let (address, result) = (gone.address()?, gone.result.clone());
    let host_end = |sandbox: &Sandbox| -> Result<String> {
        Ok(text(&sandbox.result.as_ref().context("added")?["interfaces"][0]["name"]).to_owned())
    };
    let link = host_end(&renamed)?;
    world.inside(NODE, &["ip", "link", "set", &link, "name", "else"])?;
    drop(gone);
    world.wait("the lease of the one without a link is gone", || {
        let pool = world.debug(NODE, "pool").ok()?;
        (pool["addresses"]["leased"] == 2 && pool["addresses"]["cooling"] == 1).then_some(())
    })?;
    ensure!(world.metric(NODE, "tidepool_orphaned_leases_total")? == Some(1.0));
    let endpoints = world.debug(NODE, "endpoints")?;
    ensure!(!items(&endpoints).any(|one| one["address"] == json!(address)), "{endpoints:#}");
    let rules = world.inside(NODE, &["ip", "rule", "show"])?;
    ensure!(!rules.contains(&format!("{address} ")), "{rules}");
    stays.must_answer(&world)?;

    // The one whose link has another name keeps what it has, whichever agent comes.
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    renamed.must_answer(&world)?;
    let list = List { world: &world, version: "1.0.0", plugins: vec![ours(SOCKET)], wishes: json!({}) };

    // The DEL may come yet; and the container again, under the same id.
    let mut again = Sandbox::new("gone")?;
    again.result = result;
    list.del(&again)?;
    list.add(&mut again)?;
    again.must_answer(&world)?;
    for sandbox in [&again, &renamed, &stays] {
        list.del(sandbox)?;
    }
    nothing_left(&world)
}
