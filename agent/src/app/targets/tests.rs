use super::*;
use crate::config::Environment;
use crate::k8s::EniConfig;

struct Map(Vec<(&'static str, &'static str)>);

impl Environment for Map {
    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| (*name).to_owned()).collect()
    }
}

fn aim(knobs: &[(&'static str, &'static str)]) -> Aim {
    let mut environment = vec![("MY_NODE_NAME", "n1"), ("CLUSTER_NAME", "c")];
    environment.extend(knobs);
    let (config, _) = Config::read(&Map(environment)).expect("a good configuration");
    let facts = ImdsFacts {
        instance: ipam_core::InstanceId::new("i-1"),
        instance_type: "m5.large".to_owned(),
        region: "us-west-2".to_owned(),
        zone: "us-west-2a".to_owned(),
        local_ipv4: [10, 0, 0, 1].into(),
        mac: ipam_core::MacAddr([2, 0, 0, 0, 0, 1]),
        primary_eni: ipam_core::EniId::new("eni-1"),
        subnet: SubnetId::new("subnet-node"),
        vpc: "vpc-1".to_owned(),
        vpc_cidrs: Vec::new(),
    };
    let table = ipam_core::InstanceTable::default();
    let limits = table.find("m5.large").expect("a sound table").expect("in the table");
    Aim::new(config, limits, &facts)
}

const CUSTOM: &[(&str, &str)] = &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")];

