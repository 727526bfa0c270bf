use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Hold, Refusal};
use crate::pace::{Lane, Queue, Turn};
use crate::plan::{Action, CreateSpec, Operation, Want};
use crate::saved::History;
use crate::{
    AllocationMode, AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord, EniStatus,
    Failure, FailureClass, ForeignReason, Growth, Identity, InstanceId, InstanceTable, MacAddr, Now,
    PoolState, Reply, SandboxKey, SecurityGroupId, SubnetId, Targets, Waiter, tags,
};

/// 17:03:00 UTC of some day.
const UNIX: Duration = Duration::from_secs(1_795_280_580);

fn eni(number: u32) -> EniId {
    EniId::new(format!("eni-{number}"))
}

fn subnet(name: &str) -> SubnetId {
    SubnetId::new(name)
}

/// One of each variant, with what its text must say.
fn all() -> Vec<(Refusal, &'static str)> {
    let wait = Duration::from_millis(12_500);
    let operation = Operation::Assign;
    vec![
        (Refusal::Starting, "has not read the node's ENIs from EC2"),
        (
            Refusal::Ec2Unreachable { operation, wait },
            "AssignPrivateIpAddresses has no result; tried again in",
        ),
        (Refusal::MaxPods { limit: 29 }, "holds 29 pods"),
        (
            Refusal::SubnetFull { subnets: vec![subnet("subnet-a")], wait },
            "subnet subnet-a has no free address",
        ),
        (
            Refusal::Fragmented { subnets: vec![subnet("subnet-a"), subnet("subnet-b")], wait },
            "none of the subnets subnet-a and subnet-b has a free /28",
        ),
        (
            Refusal::EniLimit {
                used: 3,
                limit: 3,
                capped: false,
                foreign: vec![(eni(7), ForeignReason::Trunk), (eni(8), ForeignReason::NoManage)],
            },
            "3 of the 3 ENIs that the instance type allows are attached \
             (not the pool's: eni-7, a trunk; eni-8, tagged no_manage), and every address is in use",
        ),
        (
            Refusal::EniLimit { used: 1, limit: 1, capped: true, foreign: Vec::new() },
            "1 of the 1 ENIs that MAX_ENI allows are attached, and every address is in use; remedy: raise MAX_ENI",
        ),
        (
            Refusal::AllCooling { wait },
            "cool down after other pods; the first is free in 12.5 s, at 17:03:13 UTC",
        ),
        (
            Refusal::Throttled { operation, wait },
            "EC2 throttles AssignPrivateIpAddresses; tried again in 12.5 s, at 17:03:13 UTC; remedy: wait",
        ),
        (
            Refusal::Queued { ahead: 480, wait },
            "480 nodes wait before this one for EC2's request limits; its turn comes in 12.5 s, at 17:03:13 UTC",
        ),
        (
            Refusal::PermissionDenied { operation },
            "do not allow ec2:AssignPrivateIpAddresses; remedy: attach",
        ),
        (Refusal::Configuration { operation: Operation::CreateEni }, "EC2 refuses CreateNetworkInterface"),
        (Refusal::NoEniConfig { name: "us-west-2a".into() }, "no ENIConfig us-west-2a"),
        (Refusal::ProvisioningOff, "the pool may not ask EC2"),
        (Refusal::Terminating, "going away"),
        (Refusal::LinkMissing { eni: eni(7) }, "eni-7 is attached, but the node shows no link"),
        (
            Refusal::CallFails { operation, class: FailureClass::Bug, wait },
            "AssignPrivateIpAddresses fails (bug)",
        ),
        (Refusal::StillGrowing, "has not finished in time"),
    ]
}

#[test]
fn every_refusal_says_why_until_when_and_what_to_do() {
    let mut words = BTreeSet::new();
    for (refusal, says) in all() {
        let text = refusal.explain(None, UNIX);
        assert!(text.contains(says), "{text}\nlacks\n{says}");
        assert!(text.ends_with(&format!("; remedy: {}", refusal.remedy())), "{text}");
        assert!(text.chars().count() < 256, "short enough for kubectl: {text}");
        if refusal.wait().is_some() {
            assert!(text.contains(" in 12.5 s, at 17:03:13 UTC"), "{text}");
        }
        let with = refusal.explain(Some("Request limit exceeded."), UNIX);
        assert!(with.contains(" («Request limit exceeded.»)"), "{with}");
        words.insert(refusal.as_str());
    }
    assert_eq!(words, Refusal::WORDS.into_iter().collect(), "the table has one of each variant");
}

