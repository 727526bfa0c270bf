//! Counting, settings.

use serde_json::json;

use super::*;
use crate::ec2::Placement;

#[test]
fn calls_are_counted_by_node_and_operation() {
    let bench = Bench::new("10.0.1.0/24");
    bench.ok("Action=DescribeSubnets");
    bench.call("Action=DescribeSubnets&Nonsense=1");
    bench.call("Action=Nonsense");
    bench.cloud.answer("", "Action=DescribeVpcs");
    let counted = |node: &str, operation: &str| {
        bench.cloud.calls().get(node).and_then(|of| of.get(operation).copied()).unwrap_or(0)
    };
    assert_eq!(counted("node-a", "DescribeSubnets"), 2);
    assert_eq!(counted("node-a", "(unknown)"), 1);
    assert_eq!(counted("", "DescribeVpcs"), 1);
    let log = bench.cloud.call_log();
    assert_eq!(log.len(), 4);
    assert_eq!(log[1].code.as_deref(), Some("UnknownParameter"));
    bench.cloud.reset_calls();
    assert!(bench.cloud.calls().is_empty() && bench.cloud.call_log().is_empty());
}

#[test]
fn settings_change_in_part() {
    let bench = Bench::new("10.0.1.0/24");
    let patch = json!({"latency": {"describe": 20, "operations": {"CreateTags": {"p50_ms": 5}}},
        "imds_lag": 100, "placement": "lowest", "throttling": {"enabled": true, "mode": "category"}});
    let settings = bench.cloud.update_settings(&patch).expect("settings");
    assert_eq!(settings.imds_lag, Delay::always(100));
    assert_eq!(settings.placement, Placement::Lowest);
    assert_eq!(bench.ok("Action=DescribeSubnets").delay, Duration::from_millis(20));
    for wrong in [json!({"latency": {"nonsense": 1}}), json!({"seed": "x"}), json!([]), json!({"seed": null})]
    {
        assert!(bench.cloud.update_settings(&wrong).is_err(), "{wrong}");
    }
    assert_eq!(bench.cloud.settings(), settings);
}

#[test]
fn what_cannot_be_built_is_refused() {
    let bench = Bench::new("10.0.1.0/24");
    for cidr in ["10.0.1.0/25", "10.1.0.0/24", "10.0.0.0/29", "10.0.0.0/20"] {
        let result = bench.cloud.add_subnet(&bench.vpc, cidr.parse().expect(cidr), "us-west-2a");
        assert!(result.is_err(), "{cidr}");
    }
    let instance = |name: &str, kind: &str| {
        bench.cloud.add_instance(NewInstance {
            name: name.to_owned(),
            instance_type: kind.to_owned(),
            subnet: bench.subnet.clone(),
            groups: Vec::new(),
            tags: Vec::new(),
        })
    };
    assert!(instance("node-a", "m5.large").is_err());
    assert!(instance("node-b", "m5.huge").is_err());
    let facts = instance("node-b", "m5.large").expect("an instance");
    assert_eq!((facts.max_enis, facts.ipv4_per_eni, facts.max_pods), (3, 10, 29));
    assert_eq!(bench.cloud.instance_by_node("node-b"), Some(facts.instance_id.clone()));
    assert_eq!(bench.cloud.instance_by_address(facts.primary_ip.into()), Some(facts.instance_id));
}
