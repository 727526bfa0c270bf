use std::collections::BTreeMap;

use super::*;

struct Map(BTreeMap<&'static str, &'static str>);

impl Environment for Map {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|v| (*v).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(|k| (*k).to_owned()).collect()
    }
}

fn read(pairs: &[(&'static str, &'static str)]) -> Result<(Config, Vec<String>), ConfigError> {
    Config::read(&Map(pairs.iter().copied().collect()))
}

#[test]
fn defaults_are_those_that_operators_know() {
    let (config, warnings) =
        read(&[("MY_NODE_NAME", "n1"), ("CLUSTER_NAME", "c")]).expect("only the node's name is required");
    assert_eq!(config.pool.warm_eni, 1);
    assert_eq!(config.pool.cooldown, Duration::from_secs(30));
    assert_eq!((config.eni_mtu, config.pod_mtu), (9001, 9001));
    assert_eq!(config.veth_prefix, "eni");
    assert_eq!(config.snat, Snat::RandomPorts);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn all_faults_come_in_one_report() {
    let error = read(&[
        ("WARM_IP_TARGET", "many"),
        ("POD_MTU", "9002"),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", "vlan"),
        ("ADDITIONAL_ENI_TAGS", r#"{"team": 1}"#),
        ("ENI_CONFIG_LABEL_DEF", "two words"),
        ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.0.0.0/8, nonsense"),
        ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "dice"),
    ])
    .expect_err("each of them is wrong");
    let names: Vec<_> = error.0.iter().map(|fault| fault.name).collect();
    assert_eq!(
        names,
        [
            "MY_NODE_NAME",
            "WARM_IP_TARGET",
            "ENI_CONFIG_LABEL_DEF",
            "ADDITIONAL_ENI_TAGS",
            "POD_MTU",
            "AWS_VPC_K8S_CNI_VETHPREFIX",
            "AWS_VPC_K8S_CNI_RANDOMIZESNAT",
            "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
        ]
    );
    assert!(error.to_string().contains("9002"), "{error}");
}

#[test]
fn a_knob_without_effect_is_named() {
    let (_, warnings) = read(&[
        ("MY_NODE_NAME", "n1"),
        ("CLUSTER_NAME", "c"),
        ("ENABLE_POD_ENI", "true"),
        ("DISABLE_POD_V6", "false"),
    ])
    .expect("a warning is not a fault");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("ENABLE_POD_ENI=true"), "{warnings:?}");
}

#[test]
fn a_slip_of_the_pen_is_named() {
    let (_, warnings) = read(&[
        ("MY_NODE_NAME", "n1"),
        ("CLUSTER_NAME", "c"),
        ("TIDEPOOL_STATEDIR", "/x"),
        ("TIDEPOOL_BPFFS", "/y"),
    ])
    .expect("harmless");
    assert_eq!(warnings, ["TIDEPOOL_STATEDIR is no knob of this version"]);
}

#[test]
fn targets_written_as_unset_are_unset() {
    let (config, _) = read(&[("MY_NODE_NAME", "n1"), ("MAX_ENI", "-1"), ("WARM_IP_TARGET", "")])
        .expect("aws-node's own defaults");
    assert_eq!((config.pool.max_eni, config.pool.warm_ip), (None, None));
}

/// Remembers which names were asked for.
#[derive(Default)]
struct Spy(std::cell::RefCell<std::collections::BTreeSet<String>>);

impl Environment for Spy {
    fn get(&self, name: &str) -> Option<String> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

#[test]
fn the_guide_names_every_knob_and_no_other() {
    let spy = Spy::default();
    let _ = Config::read(&spy);
    let asked = spy.0.into_inner();
    let guide = include_str!("../../../docs/config.md");
    let aws_sdk = ["AWS_REGION", "AWS_ENDPOINT_URL_EC2", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "KUBECONFIG"];
    let named: std::collections::BTreeSet<String> = guide
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains('_') || *word == "KUBECONFIG")
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !aws_sdk.contains(word))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, asked);
}

#[test]
fn an_add_never_waits_longer_than_the_kubelet() {
    for (cooldown, patience) in [("0", 20), ("30", 35), ("3600", 220)] {
        let (config, _) =
            read(&[("MY_NODE_NAME", "n1"), ("IP_COOLDOWN_PERIOD", cooldown)]).expect("in range");
        assert_eq!(config.pool.lease_patience(), Duration::from_secs(patience), "cooldown {cooldown}");
    }
}

