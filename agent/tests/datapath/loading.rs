//! Opening, pins, and what stands in the maps.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::{ABI_SECTION, ABI_VERSION, PeerValue, PortAction, PortKey, PortValue, map};
use object::{Object, ObjectSection};
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, OpenError};

use super::world::{MAC, Node, ip, object, options, row, rules, sets};

pub(crate) fn an_empty_object_is_refused() -> Result<()> {
    let refused = Datapath::open(&[], "/sys/fs/bpf/nowhere".as_ref(), &options());
    ensure!(matches!(refused, Err(OpenError::NoObject)), "{refused:?}");
    Ok(())
}

pub(crate) fn programs_of_other_layouts_are_refused() -> Result<()> {
    let own = object()?;
    let root = "/sys/fs/bpf/nowhere".as_ref();
    let file = object::File::parse(&*own)?;
    let section = file.section_by_name(ABI_SECTION).context("the object says its version")?;
    let (start, _) = section.file_range().context("in the file")?;
    let mut newer = own.clone();
    newer[usize::try_from(start)?] = 99;
    let refused = Datapath::open(&newer, root, &options());
    ensure!(matches!(refused, Err(OpenError::Object { found: Some(99), .. })), "{refused:?}");

    let name = own.windows(ABI_SECTION.len()).rposition(|bytes| bytes == ABI_SECTION.as_bytes());
    let mut older = own.clone();
    older[name.context("its name is there")?] = b'x';
    let refused = Datapath::open(&older, root, &options());
    ensure!(matches!(refused, Err(OpenError::Object { found: None, .. })), "{refused:?}");
    let said = refused.map_or_else(|error| error.to_string(), |_| String::new());
    ensure!(said.contains("cargo xtask build"), "{said}");
    Ok(())
}

pub(crate) fn maps_outlive_the_agent() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |dp| {
        ensure!(dp.last_epoch()? == 0 && dp.is_fresh());
        dp.set_endpoint(7, &EndpointSpec { ifindex: 1, mac: MAC, ..EndpointSpec::default() })?;
        dp.apply(&[sets(7, 3, 0, 9)])?;
        Ok(())
    })?;
    // Another agent finds them, and the epoch is not given out again.
    node.with(&options(), |dp| {
        ensure!(dp.last_epoch()? == 9 && !dp.is_fresh());
        ensure!(dp.endpoints()?.len() == 1);
        dp.apply(&[sets(7, 3, 0, 4)])?;
        ensure!(dp.last_epoch()? == 9, "the highest stays");
        dp.clear_endpoint(7)?;
        ensure!(dp.endpoints()?.is_empty());
        ensure!(dp.slot_of(1)?.is_none());
        Ok(())
    })
}

pub(crate) fn only_bpffs_holds_pins() -> Result<()> {
    let object = object()?;
    let elsewhere = tempfile::tempdir()?;
    let refused = Datapath::open(&object, &elsewhere.path().join("pins"), &options());
    ensure!(matches!(refused, Err(OpenError::NotBpffs { .. })), "{refused:?}");
    Ok(())
}

pub(crate) fn pins_of_older_layouts_go() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |dp| {
        ensure!(dp.unpin_older()? == 0);
        Ok(())
    })?;
    // What an agent before this one would have left, and something that is not ours.
    let (own, old) = (node.root.join(format!("v{ABI_VERSION}")), node.root.join("v1"));
    node.ns.run(|| {
        std::fs::create_dir(&old)?;
        for (from, to) in [("ct", "ct"), ("vip", "link_7_from_pod"), ("row", "of_others")] {
            std::fs::rename(own.join(from), old.join(to))?;
        }
        anyhow::Ok(())
    })?;
    node.with(&options(), |dp| {
        ensure!(dp.unpin_older()? == 1);
        Ok(())
    })?;
    ensure!(node.pinned("tidepool/v1")? == ["of_others"], "{:?}", node.pinned("tidepool/v1")?);
    ensure!(node.pinned(&format!("tidepool/v{ABI_VERSION}"))?.len() == map::ALL.len());
    node.ns.run(|| std::fs::remove_file(old.join("of_others")))?;
    node.with(&options(), |dp| {
        dp.unpin_older()?;
        ensure!(!old.exists(), "the empty folder is left");
        Ok(())
    })
}

