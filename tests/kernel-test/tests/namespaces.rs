//! The test front tries itself: namespaces are separate, entered, and gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use kernel_test::{Feature, Need, NetNs, REQUIRED, trial, wait_for};

fn main() {
    kernel_test::run(vec![
        trial("every_required_feature_is_found", &[Need::Root], || {
            for feature in REQUIRED {
                feature.check().map_err(anyhow::Error::msg)?;
            }
            Ok(())
        }),
        trial("optional_features_answer_either_way", &[], || {
            for feature in [Feature::Vlan, Feature::Sctp] {
                if let Err(reason) = feature.check() {
                    ensure!(reason.contains(&feature.to_string()), "{reason}");
                }
            }
            Ok(())
        }),
        trial("links_stay_inside", &[Need::NetNs], links_stay_inside),
        trial("mounts_stay_inside", &[Need::Mounts, Need::Bpf], mounts_stay_inside),
        trial("a_namespace_ends_with_its_value", &[Need::NetNs], || {
            let path = NetNs::new()?.path().to_path_buf();
            ensure!(!path.exists(), "{path:?} is still there");
            Ok(())
        }),
        trial("a_value_comes_back_from_inside", &[Need::NetNs], || {
            let here = std::fs::read_link("/proc/thread-self/ns/net")?;
            let ns = NetNs::new()?;
            let there = ns.run(|| std::fs::read_link("/proc/thread-self/ns/net"))?;
            ensure!(here != there);
            ensure!(there == std::fs::read_link(ns.path())?);
            Ok(())
        }),
        trial("waiting_in_vain_names_what", &[], || {
            let error =
                wait_for("the moon", Duration::from_millis(1), || None::<()>).expect_err("nothing ever came");
            ensure!(error.to_string().contains("the moon"));
            Ok(())
        }),
        trial("an_unmet_need_has_a_reason", &[], || {
            let reason = Need::Tool("no-such-command").check();
            ensure!(reason.is_err_and(|text| text.contains("no-such-command")));
            ensure!(Need::Env("TIDEPOOL_NEVER_SET").check().is_err());
            ensure!(!Need::Tool("go").is_required() && Need::Bpf.is_required());
            Ok(())
        }),
    ]);
}

fn links_stay_inside() -> Result<()> {
    let (one, two) = (NetNs::new()?, NetNs::new()?);
    one.ip("link add probe0 type veth peer name probe1\nlink set probe0 up")?;
    ensure!(one.output("ip", &["link"])?.contains("probe0"));
    ensure!(!two.output("ip", &["link"])?.contains("probe0"));
    Ok(())
}

fn mounts_stay_inside() -> Result<()> {
    let ns = NetNs::with_mounts()?;
    ns.run(|| {
        nix::mount::mount(Some("bpf"), "/mnt", Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>)
    })?;
    let inside = ns.run(|| std::fs::read_to_string("/proc/thread-self/mounts"))?;
    let outside = std::fs::read_to_string("/proc/thread-self/mounts")?;
    ensure!(inside.contains(" /mnt bpf "), "{inside}");
    ensure!(!outside.contains(" /mnt bpf "), "{outside}");
    Ok(())
}