#[test]
fn times_are_seconds_with_fractions_and_judged() {
    let (config, _) = read(&[
        ("MY_NODE_NAME", "n1"),
        ("TIDEPOOL_SHRINK_AFTER", "0.25"),
        ("TIDEPOOL_RECONCILE_PERIOD", "2"),
        ("TIDEPOOL_EC2_RATE_SCALE", "0.5"),
    ])
    .expect("in range");
    let timing = config.timing.into_timing();
    assert_eq!(timing.shrink_after, Duration::from_millis(250));
    assert_eq!(timing.reconcile_every, Duration::from_secs(2));
    assert_eq!(timing.eni_min_age, ipam_core::Timing::default().eni_min_age, "unset: the planner's own");
    assert_eq!(config.ec2_share, AccountLimits::scaled(0.5).expect("in range"));
    for (name, value) in [
        ("TIDEPOOL_SHRINK_AFTER", "-1"),
        ("TIDEPOOL_ENI_MIN_AGE", "soon"),
        ("TIDEPOOL_EC2_LAG", "NaN"),
        ("TIDEPOOL_GIVE_UP_AFTER", "1e9"),
        ("TIDEPOOL_RECONCILE_PERIOD", "0"),
        ("TIDEPOOL_EC2_RATE_SCALE", "inf"),
    ] {
        let error = read(&[("MY_NODE_NAME", "n1"), (name, value)]).expect_err("out of range");
        assert_eq!(error.0.iter().map(|fault| fault.name).collect::<Vec<_>>(), [name], "{value}");
    }
}

#[test]
fn reserved_tags_are_left_out_and_named() {
    let (config, warnings) = read(&[
        ("MY_NODE_NAME", "n1"),
        ("CLUSTER_NAME", "c"),
        ("ADDITIONAL_ENI_TAGS", r#"{"team": "net", "cluster.k8s.amazonaws.com/name": "x"}"#),
    ])
    .expect("a reserved key is no fault");
    assert_eq!(config.eni_tags.into_iter().collect::<Vec<_>>(), [("team".to_owned(), "net".to_owned())]);
    assert_eq!(
        warnings,
        ["ADDITIONAL_ENI_TAGS: the reserved key «cluster.k8s.amazonaws.com/name» is left out"]
    );
}

#[test]
fn subnets_are_discovered_unless_told_otherwise_and_eni_configs_are_asked_for() {
    let (config, warnings) =
        read(&[("MY_NODE_NAME", "n1"), ("CLUSTER_NAME", "c"), ("ENI_CONFIG_LABEL_DEF", "example.com/zone")])
            .expect("harmless");
    assert_eq!(
        warnings,
        ["ENI_CONFIG_LABEL_DEF has no effect without AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true"]
    );
    assert!(config.subnet_discovery && config.custom_networking.is_none());
    let (config, warnings) = read(&[
        ("MY_NODE_NAME", "n1"),
        ("CLUSTER_NAME", "c"),
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
        ("ENI_CONFIG_LABEL_DEF", "topology.kubernetes.io/zone"),
        ("ENABLE_SUBNET_DISCOVERY", "false"),
    ])
    .expect("what operators write");
    let named = config.custom_networking.expect("it is on");
    assert_eq!(named.label, "topology.kubernetes.io/zone");
    assert_eq!(named.annotation, "k8s.amazonaws.com/eniConfig");
    assert!(!config.subnet_discovery && warnings.is_empty(), "{warnings:?}");
}

#[test]
fn audit_is_of_nobody_of_annotated_pods_or_of_the_node() {
    let audit =
        |value| read(&[("MY_NODE_NAME", "n"), ("CLUSTER_NAME", "c"), ("TIDEPOOL_POLICY_AUDIT", value)]);
    for (value, wanted, warned) in [
        ("", PolicyAudit::Nobody, 0),
        ("false", PolicyAudit::Nobody, 0),
        ("annotated", PolicyAudit::Annotated, 0),
        ("true", PolicyAudit::Everybody, 1),
    ] {
        let (config, warnings) = audit(value).expect("a value of it");
        assert_eq!((config.policy_audit, warnings.len()), (wanted, warned), "{value}: {warnings:?}");
    }
    let ConfigError(faults) = audit("pods").expect_err("no value of it");
    assert_eq!(faults[0].name, "TIDEPOOL_POLICY_AUDIT");
}
