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
        ("ADDITIONAL_ENI_TAGS", r#"{"cluster.k8s.amazonaws.com/name": "x"}"#),
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
