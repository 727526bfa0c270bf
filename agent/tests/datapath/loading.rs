//! Opening, pins, and what stands in the maps.

use anyhow::{Result, ensure};
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, OpenError};

use super::world::{MAC, Node, ip, object, options, rules, sets};

pub(crate) fn an_empty_object_is_refused() -> Result<()> {
    let refused = Datapath::open(&[], "/sys/fs/bpf/nowhere".as_ref(), &options());
    ensure!(matches!(refused, Err(OpenError::NoObject)), "{refused:?}");
    Ok(())
}

pub(crate) fn maps_outlive_the_agent() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |dp| {
        ensure!(dp.last_epoch()? == 0);
        dp.set_endpoint(7, &EndpointSpec { ifindex: 1, mac: MAC, ..EndpointSpec::default() })?;
        dp.apply(&[sets(7, 3, 0, 9)])?;
        Ok(())
    })?;
    // Another agent finds them, and the epoch is not given out again.
    node.with(&options(), |dp| {
        ensure!(dp.last_epoch()? == 9);
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

pub(crate) fn a_pinned_map_of_another_shape_is_refused() -> Result<()> {
    let node = Node::new()?;
    node.with(&options(), |_| Ok(()))?;
    let object = object()?;
    node.ns.run(|| {
        let pins = node.root.join(format!("v{}", ebpf_common::abi::ABI_VERSION));
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
