//! The node's network and files as aws-node sets them up when it starts.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Options;
use super::cloud::Eni;
use crate::house::{items, text};
use crate::world::World;

/// What the kubelet's plugins write and read beside the checkpoint.
pub(super) const STATE: &str = "/run/aws-node-stand-in";
/// Its list of networks.
pub const CONFLIST: &str = "/etc/cni/net.d/10-aws.conflist";
const PLUGIN: &str = include_str!("plugin.sh");
/// Where Debian has the plugin that is chained.
const PORTMAP: &str = "/usr/lib/cni/portmap";

/// Links, addresses, routes, rules and translation, from whatever is there already.
pub(super) fn set_up(world: &World, node: &str, options: &Options, enis: &[Eni]) -> Result<()> {
    let subnet = items(&world.up["subnets"])
        .find(|subnet| Some(&subnet["id"]) == world.node(node).ok().map(|node| &node["subnet_id"]))
        .context("no subnet")?;
    let subnet: ipnetwork::Ipv4Network = text(&subnet["cidr"]).parse()?;
    let gateway = subnet.nth(1).context("a subnet without a gateway")?;
    let primary = enis.first().context("no primary interface")?.primary;
    let mut script = String::from(
        "echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter\necho 1 >/proc/sys/net/ipv4/tcp_early_demux\n\
         ip link set eth0 mtu 9001\nip rule del pref 1024 fwmark 0x80/0x80 2>/dev/null || true\n\
         ip rule add pref 1024 fwmark 0x80/0x80 lookup main protocol 0\n",
    );
    for eni in enis.iter().filter(|eni| eni.device > 0) {
        let link = link_of(world, node, &eni.mac)?;
        let (own, table) = (eni.primary, eni.table());
        let bits = subnet.prefix();
        // The address goes and comes, and with it the routes, at each of its starts.
        script.push_str(&format!(
            "ip link set {link} mtu 9001 up\nip -4 address flush dev {link} scope global\n\
             ip address add {own}/{bits} brd + dev {link}\n\
             ip route replace {gateway} dev {link} scope link table {table}\n\
             ip route replace default via {gateway} dev {link} table {table}\n\
             ip route del {subnet} src {own} scope link table main\n\
             ip rule add pref 32765 from {own} lookup {table} protocol 0 2>/dev/null || true\n",
            subnet = ipnetwork::Ipv4Network::new(subnet.network(), bits)?,
        ));
    }
    script.push_str(&format!(
        "if ! {tool}-save | grep -q 'AWS, primary ENI'; then\n{rules}fi\n",
        tool = options.firewall.tool(),
        rules = options.firewall.script(text(&world.up["vpc"]["cidr"]), primary, options.external_snat),
    ));
    world.inside(node, &["sh", "-ec", &script])?;
    Ok(())
}

/// The link with a MAC, as soon as it is there.
fn link_of(world: &World, node: &str, mac: &str) -> Result<String> {
    world.wait(&format!("the link {mac} is in {node}"), || {
        let links: Value = serde_json::from_str(&world.inside(node, &["ip", "-json", "link"]).ok()?).ok()?;
        items(&links).find(|link| link["address"] == mac).map(|link| text(&link["ifname"]).to_owned())
    })
}

/// The plugins, and what they work with.
pub(super) fn install_plugins(world: &World, node: &str, enis: &[Eni]) -> Result<()> {
    ensure!(!PLUGIN.contains("STAND-IN-ENDS"), "it is quoted");
    // Primary and secondary interfaces in turn, as theirs takes any.
    let most = enis.iter().map(|eni| eni.secondary.len()).max().unwrap_or(0);
    let mut addresses = String::new();
    for number in 0..most {
        for eni in enis {
            if let Some(address) = eni.secondary.get(number) {
                addresses.push_str(&format!("{address} {} {}\n", eni.table(), eni.device));
            }
        }
    }
    let script = format!(
        "mkdir -p {STATE} /var/run/aws-node\n[ -e {STATE}/allocations ] || : >{STATE}/allocations\n\
         cat >{STATE}/addresses <<'END'\n{addresses}END\n\
         cat >/opt/cni/bin/aws-cni.new <<'STAND-IN-ENDS'\n{PLUGIN}STAND-IN-ENDS\n\
         chmod 755 /opt/cni/bin/aws-cni.new\ncp /opt/cni/bin/aws-cni.new /opt/cni/bin/egress-cni\n\
         mv /opt/cni/bin/aws-cni.new /opt/cni/bin/aws-cni\n\
         [ ! -e {PORTMAP} ] || ln -sf {PORTMAP} /opt/cni/bin/portmap\n"
    );
    world.inside(node, &["sh", "-ec", &script])?;
    Ok(())
}

/// Its list of networks, by which the node becomes Ready.
pub(super) fn write_conflist(world: &World, node: &str) -> Result<()> {
    let mut plugins = vec![
        json!({"name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni", "mtu": "9001",
            "podSGEnforcingMode": "strict", "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
            "pluginLogLevel": "Debug", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}),
        json!({"name": "egress-cni", "type": "egress-cni", "mtu": "9001", "enabled": "false",
            "randomizeSNAT": "prng", "nodeIP": "",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00::ac:00/118"}]],
                "routes": [{"dst": "::/0"}], "dataDir": "/run/cni/v4pd/egress-v6-ipam"},
            "pluginLogFile": "/var/log/aws-routed-eni/egress-v6-plugin.log", "pluginLogLevel": "Debug"}),
    ];
    if Path::new(PORTMAP).exists() {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}));
    }
    let list = json!({"cniVersion": "0.4.0", "name": "aws-cni", "disableCheck": true, "plugins": plugins});
    write(world, node, CONFLIST, &format!("{list:#}\n"))
}

/// Replaces a file of the node by another, as renaming does it.
pub(super) fn write(world: &World, node: &str, path: &str, content: &str) -> Result<()> {
    ensure!(!content.contains('\''), "it is quoted");
    let script = format!("printf '%s' '{content}' >{path}.tmp && mv {path}.tmp {path}");
    world.inside(node, &["sh", "-ec", &script]).map(drop)
}
