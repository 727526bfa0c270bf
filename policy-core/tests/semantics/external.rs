//! External addresses of Services: whoever may write a Service names any address, so what
//! policies deny to it stays denied.

use policy_core::model::TargetPort;
use serde_json::{Value, json};

use super::scene::{Met, NODE, OutDenied, Passes, Scene, of};
use super::tiers::to;

const METADATA: &str = "169.254.169.254";
const OUTSIDE: &str = "203.0.113.7";

/// The Service x/s on TCP/80, before the pods of x with a label; it claims an address.
fn claiming(front: &str, pod: &str) -> Scene {
    Scene::new().service("x/s", "10.100.0.9", 80, pod, TargetPort::Number(80)).external("x/s", front)
}

fn check(scene: Scene, front: &str, met: Met) {
    scene.check(&[("x/a", front, "TCP/80", met)]);
}

/// The pods of x may reach the pods of x, and besides these.
fn isolated(others: &[Value]) -> Value {
    let mut peers = vec![json!({ "podSelector": {} })];
    peers.extend(others.iter().cloned());
    json!({ "policyTypes": ["Egress"], "egress": [{ "to": peers }] })
}

fn block(cidr: &str, except: &[&str]) -> Value {
    json!({ "ipBlock": { "cidr": cidr, "except": except } })
}

#[test]
fn what_a_cluster_policy_denies_no_service_opens() {
    let pod = of("y/a").to_string();
    for pods in ["b", "nobody"] {
        for (front, peer) in [
            (METADATA, json!({ "networks": ["169.254.169.254/32"] })),
            (&pod, json!({ "namespaces": { "matchLabels": { "ns": "y" } } })),
            (NODE, json!({ "networks": ["10.9.0.0/24"] })),
            (OUTSIDE, json!({ "networks": ["203.0.113.0/24"] })),
        ] {
            check(claiming(front, pods).cluster_policy("p", to("Deny", peer)), front, OutDenied);
        }
    }
    // Its own address is not the writer's choice.
    let all = to("Deny", json!({ "networks": ["10.100.0.0/16"] }));
    check(claiming(METADATA, "b").cluster_policy("p", all), "10.100.0.9", Passes);
}

#[test]
fn isolation_denies_addresses_of_pods_and_links() {
    let pod = of("y/a").to_string();
    for front in [&pod, METADATA] {
        check(claiming(front, "b").policy("x/p", isolated(&[])), front, OutDenied);
        let one = [block(&format!("{front}/32"), &[])];
        check(claiming(front, "b").policy("x/p", isolated(&one)), front, Passes);
    }
}

#[test]
fn isolation_denies_what_its_blocks_except() {
    let hole = [block("0.0.0.0/0", &["203.0.113.0/24"])];
    check(claiming(OUTSIDE, "b").policy("x/p", isolated(&hole)), OUTSIDE, OutDenied);
    let other = [block("198.51.100.0/24", &[])];
    check(claiming(OUTSIDE, "b").policy("x/p", isolated(&other)), OUTSIDE, Passes);
}

#[test]
fn an_address_that_no_policy_names_is_its_backends() {
    check(claiming(OUTSIDE, "b").policy("x/p", isolated(&[])), OUTSIDE, Passes);
    let nobody = json!({ "policyTypes": ["Egress"] });
    check(claiming(OUTSIDE, "b").policy("x/p", nobody), OUTSIDE, OutDenied);
    // Another port of the address is the address.
    claiming(OUTSIDE, "b")
        .policy("x/p", isolated(&[]))
        .check(&[("x/a", OUTSIDE, "TCP/81", OutDenied), ("x/a", OUTSIDE, "UDP/80", OutDenied)]);
    // Who is not isolated goes anywhere.
    check(claiming(METADATA, "b"), METADATA, Passes);
}
