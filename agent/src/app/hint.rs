//! What the metadata service lists against what the pool believes.
//!
//! The service is free to ask and lags behind EC2: it is a hint, never the truth. A difference is worth a question to
//! EC2 only where the pool's own last step is older than that lag, and only once in a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam_core::MacAddr;
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use crate::ipam::{EniPhase, PoolView};

/// Something that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// An ENI at this instance.
    Eni(MacAddr),
    /// An address or a prefix on it.
    Block(MacAddr, IpNetwork),
}

impl Item {
    pub(super) const fn mac(self) -> MacAddr {
        match self {
            Self::Eni(mac) | Self::Block(mac, _) => mac,
        }
    }
}

/// What the service lists: of the pool's own ENIs with their addresses, of others only that they are there.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    pub(super) enis: BTreeSet<MacAddr>,
    pub(super) blocks: BTreeMap<MacAddr, BTreeSet<IpNetwork>>,
}

/// Remembers when the pool's belief changed, and what was told.
#[derive(Debug, Default)]
pub(super) struct Hints {
    believed: BTreeSet<Item>,
    /// When an item came or went by the pool's own word.
    turned: BTreeMap<Item, Instant>,
    told: BTreeMap<Item, Telling>,
}

/// When a difference was told last, and how often before.
#[derive(Debug, Clone, Copy)]
struct Telling {
    at: Instant,
    times: u32,
}

/// The pause before a difference is told once more doubles this often at most.
const DOUBLINGS: u32 = 6;

impl Hints {
    /// The pool believes this from `now` on.
    pub(super) fn believe(&mut self, view: &PoolView, now: Instant) {
        let believed = items(view);
        for item in believed.symmetric_difference(&self.believed) {
            self.turned.insert(*item, now);
        }
        self.believed = believed;
    }

    /// What EC2 is to be asked about. `lag` is how far the service may be behind; the same is told again after that
    /// long, when EC2 could not decide, and then ever more seldom: a service that stays wrong must not make a
    /// fleet ask for ever.
    pub(super) fn differences(
        &mut self,
        view: &PoolView,
        listing: &Listing,
        now: Instant,
        lag: Duration,
    ) -> Vec<Item> {
        let recent = |at: &Instant| now.duration_since(*at) < lag;
        self.turned.retain(|_, at| recent(at));
        let leaving: BTreeSet<MacAddr> =
            view.enis.iter().filter(|eni| eni.phase == EniPhase::Draining).map(|eni| eni.mac).collect();
        let primary: BTreeSet<IpAddr> = view.enis.iter().map(|eni| eni.primary_ip).collect();
        let mut listed: BTreeSet<Item> = listing.enis.iter().map(|mac| Item::Eni(*mac)).collect();
        for (mac, blocks) in &listing.blocks {
            let pods = blocks.iter().filter(|block| !(is_single(**block) && primary.contains(&block.ip())));
            listed.extend(pods.map(|block| Item::Block(*mac, *block)));
        }
        let differing: BTreeSet<Item> = listed
            .symmetric_difference(&self.believed)
            .filter(|item| !leaving.contains(&item.mac()) && !self.turned.contains_key(item))
            // Addresses of an ENI that was not read say nothing.
            .filter(|item| matches!(item, Item::Eni(_)) || listing.blocks.contains_key(&item.mac()))
            .copied()
            .collect();
        self.told.retain(|item, _| differing.contains(item));
        let rests = |item: &Item| {
            let pause = |telling: &Telling| lag * (1 << telling.times.min(DOUBLINGS));
            self.told.get(item).is_some_and(|telling| now.duration_since(telling.at) < pause(telling))
        };
        let news: Vec<Item> = differing.into_iter().filter(|item| !rests(item)).collect();
        for item in &news {
            let times = self.told.get(item).map_or(0, |telling| telling.times + 1);
            self.told.insert(*item, Telling { at: now, times });
        }
        news
    }
}

fn items(view: &PoolView) -> BTreeSet<Item> {
    let mut items = BTreeSet::new();
    for eni in view.enis.iter().filter(|eni| eni.device_index.is_some()) {
        items.insert(Item::Eni(eni.mac));
        if eni.foreign.is_none() {
            items.extend(eni.addresses.iter().map(|one| Item::Block(eni.mac, IpNetwork::from(*one))));
            items.extend(eni.prefixes.iter().map(|prefix| Item::Block(eni.mac, *prefix)));
        }
    }
    items
}

