use super::*;
use crate::finding::FindingReason;
use crate::model::{Peers, Policy, PortMatch, PortRange, Ports, Protocol};

fn base() -> RawPolicy {
    RawPolicy { namespace: "x".into(), name: "p".into(), ..RawPolicy::default() }
}

fn check(raw: &RawPolicy, findings: &[(&str, FindingReason)]) -> Policy {
    let (policy, found) = parse_policy(raw);
    let found: Vec<_> = found.iter().map(|f| (f.path.as_str(), f.reason)).collect();
    assert_eq!(found, findings);
    policy
}

#[test]
fn types_default_to_ingress_and_to_egress_where_there_are_rules() {
    let rule = || vec![RawRule::default()];
    let isolated = |types: &[&str], egress: Vec<RawRule>| {
        let raw =
            RawPolicy { policy_types: types.iter().map(|t| (*t).to_owned()).collect(), egress, ..base() };
        let policy = check(&raw, &[]);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(isolated(&[], vec![]), (true, false));
    assert_eq!(isolated(&[], rule()), (true, true));
    assert_eq!(isolated(&["Egress"], vec![]), (false, true));
    assert_eq!(isolated(&["Ingress"], rule()), (true, false));
    assert_eq!(isolated(&["Ingress", "Egress"], vec![]), (true, true));
}

#[test]
fn unknown_type_isolates_both_directions() {
    let raw = RawPolicy { policy_types: vec!["Sideways".into()], ..base() };
    let policy = check(&raw, &[("spec.policyTypes[0]", FindingReason::InvalidPolicyType)]);
    assert!(policy.ingress.is_some() && policy.egress.is_some());
}

#[test]
fn subject_that_makes_no_sense_isolates_all_and_allows_nothing() {
    let raw = RawPolicy {
        pod_selector: RawSelector {
            match_expressions: vec![RawRequirement {
                key: "a".into(),
                operator: "Near".into(),
                values: vec![],
            }],
            ..RawSelector::default()
        },
        ingress: vec![RawRule::default()],
        ..base()
    };
    let policy = check(&raw, &[("spec.podSelector", FindingReason::InvalidSelector)]);
    assert!(policy.subject.is_everything());
    assert_eq!(policy.ingress, Some(vec![]));
}

#[test]
fn peers_that_make_no_sense_match_nothing_and_others_stay() {
    let selector = RawSelector {
        match_expressions: vec![RawRequirement { key: "a".into(), operator: "In".into(), values: vec![] }],
        ..RawSelector::default()
    };
    let block = |cidr: &str, except: &[&str]| RawPeer {
        ip_block: Some(RawBlock {
            cidr: cidr.into(),
            except: except.iter().map(|e| (*e).to_owned()).collect(),
        }),
        ..RawPeer::default()
    };
    let both = RawPeer { pod_selector: Some(RawSelector::default()), ..block("10.0.0.0/8", &[]) };
    let raw = RawPolicy {
        ingress: vec![RawRule {
            peers: vec![
                RawPeer::default(),
                RawPeer { pod_selector: Some(selector), ..RawPeer::default() },
                block("10.0.0.0/33", &[]),
                block("10.0.0.1", &[]),
                both,
                block("10.0.0.0/8", &["::/0"]),
                block("10.1.2.3/8", &["10.9.9.9/16"]),
                block("::ffff:10.0.0.0/104", &[]),
                block("2001:db8::1/32", &[]),
            ],
            ports: vec![],
        }],
        ..base()
    };
    let policy = check(
        &raw,
        &[
            ("spec.ingress[0].from[0]", FindingReason::InvalidPeer),
            ("spec.ingress[0].from[1]", FindingReason::InvalidSelector),
            ("spec.ingress[0].from[2]", FindingReason::InvalidPeer),
            ("spec.ingress[0].from[3]", FindingReason::InvalidPeer),
            ("spec.ingress[0].from[4]", FindingReason::InvalidPeer),
            ("spec.ingress[0].from[5]", FindingReason::InvalidPeer),
        ],
    );
    let rules = policy.ingress.expect("isolated");
    let Peers::Only(peers) = &rules[0].peers else { panic!("peers became any") };
    let text: Vec<String> = peers
        .iter()
        .map(|peer| match peer {
            crate::model::Peer::Block(block) => format!("{} {:?}", block.cidr, block.except),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(text.len(), 3);
    assert!(text[0].starts_with("10.0.0.0/8 ") && text[0].contains("10.9.0.0"), "{}", text[0]);
    assert_eq!(text[1], "10.0.0.0/8 []");
    assert_eq!(text[2], "2001:db8::/32 []");
}

#[test]
fn a_rule_of_nonsense_peers_only_is_not_a_rule_for_any_peer() {
    let raw =
        RawPolicy { ingress: vec![RawRule { peers: vec![RawPeer::default()], ports: vec![] }], ..base() };
    let policy = check(&raw, &[("spec.ingress[0].from[0]", FindingReason::InvalidPeer)]);
    assert_eq!(policy.ingress.expect("isolated")[0].peers, Peers::Only(vec![]));
}

#[test]
fn ports() {
    let port = |protocol: Option<&str>, port: Option<RawPortValue>, end_port: Option<i32>| RawPort {
        protocol: protocol.map(str::to_owned),
        port,
        end_port,
    };
    let number = |n| Some(RawPortValue::Number(n));
    let name = |n: &str| Some(RawPortValue::Name(n.into()));
    let raw = RawPolicy {
        ingress: vec![RawRule {
            peers: vec![],
            ports: vec![
                port(None, None, None),
                port(Some("UDP"), number(53), None),
                port(Some("SCTP"), number(7), Some(9)),
                port(Some("TCP"), name("web"), None),
                port(Some("ICMP"), None, None),
                port(None, number(0), None),
                port(None, number(65536), None),
                port(None, None, Some(9)),
                port(None, name("web"), Some(9)),
                port(None, number(9), Some(8)),
                port(None, name(""), None),
            ],
        }],
        ..base()
    };
    let bad: Vec<(String, FindingReason)> =
        (4..11).map(|i| (format!("spec.ingress[0].ports[{i}]"), FindingReason::InvalidPort)).collect();
    let bad: Vec<_> = bad.iter().map(|(path, reason)| (path.as_str(), *reason)).collect();
    let policy = check(&raw, &bad);
    assert_eq!(
        policy.ingress.expect("isolated")[0].ports,
        Ports::Only(vec![
            PortMatch::Numbers(PortRange::all_of(Protocol::Tcp)),
            PortMatch::Numbers(PortRange::single(Protocol::Udp, 53)),
            PortMatch::Numbers(PortRange { protocol: Protocol::Sctp, first: 7, last: 9 }),
            PortMatch::Named { protocol: Protocol::Tcp, name: "web".into() },
        ])
    );
}

#[test]
fn a_policy_that_is_too_large_isolates_and_allows_nothing() {
    let block = |except: usize| RawPeer {
        ip_block: Some(RawBlock {
            cidr: "10.0.0.0/8".into(),
            except: (0..except).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect(),
        }),
        ..RawPeer::default()
    };
    let port = || RawPort { port: Some(RawPortValue::Number(80)), ..RawPort::default() };
    let rule = |peers, ports| RawRule { peers, ports: (0..ports).map(|_| port()).collect() };
    let policy = |ingress: Vec<RawRule>, egress: Vec<RawRule>| RawPolicy { ingress, egress, ..base() };
    // The last that is taken, and one more of each; both directions count.
    let fits = policy(vec![rule(vec![block(4094)], 1000)], vec![rule(vec![block(0)], 24)]);
    let fitting = check(&fits, &[]);
    assert_eq!(fitting.ingress.map(|rules| rules.len()), Some(1));
    let many = |count: usize| (0..count).map(|_| RawRule::default()).collect::<Vec<_>>();
    check(&policy(many(1024), Vec::new()), &[]);
    for raw in [
        policy(vec![rule(vec![block(4095)], 0)], vec![rule(vec![block(0)], 0)]),
        policy(vec![rule(Vec::new(), 1000)], vec![rule(Vec::new(), 25)]),
        policy(many(1024), many(1)),
    ] {
        let closed = check(&raw, &[("spec", FindingReason::TooLarge)]);
        assert_eq!((closed.ingress, closed.egress), (Some(vec![]), Some(vec![])));
        assert!(closed.subject.is_everything());
    }
}

#[test]
fn rules_of_a_cluster_policy_beyond_its_limit_are_closed() {
    let networks = |from: usize, count: usize| RawClusterPeer {
        networks: (from..from + count).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect(),
        ..RawClusterPeer::default()
    };
    let rule = |action: &str, peer| RawClusterRule {
        action: action.into(),
        peers: vec![peer],
        ..RawClusterRule::default()
    };
    let everything = Some(RawSelector::default());
    let raw = RawClusterPolicy {
        name: "p".into(),
        tier: "Admin".into(),
        priority: Some(1),
        subject: RawSubject { namespaces: everything, pods: None },
        egress: vec![
            rule("Accept", networks(0, 4096)),
            rule("Accept", networks(5000, 1)),
            rule("Pass", networks(5001, 1)),
        ],
        ..RawClusterPolicy::default()
    };
    let (policy, findings) = parse_cluster_policy(&raw);
    let findings: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.reason)).collect();
    let reason = FindingReason::TooLarge;
    assert_eq!(findings, [("spec.egress[1]", reason), ("spec.egress[2]", reason)]);
    let sizes = policy.egress.iter().map(|rule| match &rule.peers {
        Peers::Any => None,
        Peers::Only(list) => Some(list.len()),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [Some(4096), Some(0), None]);
    assert_eq!(policy.egress[2].action, crate::model::Action::Deny);
}
