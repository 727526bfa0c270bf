//! Pods that run while nothing is known of them.

use super::*;
use crate::ipam::{Adopted, Adoption, MacAddr, Past};

fn adoption(number: u32, address: IpAddr) -> Adoption {
    Adoption {
        key: key(number),
        pod: None,
        address,
        host_ifname: format!("eni{number}"),
        host_mac: MacAddr([2, 0, 0, 0, 0, 1]),
    }
}

fn checkpoint(machine: &Machine) -> std::path::PathBuf {
    machine.home.path().join("run/pool.json")
}

/// Addresses that the checkpoint says rest.
fn cooling(machine: &Machine) -> BTreeSet<IpAddr> {
    let text = std::fs::read(checkpoint(machine)).expect("readable");
    let file: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let entries = file["pool"]["cooling"].as_array().cloned().unwrap_or_default();
    entries.iter().filter_map(|entry| entry["address"].as_str()?.parse().ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_the_checkpoint_pods_keep_their_addresses_and_the_rest_cools_down() {
    for damage in ["deleted", "emptied", "truncated", "garbage"] {
        let mut machine = Machine::new("t3.small");
        // Three addresses, and no more to be had.
        machine.targets.max_eni = Some(1);
        let pool = machine.boot_unadopted();
        let grants = lease_all(&pool, 0..3).await;
        let rests = pool.release(&key(2)).await.expect("it had one").address;
        drop(pool);
        let file = checkpoint(&machine);
        let text = std::fs::read(&file).expect("readable");
        match damage {
            "deleted" => std::fs::remove_file(&file),
            "emptied" => std::fs::write(&file, ""),
            "truncated" => std::fs::write(&file, &text[..text.len() / 2]),
            _ => std::fs::write(&file, [0xff; 64]),
        }
        .expect("damaged");

        let pool = machine.boot_unadopted();
        let expected = if damage == "deleted" { Past::Missing } else { Past::Torn };
        assert_eq!(pool.past(), expected, "{damage}");
        wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
        for number in 0..2 {
            let address = grants[number as usize].as_ref().expect("granted").address;
            assert_eq!(pool.adopt(adoption(number, address)).await, Adopted::Confirmed, "{damage}");
            assert_eq!(pool.adopt(adoption(9, address)).await, Adopted::Taken, "{damage}: twice");
        }
        assert!(pool.adoption_ended().await);
        // Nobody gets the other one before a cooldown is over.
        let begun = Instant::now();
        let more = pool.lease(request(10)).await.expect("after the cooldown");
        assert!(begun.elapsed() >= Duration::from_secs(29), "{damage}: {:?}", begun.elapsed());
        assert_eq!(more.address, rests, "{damage}");
        let held: BTreeSet<IpAddr> = pool.leases().await.iter().map(|lease| lease.address).collect();
        assert_eq!(held.len(), 3, "{damage}: no address twice");

        let freed = pool.release(&key(0)).await.expect("adopted").address;
        assert!(cooling(&machine).contains(&freed), "{damage}");
        drop(pool);
        let pool = machine.boot_unadopted();
        assert_eq!(pool.past(), Past::Known, "{damage}");
        assert_eq!(pool.adopted().await.keys().collect::<Vec<_>>(), [&key(1)], "{damage}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_between_adoptions_is_followed_by_one_that_looks_again() {
    let machine = Machine::new("t3.small");
    let pool = machine.boot_unadopted();
    let grants = lease_all(&pool, 0..2).await;
    drop(pool);
    std::fs::remove_file(checkpoint(&machine)).expect("removable");
    let address = |number: usize| grants[number].as_ref().expect("granted").address;

    let pool = machine.boot_unadopted();
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    assert_eq!(pool.adopt(adoption(0, address(0))).await, Adopted::Confirmed);
    drop(pool);

    let pool = machine.boot_unadopted();
    assert_eq!(pool.past(), Past::Missing);
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    assert_eq!(pool.adopt(adoption(0, address(0))).await, Adopted::Taken, "it is on file");
    assert_eq!(pool.adopt(adoption(1, address(1))).await, Adopted::Confirmed);
    assert!(pool.adoption_ended().await);
    drop(pool);
    assert_eq!(machine.boot_unadopted().past(), Past::Known);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_ec2_does_not_have_is_held_reported_and_never_given_to_another() {
    let machine = Machine::new("t3.small");
    let strange: IpAddr = "10.99.0.1".parse().expect("an address");
    let pool = machine.boot_unadopted();
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    assert_eq!(pool.adopt(adoption(0, strange)).await, Adopted::Unconfirmed);
    assert!(pool.adoption_ended().await);
    wait_for(&pool, |view| view.contradicted.contains(&strange)).await;

    // EC2 shows it after all: it is not free, and its ENI is not given back under the pod.
    {
        let mut cloud = machine.ec2.lock();
        let primary = cloud.enis.values_mut().next().expect("the primary ENI");
        primary.singles.push(strange);
    }
    pool.resync();
    let view = wait_for(&pool, |view| view.contradicted.is_empty()).await;
    assert!(view.enis.iter().any(|eni| eni.leased.contains(&strange)), "{view:?}");
    rest().await;
    let others = lease_all(&pool, 10..13).await;
    assert!(!addresses(&others).contains(&strange));
    assert!(pool.adopted().await.contains_key(&key(0)));
}

#[tokio::test(start_paused = true)]
async fn another_boot_drops_leases_and_keeps_the_journal() {
    let mut machine = Machine::new("m5.large");
    let pool = machine.boot_unadopted();
    lease_all(&pool, 0..2).await;
    // A change that never answers: only the journal knows.
    let calls = machine.ec2.lock().mutating_calls();
    machine.ec2.lock().silent_from = Some(calls);
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { lease_all(&pool, 10..40).await }
    });
    while machine.ec2.lock().mutating_calls() <= calls {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    waiting.abort();
    drop(waiting.await);
    drop(pool);
    machine.ec2.lock().silent_from = None;

    machine.boot_id = "boot-2".to_owned();
    let journal = machine.home.path().join("lib/ec2-intents.jsonl");
    let open = std::fs::read_to_string(&journal).expect("readable");
    let lines = |text: &str, kind: &str| text.lines().filter(|line| line.contains(kind)).count();
    assert!(lines(&open, "\"begin\"") > lines(&open, "\"end\""), "{open}");
    let pool = machine.boot_unadopted();
    assert_eq!((pool.past(), pool.leases().await), (Past::Missing, Vec::new()));
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    for _ in 0..3 {
        rest().await;
    }
    let after = std::fs::read_to_string(&journal).expect("readable");
    assert_eq!(lines(&after, "\"begin\""), lines(&after, "\"end\""), "{after}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_back_before_the_pods_that_run_have_their_leases() {
    let mut machine = Machine::new("t3.small");
    machine.targets.warm_ip = Some(0);
    let pool = machine.boot_unadopted();
    assert!(pool.adoption_ended().await);
    let grants = lease_all(&pool, 0..7).await;
    assert!(grants.iter().all(Result::is_ok));
    drop(pool);
    std::fs::remove_file(checkpoint(&machine)).expect("removable");
    let held = machine.ec2.lock().enis.len();
    assert_eq!(held, 3);

    // Whoever adopts takes long: it waits for an operator.
    let pool = machine.boot_unadopted();
    wait_for(&pool, |view| view.truth == TruthView::Ec2).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    for operation in [Operation::Unassign, Operation::Detach, Operation::DeleteEni] {
        assert_eq!(machine.ec2.lock().calls.get(&operation), None, "{operation}");
    }
    assert!(pool.adoption_ended().await);
    wait_for(&pool, |view| view.enis.len() == 1).await;
}