fn is_single(block: IpNetwork) -> bool {
    block.prefix() == if block.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use ipam_core::{EniId, MacAddr, SubnetId};
    use ipnetwork::IpNetwork;
    use tokio::time::Instant;

    use super::{Hints, Item, Listing};
    use crate::ipam::{EniPhase, EniView, PoolView};

    const LAG: Duration = Duration::from_secs(60);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn view(addresses: &[&str]) -> PoolView {
        let address = |text: &&str| text.parse().expect("an address");
        let eni = EniView {
            id: EniId::new("eni-1"),
            mac: MAC,
            is_primary: true,
            foreign: None,
            phase: EniPhase::Attached,
            device_index: Some(0),
            network_card: 0,
            subnet: SubnetId::new("subnet-1"),
            subnet_cidr: None,
            primary_ip: address(&"10.0.0.1"),
            is_linked: true,
            addresses: addresses.iter().map(address).collect(),
            prefixes: Vec::new(),
            leased: BTreeSet::new(),
        };
        PoolView { enis: vec![eni], ..PoolView::default() }
    }

    fn listing(enis: &[MacAddr], addresses: &[&str]) -> Listing {
        let blocks = addresses.iter().map(|text| block(text)).collect();
        Listing { enis: enis.iter().copied().collect(), blocks: [(MAC, blocks)].into() }
    }

    fn block(address: &str) -> IpNetwork {
        IpNetwork::from(address.parse::<std::net::IpAddr>().expect("an address"))
    }

    struct World {
        hints: Hints,
        view: PoolView,
        now: Instant,
    }

    impl World {
        fn new(addresses: &[&str]) -> Self {
            let mut world = Self { hints: Hints::default(), view: PoolView::default(), now: Instant::now() };
            world.believe(addresses);
            world.now += 2 * LAG;
            world
        }

        fn believe(&mut self, addresses: &[&str]) {
            self.view = view(addresses);
            self.hints.believe(&self.view, self.now);
        }

        fn differences(&mut self, listing: &Listing) -> Vec<Item> {
            self.hints.differences(&self.view, listing, self.now, LAG)
        }
    }

    #[test]
    fn agreement_asks_nothing() {
        let mut world = World::new(&["10.0.0.5"]);
        assert_eq!(world.differences(&listing(&[MAC], &["10.0.0.1", "10.0.0.5"])), []);
    }

    #[test]
    fn what_strangers_do_is_asked_once_and_again_when_undecided() {
        let mut world = World::new(&["10.0.0.5"]);
        let taken = listing(&[MAC], &["10.0.0.1"]);
        assert_eq!(world.differences(&taken), [Item::Block(MAC, block("10.0.0.5"))]);
        world.now += Duration::from_secs(30);
        assert_eq!(world.differences(&taken), []);
        world.now += Duration::from_secs(30);
        assert_eq!(world.differences(&taken), [Item::Block(MAC, block("10.0.0.5"))]);
        let given = listing(&[MAC], &["10.0.0.1", "10.0.0.5", "10.0.0.9"]);
        assert_eq!(world.differences(&given), [Item::Block(MAC, block("10.0.0.9"))]);
        let plugged = listing(&[MAC, OTHER], &["10.0.0.1", "10.0.0.5"]);
        assert_eq!(world.differences(&plugged), [Item::Eni(OTHER)]);
        let pulled = listing(&[], &[]);
        assert!(world.differences(&pulled).contains(&Item::Eni(MAC)));
    }

    #[test]
    fn a_service_that_stays_wrong_is_heeded_ever_more_seldom() {
        let mut world = World::new(&["10.0.0.5"]);
        let wrong = listing(&[MAC], &["10.0.0.1"]);
        let day = 24 * 3600;
        let mut asked = Vec::new();
        for second in (0..day).step_by(30) {
            if !world.differences(&wrong).is_empty() {
                asked.push(second);
            }
            world.now += Duration::from_secs(30);
        }
        assert_eq!(asked[..5], [0, 60, 180, 420, 900]);
        assert!(asked.len() < 30, "about once an hour: {asked:?}");
        assert_eq!(world.differences(&listing(&[MAC], &["10.0.0.1", "10.0.0.5"])), []);
        assert_eq!(world.differences(&wrong).len(), 1, "a new difference is news again");
    }

    #[test]
    fn the_services_lag_behind_the_pools_own_steps_is_no_difference() {
        let mut world = World::new(&["10.0.0.5"]);
        let old = listing(&[MAC], &["10.0.0.1", "10.0.0.5"]);
        // One more was assigned, one was given back.
        world.believe(&["10.0.0.6"]);
        world.now += Duration::from_secs(59);
        assert_eq!(world.differences(&old), []);
        world.now += Duration::from_secs(1);
        assert_eq!(world.differences(&old).len(), 2, "longer than any lag");
    }
}
