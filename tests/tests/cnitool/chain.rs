//! Plugins of others before and after ours.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::house::items;

use crate::invoker::{List, SOCKET, Sandbox, node_with, nothing_left, ours};
use crate::{DEBIAN, NODE};

/// A plugin that comes before ours: it gives the sandbox a link of its own and says so.
const FIRST: &str = r#"#!/bin/sh
cat > /dev/null
case $CNI_COMMAND in
ADD)
    nsenter --net="$CNI_NETNS" ip link add aux0 type veth peer name aux1 || exit 1
    printf '{"cniVersion":"%s","interfaces":[{"name":"aux0","mac":"02:00:00:00:00:aa","sandbox":"%s"}],' "$VERSION" "$CNI_NETNS"
    printf '"ips":[{%s"address":"192.168.77.2/24","interface":0}],"dns":{"search":["first.example"]}}' "$FAMILY"
    ;;
DEL) nsenter --net="$CNI_NETNS" ip link del aux0 2> /dev/null; true ;;
esac
"#;

pub(crate) fn others() -> Result<()> {
    let debian = |name| format!("{DEBIAN}/{name}");
    let (portmap, bandwidth, tuning) = (debian("portmap"), debian("bandwidth"), debian("tuning"));
    let world = node_with(&[("portmap", &portmap), ("bandwidth", &bandwidth), ("tuning", &tuning)])?;
    // What the agent wrote names both, in versions that both know, and its own plugin hears of rates.
    let text = world.inside(NODE, &["cat", "/etc/cni/net.d/05-tidepool.conflist"])?;
    let conflist: serde_json::Value = serde_json::from_str(&text)?;
    let types: Vec<_> = items(&conflist["plugins"]).map(|plugin| &plugin["type"]).collect();
    ensure!(types == ["tidepool-cni", "portmap", "bandwidth"], "{text}");
    ensure!(conflist["cniVersions"] == json!(["0.4.0", "1.0.0"]), "{text}");

    for (version, family) in [("0.4.0", r#"\"version\":\"4\","#), ("1.0.0", "")] {
        let script = FIRST.replace("$VERSION", version).replace("$FAMILY", family);
        world.inside(
            NODE,
            &[
                "sh",
                "-ec",
                &format!("cat > /opt/cni/bin/first <<'END'\n{script}END\nchmod 755 /opt/cni/bin/first"),
            ],
        )?;
        let mut plugins = vec![
            json!({"type": "first"}),
            json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}, "mtu": 1400}),
        ];
        let ours = json!({"capabilities": {"bandwidth": true}, "type": "tidepool-cni", "socket": SOCKET});
        plugins.insert(1, ours);
        plugins.extend(items(&conflist["plugins"]).skip(1).cloned());
        let wishes = json!({
            "portMappings": [{"hostPort": 18080, "containerPort": 7000, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000,
                          "egressRate": 80_000_000, "egressBurst": 8_000_000},
        });
        let list = List { world: &world, version, plugins, wishes };
        let mut sandbox = Sandbox::new(&format!("chained-{version}"))?;
        list.add(&mut sandbox)?;
        let result = sandbox.result.clone().context("a result")?;
        ensure!(result["interfaces"][0]["name"] == "aux0", "{result:#}");
        ensure!(
            result["interfaces"][2]["name"] == "eth0" && result["ips"][1]["interface"] == 2,
            "{result:#}"
        );
        ensure!(result["dns"]["search"][0] == "first.example", "{result:#}");
        let link = sandbox.ns.output("ip", &["link", "show", "eth0"])?;
        ensure!(link.contains("mtu 1400"), "{link}");
        let host = world.inside(NODE, &["tc", "qdisc", "show"])?;
        ensure!(host.contains("qdisc tbf") && host.contains("qdisc ingress"), "{host}");
        let rules = world.inside(NODE, &["iptables-save", "-t", "nat"])?;
        ensure!(rules.contains("--dport 18080"), "{rules}");
        sandbox.must_answer(&world)?;
        // Portmap's own CHECK fails in Debian's version whatever there is.
        list.check(&sandbox, &["tidepool-cni", "tuning", "bandwidth"])?;
        list.del(&sandbox)?;
        list.del(&sandbox).context("again")?;
        nothing_left(&world)?;
        let rules = world.inside(NODE, &["iptables-save", "-t", "nat"])?;
        ensure!(!rules.contains("--dport 18080"), "{rules}");
    }

    // Alone in the newest version; and before a plugin that fails.
    let ours = ours(SOCKET);
    let list = List { world: &world, version: "1.1.0", plugins: vec![ours.clone()], wishes: json!({}) };
    let mut sandbox = Sandbox::new("newest")?;
    list.add(&mut sandbox)?;
    sandbox.must_answer(&world)?;
    list.check(&sandbox, &["tidepool-cni"])?;
    list.del(&sandbox)?;
    let list = List { plugins: vec![ours.clone(), json!({"type": "nowhere"})], ..list };
    list.add(&mut sandbox).expect_err("there is no such plugin");
    // Its DEL failed at that plugin, too; ours is repeated by the runtime.
    let list = List { plugins: vec![ours], ..list };
    list.del(&sandbox)?;
    nothing_left(&world)
}