fn node(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> NodeFacts {
    let map =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NodeFacts { labels: map(labels), annotations: map(annotations), ..NodeFacts::default() }
}

fn configs(of: &[(&str, &str, &[&str])]) -> EniConfigs {
    let by_name = of.iter().map(|(name, subnet, groups)| {
        let subnet = Some((*subnet).to_owned()).filter(|subnet| !subnet.is_empty());
        let security_groups = groups.iter().map(|group| (*group).to_owned()).collect();
        ((*name).to_owned(), EniConfig { subnet, security_groups })
    });
    EniConfigs { synced: true, by_name: by_name.collect(), ..EniConfigs::default() }
}

#[test]
fn the_name_of_an_eni_config_is_found_as_aws_node_does() {
    let key = "k8s.amazonaws.com/eniConfig";
    type Pairs = &'static [(&'static str, &'static str)];
    let external: Pairs =
        &[("k8s.amazonaws.com/eniConfig", "by-label"), ("vpc.amazonaws.com/externalEniConfig", "external")];
    let label: Pairs = &[("k8s.amazonaws.com/eniConfig", "by-label")];
    let annotation: Pairs = &[("k8s.amazonaws.com/eniConfig", "by-annotation")];
    let named = CustomNetworking { annotation: key.to_owned(), label: key.to_owned() };
    for (labels, annotations, expected) in [
        (external, annotation, "external"),
        (label, annotation, "by-annotation"),
        (label, &[], "by-label"),
        (&[], annotation, "by-annotation"),
        (&[], &[], "default"),
        // As aws-node has it: the key counts, not what it says.
        (label, &[("k8s.amazonaws.com/eniConfig", "")], ""),
    ] as [(Pairs, Pairs, &str); 6]
    {
        let node = node(labels, annotations);
        assert_eq!(name_of(&named, &node).0, expected, "{labels:?} {annotations:?}");
    }
    let zonal = CustomNetworking {
        annotation: "example.com/net".to_owned(),
        label: "topology.kubernetes.io/zone".to_owned(),
    };
    let node = node(&[("topology.kubernetes.io/zone", "us-west-2a"), (key, "other")], &[(key, "other")]);
    assert_eq!(name_of(&zonal, &node).0, "us-west-2a");
}

#[test]
fn an_eni_config_decides_subnet_and_groups_and_keeps_pods_off_the_primary_eni() {
    let mut aim = aim(CUSTOM);
    let node = node(&[], &[]);
    let stated = configs(&[("default", "subnet-pods", &["sg-1", "sg-2"])]);
    let now = Circumstances { node: Node::There(&node), eni_configs: Some(&stated), leaving: false };
    let (targets, missing) = aim.targets(&now);
    assert_eq!(missing, None);
    assert_eq!(targets.subnet_choice, SubnetChoice::Fixed(vec![SubnetId::new("subnet-pods")]));
    assert_eq!(targets.security_groups.len(), 2);
    assert!(!targets.use_primary && targets.growth == Growth::Normal && targets.hold.is_none());

    // Gone: nothing grows any more, and what there is still serves.
    let none = configs(&[]);
    let (targets, missing) = aim.targets(&Circumstances { eni_configs: Some(&none), ..now });
    assert_eq!(targets.subnet_choice, SubnetChoice::Fixed(vec![SubnetId::new("subnet-pods")]));
    assert_eq!(targets.hold, Some(Hold::NoEniConfig { name: "default".to_owned() }));
    assert_eq!(targets.growth, Growth::None);
    assert!(missing.is_some_and(|missing| missing.certain));

    // Another one, without groups.
    let other = configs(&[("default", "subnet-other", &[])]);
    let (targets, missing) =
        aim.targets(&Circumstances { node: Node::There(&node), eni_configs: Some(&other), leaving: false });
    assert_eq!(targets.subnet_choice, SubnetChoice::Fixed(vec![SubnetId::new("subnet-other")]));
    assert!(targets.security_groups.is_empty() && missing.is_none());
}

#[test]
fn what_is_missing_is_said_with_the_remedy() {
    let node = node(&[("k8s.amazonaws.com/eniConfig", "pods-a")], &[]);
    let cases = [
        (EniConfigs::default(), false, "not listed yet"),
        (
            EniConfigs { failing: Some("403 Forbidden".to_owned()), ..EniConfigs::default() },
            true,
            "403 Forbidden",
        ),
        (
            EniConfigs { kind_missing: true, failing: Some("404".to_owned()), ..EniConfigs::default() },
            true,
            "CustomResourceDefinition",
        ),
        (configs(&[("default", "subnet-1", &[])]), true, "by the Node's label k8s.amazonaws.com/eniConfig"),
        (configs(&[("pods-a", "", &[])]), true, "spec.subnet"),
    ];
    for (stated, certain, says) in cases {
        let now = Circumstances { node: Node::There(&node), eni_configs: Some(&stated), leaving: false };
        let (targets, missing) = aim(CUSTOM).targets(&now);
        let missing = missing.expect("nothing says where addresses come from");
        assert!(missing.reason.contains(says), "{}", missing.reason);
        assert_eq!(missing.certain, certain, "{}", missing.reason);
        assert_eq!(targets.growth, Growth::None);
        assert_eq!(targets.subnet_choice, SubnetChoice::Fixed(Vec::new()));
    }
}

#[test]
fn the_nodes_state_decides_how_far_the_pool_may_go() {
    let plain = node(&[], &[]);
    let cordoned = NodeFacts { unschedulable: true, ..plain.clone() };
    let terminating = NodeFacts { terminating: true, ..cordoned.clone() };
    let managed: &[(&str, &str)] = &[("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "true")];
    let off: &[(&str, &str)] = &[("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true")];
    for (knobs, node, leaving, growth, hold) in [
        (&[] as &[_], Node::There(&plain), false, Growth::Normal, None),
        (&[], Node::There(&cordoned), false, Growth::DemandOnly, None),
        (managed, Node::There(&cordoned), false, Growth::Normal, None),
        (managed, Node::There(&terminating), false, Growth::None, Some(Hold::Terminating)),
        (&[], Node::There(&plain), true, Growth::None, Some(Hold::Terminating)),
        (&[], Node::Absent, false, Growth::None, Some(Hold::Terminating)),
        (&[], Node::Unheard, false, Growth::None, None),
        (off, Node::There(&plain), false, Growth::None, Some(Hold::ProvisioningOff)),
        (off, Node::There(&plain), true, Growth::None, Some(Hold::Terminating)),
    ] {
        let (targets, missing) = aim(knobs).targets(&Circumstances { node, eni_configs: None, leaving });
        assert_eq!((targets.growth, targets.hold), (growth, hold), "{knobs:?} {node:?} {leaving}");
        assert_eq!(missing, None);
        assert!(targets.use_primary);
    }
}

#[test]
fn subnets_are_discovered_where_nothing_else_is_said() {
    let node = node(&[], &[]);
    let now = Circumstances { node: Node::There(&node), eni_configs: None, leaving: false };
    let (targets, _) = aim(&[]).targets(&now);
    let node_subnet = SubnetId::new("subnet-node");
    let discovered = SubnetChoice::Discover {
        vpc: "vpc-1".to_owned(),
        zone: "us-west-2a".to_owned(),
        node_subnet: node_subnet.clone(),
        cluster: Some("c".to_owned()),
    };
    assert_eq!(targets.subnet_choice, discovered);
    let (targets, _) = aim(&[("ENABLE_SUBNET_DISCOVERY", "false")]).targets(&now);
    assert_eq!(targets.subnet_choice, SubnetChoice::Fixed(vec![node_subnet]));
}