pub(crate) fn a_pinned_map_of_another_shape_is_refused() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |_| Ok(()))?;
    let object = object()?;
    node.ns.run(|| {
        let pins = node.root.join(format!("v{ABI_VERSION}"));
        std::fs::remove_file(pins.join("row"))?;
        std::fs::rename(pins.join("peer6"), pins.join("row"))?;
        let refused = Datapath::open(&object, &node.root, &options());
        ensure!(matches!(refused, Err(OpenError::PinnedMap { name: "row", .. })), "{refused:?}");
        Ok(())
    })
}

pub(crate) fn what_is_applied_is_read_back() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |dp| {
        let steps = rules()?;
        dp.apply(&steps)?;
        // Repeating is harmless.
        dp.apply(&steps)?;
        let mut expected = policy_core::Tables::default();
        steps.iter().for_each(|step| expected.record(step));
        let found = dp.installed()?;
        ensure!(found == expected, "{found:#?}\n{expected:#?}");
        let removals = [
            Step::RemovePeers(expected.peers.keys().copied().collect()),
            Step::RemoveVips(expected.vips.keys().copied().collect()),
            Step::RemoveCidrs(expected.cidrs.keys().copied().collect()),
            Step::Grace,
            Step::RemoveRows(expected.rows.keys().copied().collect()),
            Step::RemovePorts(expected.ports.keys().copied().collect()),
        ];
        dp.apply(&removals)?;
        dp.apply(&removals)?;
        ensure!(dp.installed()? == policy_core::Tables::default());
        Ok(())
    })
}

pub(crate) fn thousands_of_entries_are_written_and_removed_at_once() -> Result<()> {
    const COUNT: u32 = 9000;
    let node = Node::new()?;
    let mut roomy = options();
    (roomy.sizes.rows, roomy.sizes.ports, roomy.sizes.peers) = (COUNT, COUNT, COUNT);
    node.with(&roomy, |dp| {
        let address = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        let peers = (0..COUNT).map(|number| (address(number), PeerValue::new(address(number), number)));
        let ports = (0..COUNT).map(|number| (PortKey::any(number), PortValue::new(PortAction::Deny, number)));
        let steps = [
            Step::AddPorts(ports.collect()),
            Step::AddRows((0..COUNT).map(|number| row(1, number, 0, number)).collect()),
            Step::SetPeers(peers.collect()),
        ];
        dp.apply(&steps)?;
        let mut expected = policy_core::Tables::default();
        steps.iter().for_each(|step| expected.record(step));
        ensure!(dp.installed()? == expected, "not all were written");

        // Every third is gone already when all go.
        let some = |part: u32| (0..COUNT).filter(move |number| number % 3 == 0 || part == 0);
        for part in [1, 0] {
            dp.apply(&[
                Step::RemovePeers(some(part).map(address).collect()),
                Step::RemoveRows(some(part).map(|number| row(1, number, 0, 0).0).collect()),
                Step::RemovePorts(some(part).map(PortKey::any).collect()),
            ])?;
        }
        ensure!(dp.installed()? == policy_core::Tables::default(), "not all were removed");

        // A full map says so, and what went in before stays.
        let over = (0..=COUNT).map(|number| (PortKey::any(number), PortValue::new(PortAction::Allow, 1)));
        let refused = dp.apply(&[Step::AddPorts(over.collect())]);
        ensure!(refused.is_err(), "the map has no room for {}", COUNT + 1);
        ensure!(dp.installed()?.ports.len() == COUNT as usize);
        Ok(())
    })
}

pub(crate) fn a_replaced_endpoint_begins_closed() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |dp| {
        let spec =
            EndpointSpec { ifindex: 1, mac: MAC, ..EndpointSpec::default() }.with_address(ip("10.0.0.1")?);
        dp.set_endpoint(3, &spec)?;
        dp.apply(&[sets(3, 5, 6, 8)])?;
        dp.set_endpoint(3, &EndpointSpec { budget: 10, ..spec })?;
        let kept = dp.installed()?;
        ensure!(kept.endpoints[&3].epoch == 8 && kept.endpoints[&3].ingress.0 == 5, "the same pod: {kept:?}");
        dp.set_endpoint(3, &EndpointSpec { mac: [2; 6], ..spec })?;
        let fresh = dp.installed()?;
        ensure!(
            fresh.endpoints[&3].epoch == 0 && fresh.endpoints[&3].ingress.0 == 0,
            "another pod: {fresh:?}"
        );
        Ok(())
    })
}