#[test]
fn a_long_answer_is_cut() {
    let denied = Refusal::PermissionDenied { operation: Operation::Assign };
    let said = "You are not authorized to perform: ec2:AssignPrivateIpAddresses. \
                Encoded authorization failure message: AAAABBBB";
    let text = denied.explain(Some(said), UNIX);
    assert!(text.contains("perform: ec2:AssignPrivateIpAddresses.»)"), "{text}");
    let text = denied.explain(Some(&"é".repeat(5000)), UNIX);
    assert!(text.contains('…') && text.chars().count() < 450, "{text}");
}

#[test]
fn what_is_being_tried_now_says_so() {
    let text = Refusal::Throttled { operation: Operation::Assign, wait: Duration::ZERO }.explain(None, UNIX);
    assert!(text.contains("; tried again now; remedy"), "{text}");
}

// ------------------------------------------------- which one a state leads to

struct Node {
    state: PoolState,
    targets: Targets,
    now: Now,
}

impl Node {
    /// A t3.small (three ENIs of four addresses) with its primary ENI.
    fn new() -> Self {
        let limits = InstanceTable::default().find("t3.small").expect("readable").expect("known");
        let mut targets = Targets::new(limits, subnet("subnet-a"));
        targets.warm_ip = Some(0);
        let identity = Identity { instance: InstanceId::new("i-1"), manage_untagged: false };
        let mut state = PoolState::new(identity, "seed");
        state.history = History::Known;
        Self { state, targets, now: Now::from_millis(100_000) }
    }

    /// EC2 lists `enis`, of `addresses` each, which all have their links.
    fn with_enis(mut self, enis: u32, addresses: u32) -> Self {
        let records: Vec<EniRecord> = (0..enis).map(|number| record(number, addresses)).collect();
        self.see(&records);
        self
    }

    fn see(&mut self, records: &[EniRecord]) {
        self.state.observe(records, self.now, &self.targets, self.now);
        records.iter().for_each(|record| self.state.set_link(record.mac, true));
    }

    /// Pods take all that is free.
    fn crowd(mut self, pods: u32) -> Self {
        for number in 0..pods {
            self.state.ask(waiter(number, self.now + Duration::from_secs(20)));
        }
        self.state.settle(&self.targets, self.now);
        assert_eq!(self.state.serve(&self.targets, self.now).len(), pods as usize);
        self
    }

    fn fails(mut self, action: Action, class: FailureClass) -> Self {
        let intent = self.state.begin(action, &self.targets, self.now);
        let failure = Failure { prefixes_only: class == FailureClass::Exhausted, ..Failure::of(class) };
        self.state.complete(intent.id, Err(failure), &self.targets, self.now, 0.5);
        self
    }

    fn refusal(&self) -> Refusal {
        Refusal::of(&self.state, &self.targets, self.now)
    }
}

fn waiter(number: u32, deadline: Now) -> Waiter {
    let key = SandboxKey {
        network: "aws-cni".into(),
        container_id: format!("pod-{number}"),
        ifname: "eth0".into(),
    };
    Waiter { key, pod: None, since: deadline, deadline }
}

fn record(number: u32, addresses: u32) -> EniRecord {
    let octet = u8::try_from(number).expect("few");
    let address = |last: u32| format!("10.0.{octet}.{last}").parse().expect("an address");
    EniRecord {
        id: eni(number),
        mac: MacAddr([2, 0, 0, 0, 0, octet]),
        subnet: subnet("subnet-a"),
        kind: EniKind::Interface,
        status: EniStatus::InUse,
        attachment: Some(AttachmentRecord {
            id: AttachmentId::new(format!("eni-attach-{number}")),
            instance: Some(InstanceId::new("i-1")),
            device_index: number,
            network_card: 0,
            status: AttachmentStatus::Attached,
            delete_on_termination: true,
        }),
        primary_ip: address(1),
        singles: (0..addresses).map(|last| address(last + 2)).collect(),
        prefixes: Vec::new(),
        groups: BTreeSet::from([SecurityGroupId::new("sg-1")]),
        tags: BTreeMap::from([(tags::INSTANCE_ID.to_owned(), "i-1".to_owned())]),
        requester_managed: false,
    }
}

