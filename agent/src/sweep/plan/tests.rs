use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use ipam_core::{
    AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord, EniStatus, InstanceId,
    MacAddr, SubnetId, tags,
};
use proptest::prelude::*;

use super::{Kept, Patience, Plan, plan, suspects};
use crate::rfc3339;

const CLUSTER: &str = "blue";
const PATIENCE: Patience = Patience { orphaned: Duration::from_secs(120), living: Duration::from_secs(3720) };

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn ago(seconds: u64) -> String {
    rfc3339::write(now() - Duration::from_secs(seconds))
}

/// An ENI as an agent of ours leaves it over, of this age.
fn leaked(id: &str, seconds: u64) -> EniRecord {
    EniRecord {
        id: EniId::new(id),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        subnet: SubnetId::new("subnet-a"),
        kind: EniKind::Interface,
        status: EniStatus::Available,
        attachment: None,
        primary_ip: std::net::IpAddr::from([10, 0, 0, 5]),
        singles: Vec::new(),
        prefixes: Vec::new(),
        groups: BTreeSet::new(),
        tags: BTreeMap::from([
            (tags::CLUSTER.to_owned(), CLUSTER.to_owned()),
            (tags::INSTANCE_ID.to_owned(), "i-gone".to_owned()),
            (tags::CREATED_AT.to_owned(), ago(seconds)),
        ]),
        requester_managed: false,
    }
}

fn attachment() -> AttachmentRecord {
    AttachmentRecord {
        id: AttachmentId::new("eni-attach-1"),
        instance: Some(InstanceId::new("i-1")),
        device_index: 1,
        network_card: 0,
        status: AttachmentStatus::Attached,
        delete_on_termination: true,
    }
}

fn planned(records: &[EniRecord]) -> Plan {
    plan(records, &BTreeSet::from([InstanceId::new("i-lives")]), now(), CLUSTER, PATIENCE)
}

type Change = fn(&mut EniRecord);

fn tagged(key: &'static str, value: impl Into<String>) -> impl FnOnce(&mut EniRecord) {
    let value = value.into();
    move |eni| drop(eni.tags.insert(key.to_owned(), value))
}

#[test]
fn what_is_never_deleted() {
    // Each of an ENI that would be deleted but for one thing.
    let cases: &[(&str, Change, Kept)] = &[
        ("attached", |eni| eni.attachment = Some(attachment()), Kept::InUse),
        ("in use", |eni| eni.status = EniStatus::InUse, Kept::InUse),
        ("attaching", |eni| eni.status = EniStatus::Attaching, Kept::InUse),
        ("detaching", |eni| eni.status = EniStatus::Detaching, Kept::InUse),
        ("pending", |eni| eni.status = EniStatus::Pending, Kept::InUse),
        ("managed by AWS", |eni| eni.requester_managed = true, Kept::Managed),
        ("trunk", |eni| eni.kind = EniKind::Trunk, Kept::OtherKind),
        ("EFA", |eni| eni.kind = EniKind::Efa, Kept::OtherKind),
        ("branch", |eni| eni.kind = EniKind::Other, Kept::OtherKind),
        ("no_manage", |eni| tagged(tags::NO_MANAGE, "true")(eni), Kept::NoManage),
        ("no_manage, sloppy", |eni| tagged(tags::NO_MANAGE, "True ")(eni), Kept::NoManage),
        ("other cluster", |eni| tagged(tags::CLUSTER, "green")(eni), Kept::OtherCluster),
        ("cluster whose name ours begins", |eni| tagged(tags::CLUSTER, "blue-2")(eni), Kept::OtherCluster),
        ("cluster in capitals", |eni| tagged(tags::CLUSTER, "Blue")(eni), Kept::OtherCluster),
        ("no cluster", |eni| drop(eni.tags.remove(tags::CLUSTER)), Kept::OtherCluster),
        ("no instance", |eni| drop(eni.tags.remove(tags::INSTANCE_ID)), Kept::Untagged),
        ("empty instance", |eni| tagged(tags::INSTANCE_ID, "")(eni), Kept::Untagged),
        ("no date", |eni| drop(eni.tags.remove(tags::CREATED_AT)), Kept::Undated),
        ("date that is none", |eni| tagged(tags::CREATED_AT, "last week")(eni), Kept::Undated),
        (
            "made in the future",
            |eni| tagged(tags::CREATED_AT, rfc3339::write(now() + Duration::from_secs(1)))(eni),
            Kept::InFuture,
        ),
        ("just made", |eni| tagged(tags::CREATED_AT, ago(0))(eni), Kept::Young),
        ("made 2 T ago", |eni| tagged(tags::CREATED_AT, ago(120))(eni), Kept::Young),
        ("of a node that lives", |eni| tagged(tags::INSTANCE_ID, "i-lives")(eni), Kept::Living),
    ];
    for (what, change, reason) in cases {
        let mut eni = leaked("eni-1", 1000);
        assert_eq!(planned(std::slice::from_ref(&eni)).delete, [eni.id.clone()], "{what}: before");
        change(&mut eni);
        let plan = planned(std::slice::from_ref(&eni));
        assert_eq!(plan.kept, BTreeMap::from([(eni.id.clone(), *reason)]), "{what}");
        assert!(plan.delete.is_empty(), "{what}");
        let dated: &[EniId] = if *reason == Kept::Undated { &[eni.id] } else { &[] };
        assert_eq!(plan.date, dated, "{what}");
    }
}

