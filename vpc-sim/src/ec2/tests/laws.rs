//! Laws that hold whatever is asked, by random requests.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::ec2::state::State;

/// One random request, often a wrong one.
fn request(rng: &mut ChaCha8Rng, bench: &Bench) -> String {
    let enis = bench.cloud.enis();
    let eni = enis.choose(rng).expect("the node's own");
    let id = &eni.id;
    let count = rng.random_range(1..6);
    let address = |rng: &mut ChaCha8Rng| format!("10.0.1.{}", rng.random_range(0..64));
    let block = rng.random_range(0..4) * 16;
    match rng.random_range(0..13) {
        0 => format!("Action=CreateNetworkInterface&SubnetId={}", bench.subnet),
        1 => format!(
            "Action=CreateNetworkInterface&SubnetId={}&SecondaryPrivateIpAddressCount={count}",
            bench.subnet
        ),
        2 => format!("Action=CreateNetworkInterface&SubnetId={}&Ipv4PrefixCount=1", bench.subnet),
        3 => format!(
            "Action=CreateNetworkInterface&SubnetId={}&ClientToken={}&PrivateIpAddress={}",
            bench.subnet,
            rng.random_range(0..3),
            address(rng)
        ),
        4 => bench.attach_form(id.as_str(), rng.random_range(0..4)),
        5 => {
            let attachment = bench.describe(id.as_str()).all("attachmentId");
            let attachment = attachment.first().map_or("eni-attach-00000000", String::as_str);
            format!("Action=DetachNetworkInterface&AttachmentId={attachment}&Force=true")
        }
        6 => format!("Action=DeleteNetworkInterface&NetworkInterfaceId={id}"),
        7 => format!(
            "Action=AssignPrivateIpAddresses&NetworkInterfaceId={id}&SecondaryPrivateIpAddressCount={count}"
        ),
        8 => format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={id}&Ipv4PrefixCount=1"),
        9 => format!(
            "Action=AssignPrivateIpAddresses&NetworkInterfaceId={id}&PrivateIpAddress.1={}\
             &PrivateIpAddress.2={}&AllowReassignment={}",
            address(rng),
            address(rng),
            rng.random::<bool>()
        ),
        10 => {
            format!("Action=AssignPrivateIpAddresses&NetworkInterfaceId={id}&Ipv4Prefix.1=10.0.1.{block}/28")
        }
        11 => {
            let held = eni.addresses.choose(rng).expect("a primary address");
            format!("Action=UnassignPrivateIpAddresses&NetworkInterfaceId={id}&PrivateIpAddress.1={held}")
        }
        _ => match eni.prefixes.choose(rng) {
            Some(held) => {
                format!("Action=UnassignPrivateIpAddresses&NetworkInterfaceId={id}&Ipv4Prefix.1={held}")
            }
            None => format!("Action=UnassignPrivateIpAddresses&NetworkInterfaceId={id}"),
        },
    }
}

fn check_laws(bench: &Bench, state: &State) {
    let subnet = state.subnets.get(&bench.subnet).expect("the subnet");
    let mut taken = BTreeSet::new();
    let mut places: BTreeMap<_, u32> = BTreeMap::new();
    for eni in state.enis.values().map(|record| &record.eni) {
        for address in eni.networks().iter().flat_map(|network| network.iter()) {
            assert!(taken.insert(address), "{address} is held twice");
            assert!(
                ipnetwork::IpNetwork::from(subnet.space.cidr()).contains(address),
                "{address} is outside"
            );
        }
        let limit = match &eni.attachment {
            None => 50,
            Some(held) => {
                let place = (held.network_card, held.device_index);
                *places.entry((held.instance.clone(), place)).or_default() += 1;
                assert!(state.instances[&held.instance].enis.contains(&eni.id));
                10
            }
        };
        assert!(eni.ipv4_places() <= limit, "{} has {} addresses", eni.id, eni.ipv4_places());
    }
    assert!(places.values().all(|count| *count == 1), "a place is held twice: {places:?}");
    for instance in state.instances.values() {
        assert!(instance.enis.len() <= 3);
        let attached = |id| state.enis.get(id).is_some_and(|record| record.eni.attachment.is_some());
        assert!(instance.enis.iter().all(attached));
    }
    assert_eq!(subnet.space.available() as usize, 64 - 5 - taken.len(), "free addresses");
}

#[test]
fn laws_hold_under_random_requests() {
    let mut accepted = 0;
    for seed in 0..60 {
        let mut settings = with_latencies(|latency| {
            latency.device_attach = Delay::spread(500, 3000, 5000);
            latency.device_detach = Delay::spread(500, 3000, 5000);
        });
        settings.seed = seed;
        let bench = Bench::with(settings, "10.0.1.0/26", "m5.large");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..80 {
            let form = request(&mut rng, &bench);
            let before = bench.cloud.enis();
            let reply = bench.call(&form);
            if reply.status == 200 {
                accepted += 1;
            } else {
                assert_eq!(bench.cloud.enis(), before, "refused, and yet it changed something: {form}");
            }
            bench.cloud.with_state(|state, _| check_laws(&bench, state));
            bench.wait(Duration::from_millis(rng.random_range(0..1500)));
        }
    }
    // Both sides of the laws were visited.
    assert!((1000..4000).contains(&accepted), "{accepted} of 4800 accepted");
}