fn assign() -> Action {
    Action::Assign { eni: eni(0), want: Want { singles: 1, prefixes: 0 } }
}

fn create() -> Action {
    let want = Want { singles: 3, prefixes: 0 };
    let spec = CreateSpec { subnet: subnet("subnet-a"), groups: BTreeSet::new(), want };
    Action::CreateEni { spec, token: None }
}

/// So many nodes stand in line before this one, which the API shows waiting.
fn queue(node: &mut Node, ahead: u32) {
    let (wait, retry) = (Duration::from_secs(90), Duration::from_secs(1));
    let turn = Turn { ahead, wait, retry, in_line: true };
    let queue = Queue {
        nodes: 5000,
        waiting_here: 1,
        turns: [turn; Lane::COUNT],
        crowd: Duration::ZERO,
        blind: Duration::ZERO,
        every: Duration::ZERO,
        spread: 0.5,
    };
    node.state.queue(queue, node.now);
}

#[test]
fn a_state_leads_to_its_reason() {
    use FailureClass::{Config, Permission, Retry, Throttled};
    let held = |hold: Hold| {
        let mut node = Node::new().with_enis(1, 1).crowd(1);
        node.targets.growth = Growth::None;
        node.targets.hold = Some(hold);
        node
    };
    let with = |change: fn(&mut Node)| {
        let mut node = Node::new().with_enis(1, 3).crowd(3);
        change(&mut node);
        node
    };
    let full = |mode: AllocationMode| {
        let mut node = Node::new().with_enis(1, 1).crowd(1);
        node.targets.mode = mode;
        let want = match mode {
            AllocationMode::Prefix => Want { singles: 0, prefixes: 1 },
            AllocationMode::Secondary => Want { singles: 1, prefixes: 0 },
        };
        node.fails(Action::Assign { eni: eni(0), want }, FailureClass::Exhausted)
    };
    let cases: Vec<(&str, Node, &str)> = vec![
        ("nothing is read", Node::new(), "starting"),
        ("the describe is denied", Node::new().fails(Action::DescribeEnis, Permission), "permission_denied"),
        ("the describe is throttled", Node::new().fails(Action::DescribeEnis, Throttled), "throttled"),
        ("EC2 is away", Node::new().fails(Action::DescribeEnis, Retry), "ec2_unreachable"),
        ("as many pods as it accepts", with(|node| node.targets.max_pods = 3), "max_pods"),
        ("assign is throttled", Node::new().with_enis(1, 1).crowd(1).fails(assign(), Throttled), "throttled"),
        ("create is throttled", with(|_| ()).fails(create(), Throttled), "throttled"),
        (
            "assign is denied",
            Node::new().with_enis(1, 1).crowd(1).fails(assign(), Permission),
            "permission_denied",
        ),
        ("the group is gone", with(|_| ()).fails(create(), Config), "configuration"),
        (
            "throttled beside a server error",
            Node::new().with_enis(1, 1).crowd(1).fails(create(), Retry).fails(assign(), Throttled),
            "throttled",
        ),
        ("a server error", with(|_| ()).fails(create(), Retry), "ec2_unreachable"),
        ("no such call", with(|_| ()).fails(create(), FailureClass::Bug), "ec2_call_fails"),
        ("a full subnet", full(AllocationMode::Secondary), "subnet_full"),
        ("a fragmented subnet", full(AllocationMode::Prefix), "subnet_fragmented"),
        ("all places are taken", Node::new().with_enis(3, 3).crowd(9), "eni_limit"),
        ("a cap", with(|node| node.targets.max_eni = Some(1)), "eni_limit"),
        ("provisioning is off", held(Hold::ProvisioningOff), "provisioning_off"),
        ("the node goes away", held(Hold::Terminating), "terminating"),
        ("no ENIConfig", held(Hold::NoEniConfig { name: "a".into() }), "no_eni_config"),
        ("others were here before", with(|node| queue(node, 480)), "queued"),
        (
            "throttled in spite of the line",
            with(|node| queue(node, 480)).fails(create(), Throttled),
            "throttled",
        ),
        ("nothing failed", with(|_| ()), "still_growing"),
    ];
    for (name, node, word) in cases {
        let refusal = node.refusal();
        assert_eq!(refusal.as_str(), word, "{name}: {refusal:?}");
    }
}

