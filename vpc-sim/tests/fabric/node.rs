//! A node as its image leaves it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, Trial, trial};
use vpc_sim::fabric::ns::NodeNs;
use vpc_sim::fabric::{Fabric, NodeImage};

const NEEDS: &[Need] = &[Need::Root, Need::NetNs, Need::Mounts];

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_node_starts_as_the_hardest_image_leaves_it", NEEDS, start_state),
        trial("a_node_has_its_file_system_to_itself", NEEDS, file_system),
        trial("directories_below_run_and_var_can_stay_visible", NEEDS, visible),
        trial("a_namespace_can_be_entered_by_its_path", NEEDS, entered_by_path),
        trial("a_name_is_given_once", NEEDS, named_once),
    ]
}

fn node(image: &NodeImage) -> Result<(tokio::runtime::Runtime, Fabric, NodeNs)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fabric = {
        let _inside = runtime.enter();
        Fabric::new(&["10.20.0.0/16".parse()?])?
    };
    let node = fabric.add_node("n", image)?;
    Ok((runtime, fabric, node))
}

fn read(node: &NodeNs, path: &str) -> Result<String> {
    Ok(node.run(|| fs::read_to_string(path))?.with_context(|| path.to_owned())?.trim().to_owned())
}

fn start_state() -> Result<()> {
    let (_runtime, _fabric, hard) = node(&NodeImage::default())?;
    for (setting, value) in
        [("ipv4/ip_forward", "0"), ("ipv4/conf/all/rp_filter", "1"), ("ipv4/conf/default/rp_filter", "1")]
    {
        let found = read(&hard, &format!("/proc/sys/net/{setting}"))?;
        ensure!(found == value, "{setting} is {found}");
    }
    ensure!(read(&hard, "/sys/class/net/lo/operstate")? == "unknown", "lo is up");
    let (_runtime, _fabric, soft) = node(&NodeImage { ip_forward: true, ..NodeImage::default() })?;
    ensure!(read(&soft, "/proc/sys/net/ipv4/ip_forward")? == "1");
    Ok(())
}

fn file_system() -> Result<()> {
    let (_runtime, _fabric, node) = node(&NodeImage::default())?;
    let marks = ["/run/mark", "/var/mark", "/etc/cni/net.d/mark", "/opt/cni/bin/mark", "/etc/mark-of-a-test"];
    node.run(|| marks.iter().try_for_each(|path| fs::write(path, "x")))??;
    for path in marks {
        ensure!(!Path::new(path).exists(), "{path} shows on the machine");
    }
    let listing = |path: &'static str| -> Result<Vec<String>> {
        let entries = node.run(|| fs::read_dir(path))??;
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    ensure!(listing("/sys/class/net")? == ["lo"], "{:?}", listing("/sys/class/net")?);
    ensure!(!listing("/sys/fs/cgroup")?.is_empty(), "cgroups are there");
    ensure!(!listing("/etc")?.is_empty() && listing("/etc")?.contains(&"passwd".to_owned()));
    ensure!(node.run(|| fs::read_link("/var/run"))?? == Path::new("/run"));
    // A map's place of its own, not the machine's.
    node.run(|| fs::create_dir("/sys/fs/bpf/mark"))??;
    ensure!(!Path::new("/sys/fs/bpf/mark").exists());
    Ok(())
}

fn visible() -> Result<()> {
    let below_var = tempfile::tempdir_in("/var/tmp")?;
    let kept = below_var.path().join("kept");
    fs::create_dir(&kept)?;
    fs::write(kept.join("file"), "seen")?;
    fs::write(below_var.path().join("other"), "unseen")?;
    let image = NodeImage { visible: vec![kept.clone(), PathBuf::from("/usr")], ..NodeImage::default() };
    let (_runtime, _fabric, node) = node(&image)?;
    let file = kept.join("file");
    ensure!(node.run(|| fs::read_to_string(&file))?? == "seen");
    let other = below_var.path().join("other");
    ensure!(!node.run(|| other.exists())?);
    Ok(())
}

fn entered_by_path() -> Result<()> {
    let (_runtime, _fabric, node) = node(&NodeImage::default())?;
    node.run(|| fs::write("/run/mark", "here"))??;
    let output = Command::new("nsenter")
        .arg(format!("--net={}", node.net().path().display()))
        .arg(format!("--mount={}", node.mnt_path().display()))
        .args(["sh", "-c", "cat /run/mark; ls /sys/class/net"])
        .output()?;
    ensure!(output.stdout == b"herelo\n", "{output:?}");
    Ok(())
}

fn named_once() -> Result<()> {
    let (_runtime, fabric, _node) = node(&NodeImage::default())?;
    ensure!(fabric.add_node("n", &NodeImage::default()).is_err());
    ensure!(fabric.node("n").is_some() && fabric.node("m").is_none());
    Ok(())
}
