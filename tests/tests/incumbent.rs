//! The cases of aws-node's own suites for wiring and host networking (cni/host_networking, cni/pod_traffic,
//! cni/service_connectivity, cni/snat_kube_proxy, snat, cni-upgrade-downgrade), each in our terms and named after
//! its suite, on two nodes of a simulated VPC.

use kernel_test::{Need, Trial, trial};
use system_tests::aws_node::Firewall;
use system_tests::kube_proxy::Mode;

#[path = "incumbent/cluster.rs"]
mod cluster;
#[path = "incumbent/host_networking.rs"]
mod host_networking;
#[path = "incumbent/pod_traffic.rs"]
mod pod_traffic;
#[path = "incumbent/service_policy.rs"]
mod service_policy;
#[path = "incumbent/services.rs"]
mod services;
#[path = "incumbent/snat.rs"]
mod snat;
#[path = "incumbent/talk.rs"]
mod talk;
#[path = "incumbent/tester.rs"]
mod tester;
#[path = "incumbent/upgrade.rs"]
mod upgrade;

const NEEDS: &[Need] =
    &[Need::Root, Need::NetNs, Need::Mounts, Need::Bpf, Need::Tc, Need::Nft, Need::Env("TIDEPOOL_BIN_DIR")];

type Body = fn() -> anyhow::Result<()>;

fn main() {
    let tests: [(&str, Body, Option<&'static str>); 12] = [
        ("cni_host_networking", host_networking::set_up_and_torn_down, None),
        ("cni_host_networking_veth_prefix_and_mtu", host_networking::other_prefix_and_mtu, None),
        ("cni_pod_traffic", pod_traffic::all_placements, Some("busybox")),
        ("cni_pod_traffic_prefix_delegation_toggled", pod_traffic::prefix_delegation_toggled, None),
        (
            "cni_service_connectivity_and_snat_kube_proxy_iptables_nft",
            || services::beside(Mode::IptablesNft),
            Some("iptables-nft"),
        ),
        (
            "cni_service_connectivity_and_snat_kube_proxy_iptables_legacy",
            || services::beside(Mode::IptablesLegacy),
            Some("iptables-legacy"),
        ),
        ("cni_service_connectivity_and_snat_kube_proxy_nftables", || services::beside(Mode::Nftables), None),
        ("cni_snat_kube_proxy_none", || services::beside(Mode::None), None),
        ("snat", snat::settings, None),
        (
            "cni_upgrade_downgrade_iptables_nft",
            || upgrade::upgrade_and_downgrade(Firewall::IptablesNft, Mode::IptablesNft),
            Some("iptables-nft"),
        ),
        (
            "cni_upgrade_downgrade_iptables_legacy",
            || upgrade::upgrade_and_downgrade(Firewall::IptablesLegacy, Mode::IptablesLegacy),
            Some("iptables-legacy"),
        ),
        (
            "cni_upgrade_downgrade_nftables",
            || upgrade::upgrade_and_downgrade(Firewall::Nftables, Mode::Nftables),
            Some("iptables-nft"),
        ),
    ];
    let trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, body, tool)| {
            let needs: Vec<Need> = NEEDS.iter().copied().chain(tool.map(Need::Tool)).collect();
            trial(name, &needs, body)
        })
        .collect();
    kernel_test::run(trials);
}