#[test]
fn a_foreign_eni_is_named_at_the_limit() {
    let mut node = Node::new();
    let mut strange = record(2, 0);
    strange.kind = EniKind::Trunk;
    node.see(&[record(0, 3), record(1, 3), strange]);
    let node = node.crowd(6);
    let foreign = vec![(eni(2), ForeignReason::Trunk)];
    assert_eq!(node.refusal(), Refusal::EniLimit { used: 3, limit: 3, capped: false, foreign });
}

#[test]
fn where_all_that_is_left_cools_the_first_end_is_told() {
    let mut node = Node::new().with_enis(3, 3).crowd(9);
    for number in [4, 2] {
        let key = waiter(number, node.now).key;
        node.state.commit(&key, "eni0");
        node.state.release(&key, &node.targets, node.now);
        node.now = node.now + Duration::from_secs(3);
    }
    assert_eq!(node.refusal(), Refusal::AllCooling { wait: Duration::from_secs(24) });
}

#[test]
fn an_eni_without_a_link_is_named() {
    let mut node = Node::new();
    node.see(&[record(0, 3), record(1, 3), record(2, 3)]);
    node.state.set_link(MacAddr([2, 0, 0, 0, 0, 2]), false);
    node.now = node.now + node.targets.timing.link_patience;
    let node = node.crowd(6);
    assert_eq!(node.refusal(), Refusal::LinkMissing { eni: eni(2) });
}

/// A pause that is over is not the end of the failure: the call is being tried again.
#[test]
fn a_failure_counts_until_the_call_succeeds() {
    let mut node = Node::new().with_enis(1, 1).crowd(1).fails(assign(), FailureClass::Throttled);
    node.now = node.now + Duration::from_secs(5);
    let operation = Operation::Assign;
    assert_eq!(node.refusal(), Refusal::Throttled { operation, wait: Duration::ZERO });
    let intent = node.state.begin(assign(), &node.targets, node.now);
    assert_eq!(node.refusal().as_str(), "throttled");
    let reply = Reply::Assigned { singles: Vec::new(), prefixes: Vec::new() };
    node.state.complete(intent.id, Ok(reply), &node.targets, node.now, 0.5);
    assert_eq!(node.refusal(), Refusal::StillGrowing);
    // For one who has waited through it, that was the reason.
    let told = Refusal::of_wait(&node.state, &node.targets, Now::default(), node.now);
    assert_eq!(told, Refusal::Throttled { operation, wait: Duration::ZERO });
}

/// Addresses that came free in the last moment were too late for a pod that has waited for them.
#[test]
fn a_subnet_that_was_full_while_a_pod_waited_is_the_reason() {
    let begun = Node::new().with_enis(1, 1).crowd(1);
    let since = begun.now;
    let mut node = begun;
    node.now = node.now + Duration::from_secs(5);
    let mut node = node.fails(assign(), FailureClass::Exhausted);
    let known = node.state.subnets.get_mut(&subnet("subnet-a")).expect("observed");
    known.not_told(node.now, 0.5);
    node.now = node.now + Duration::from_secs(10);
    let want = Want { singles: 1, prefixes: 0 };
    node.state.subnets.get_mut(&subnet("subnet-a")).expect("observed").gave(want, 0);
    let told = |since| Refusal::of_wait(&node.state, &node.targets, since, node.now).as_str();
    assert_eq!(told(since), "subnet_full");
    assert_eq!(told(node.now), "still_growing", "nothing was full since then");
}

#[test]
fn first_come_first_served_whatever_the_deadlines() {
    let mut node = Node::new().with_enis(1, 1);
    node.state.ask(waiter(1, node.now + Duration::from_secs(60)));
    node.state.ask(waiter(2, node.now + Duration::from_secs(5)));
    let served = node.state.serve(&node.targets, node.now);
    let names: Vec<&str> = served.iter().map(|served| served.key.container_id.as_str()).collect();
    assert_eq!(names, ["pod-1"], "an earlier deadline does not overtake");
    let intent = node.state.begin(assign(), &node.targets, node.now);
    assert!(node.state.serve(&node.targets, node.now).is_empty());
    let reply = Reply::Assigned { singles: vec!["10.0.0.9".parse().expect("one")], prefixes: Vec::new() };
    node.state.complete(intent.id, Ok(reply), &node.targets, node.now, 0.5);
    assert_eq!(node.state.serve(&node.targets, node.now).len(), 1, "served the moment it is confirmed");
}