#[test]
fn how_old_it_must_be() {
    for (instance, seconds, deleted) in [
        ("i-gone", 120, false),
        ("i-gone", 121, true),
        ("i-gone", 1_000_000, true),
        ("i-lives", 121, false),
        ("i-lives", 3720, false),
        ("i-lives", 3721, true),
    ] {
        let mut eni = leaked("eni-1", seconds);
        tagged(tags::INSTANCE_ID, instance)(&mut eni);
        assert_eq!(planned(&[eni]).delete.len(), usize::from(deleted), "{instance} {seconds}");
    }
}

#[test]
fn other_spellings_of_what_must_hold() {
    for change in [
        tagged(tags::NO_MANAGE, "false"),
        tagged(tags::CREATED_AT, "2023-11-14T23:00:00+01:00"),
        tagged("anything", "else"),
    ] {
        let mut eni = leaked("eni-1", 1000);
        change(&mut eni);
        assert_eq!(planned(&[eni]).delete.len(), 1);
    }
}

#[test]
fn the_oldest_goes_first() {
    let records = [leaked("eni-a", 200), leaked("eni-b", 900), leaked("eni-c", 10), leaked("eni-d", 500)];
    let ids: Vec<EniId> = ["eni-b", "eni-d", "eni-a"].into_iter().map(EniId::new).collect();
    assert_eq!(planned(&records).delete, ids);
}

#[test]
fn only_of_the_old_ones_is_asked_whether_their_instance_lives() {
    let mut young = leaked("eni-young", 5);
    tagged(tags::INSTANCE_ID, "i-young")(&mut young);
    let mut foreign = leaked("eni-foreign", 5000);
    tagged(tags::INSTANCE_ID, "i-foreign")(&mut foreign);
    tagged(tags::CLUSTER, "green")(&mut foreign);
    let mut lives = leaked("eni-lives", 5000);
    tagged(tags::INSTANCE_ID, "i-lives")(&mut lives);
    let asked = suspects(&[young, foreign, lives, leaked("eni-gone", 5000)], now(), CLUSTER, PATIENCE);
    assert_eq!(asked, ["i-gone", "i-lives"].map(InstanceId::new).into());
}

fn any_record() -> impl Strategy<Value = EniRecord> {
    let age = prop_oneof![0_u64..10_000, Just(120), Just(121), Just(3720), Just(3721)];
    let instance = prop_oneof![Just("i-gone"), Just("i-lives"), Just("")];
    let cluster = prop_oneof![3 => Just(Some("blue")), 1 => Just(Some("green")), 1 => Just(None)];
    let status = prop_oneof![
        4 => Just(EniStatus::Available),
        1 => Just(EniStatus::Attaching),
        1 => Just(EniStatus::InUse),
        1 => Just(EniStatus::Detaching),
    ];
    let kind = prop_oneof![5 => Just(EniKind::Interface), 1 => Just(EniKind::Trunk), 1 => Just(EniKind::Efa)];
    let odd = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    ((0_u32..30, age, instance, cluster), status, kind, odd).prop_map(
        |((number, age, instance, cluster), status, kind, (managed, left_alone, attached, undated))| {
            let mut eni = leaked(&format!("eni-{number:02}"), age);
            eni.status = status;
            eni.kind = kind;
            eni.requester_managed = managed;
            eni.attachment = attached.then(attachment);
            tagged(tags::INSTANCE_ID, instance)(&mut eni);
            match cluster {
                Some(name) => tagged(tags::CLUSTER, name)(&mut eni),
                None => drop(eni.tags.remove(tags::CLUSTER)),
            }
            if left_alone {
                tagged(tags::NO_MANAGE, "true")(&mut eni);
            }
            if undated {
                eni.tags.remove(tags::CREATED_AT);
            }
            eni
        },
    )
}

proptest! {
    /// Written once more, in other words: what is deleted has every one of these, and what has them is deleted.
    #[test]
    fn deleted_is_what_is_unattached_ours_and_old(records in prop::collection::vec(any_record(), 0..20)) {
        let records: BTreeMap<EniId, EniRecord> =
            records.into_iter().map(|record| (record.id.clone(), record)).collect();
        let all: Vec<EniRecord> = records.values().cloned().collect();
        let plan = planned(&all);
        prop_assert_eq!(plan.delete.len() + plan.kept.len(), records.len());
        for (id, eni) in &records {
            let created = eni.tags.get(tags::CREATED_AT).and_then(|text| rfc3339::read(text));
            let age = created.map_or(0, |at| now().duration_since(at).map_or(0, |age| age.as_secs()));
            let least = if eni.tags[tags::INSTANCE_ID] == "i-lives" { 3720 } else { 120 };
            let wanted = eni.status == EniStatus::Available
                && eni.attachment.is_none()
                && eni.kind == EniKind::Interface
                && !eni.requester_managed
                && !eni.tags.contains_key(tags::NO_MANAGE)
                && eni.tags.get(tags::CLUSTER).is_some_and(|name| name == CLUSTER)
                && !eni.tags[tags::INSTANCE_ID].is_empty()
                && age > least;
            prop_assert_eq!(plan.delete.contains(id), wanted, "{:?}", eni);
            prop_assert_ne!(plan.delete.contains(id), plan.kept.contains_key(id));
            prop_assert!(!plan.date.contains(id) || plan.kept.get(id) == Some(&Kept::Undated));
        }
    }
}
