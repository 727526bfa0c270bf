//! Loading, and what a loaded datapath is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use ebpf_common::abi::{self, ABI_VERSION, Meta, map};

use super::bulk::Bulk;
use super::incumbent::Incumbent;
use super::maps::Maps;
use super::plain::Plain;
use super::{EventReader, MapError, OpenError, Sizes, bpffs, object};

/// Names of the programs in the object.
pub(super) const FROM_POD: &str = "from_pod";
pub(super) const TO_POD: &str = "to_pod";

/// What holds for the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Capacities of maps that are not there yet.
    pub sizes: Sizes,
    /// Packets to a pod from any address of this node pass, whoever sent them:
    /// NodePort clients then bypass ingress policy. For compatibility only.
    pub trust_node_addresses: bool,
    /// Every pod is audited: what policy denies is counted and passes.
    pub audit_all: bool,
}

/// The loaded programs and the open maps.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) bulk: Bulk,
    pub(super) netlink: netlink::Socket,
    pub(super) pins: PathBuf,
    pub(super) incumbent: Incumbent,
    /// The kernel's ids of the loaded programs.
    pub(super) ids: BTreeMap<&'static str, u32>,
    pub(super) events: Option<EventReader>,
    fresh: bool,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs of `object` over the maps pinned below `root`, which are
    /// made where they are not. Filters that are attached go on with the programs
    /// that they have until [`Datapath::attach`] replaces those.
    ///
    /// # Errors
    /// Where the object is empty or of another layout version, `root` is not on bpffs, a pinned map is not what
    /// it should be, or the kernel refuses something.
    pub fn open(object: &[u8], root: &Path, options: &Options) -> Result<Self, OpenError> {
        if object.is_empty() {
            return Err(OpenError::NoObject);
        }
        object::check_version(object)?;
        let pins = bpffs::pin_directory(root)?;
        for wanted in SHAPES {
            wanted.check(&pins)?;
        }
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, pins.join(name));
        }
        for (name, capacity) in options.sizes.by_map() {
            loader.map_max_entries(name, capacity);
        }
        let trust = u8::from(options.trust_node_addresses);
        let audit = u8::from(options.audit_all);
        loader.override_global("TRUST_NODE_ADDRESSES", &trust, true);
        loader.override_global("AUDIT_ALL", &audit, true);
        let mut ebpf = loader.load(object).map_err(|error| OpenError::Load(Box::new(error)))?;
        let mut ids = BTreeMap::new();
        for name in [FROM_POD, TO_POD] {
            let program = program_mut(&mut ebpf, name).ok_or(OpenError::Missing { name })?;
            let info = program.load().and_then(|()| program.info());
            let info = info.map_err(|source| OpenError::Program { name, source: Box::new(source) })?;
            ids.insert(name, info.id());
        }
        let events = ebpf.take_map(map::EVENTS).ok_or(OpenError::Missing { name: map::EVENTS })?;
        let ring = events.try_into().map_err(MapError::aya(map::EVENTS, "map it"))?;
        let events = EventReader::open(ring, &pins)?;
        let bulk = Bulk::of(&ebpf)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let fresh = check_version(&mut maps)?;
        let netlink = netlink::Socket::open()?;
        let incumbent = Incumbent::beside(root);
        Ok(Self { ebpf, maps, bulk, netlink, pins, incumbent, ids, events: Some(events), fresh })
    }

    /// Whether the maps were made by this call: what filters that stand already know of flows is in others.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The last epoch that was written to an endpoint on this node since it booted.
    ///
    /// # Errors
    /// Where the map can not be read.
    pub fn last_epoch(&self) -> Result<u32, MapError> {
        Ok(self.maps.meta.get(&0, 0).map_err(MapError::aya(map::META, "read it"))?.0.epoch)
    }

    /// Notes epochs that were given out; the highest stays.
    pub(super) fn note_epoch(&mut self, epoch: u32) -> Result<(), MapError> {
        if epoch > self.last_epoch()? {
            let meta = Meta { abi_version: ABI_VERSION, epoch };
            self.maps.meta.set(0, Plain(meta), 0).map_err(MapError::aya(map::META, "write it"))?;
        }
        Ok(())
    }

    pub(super) fn program(&self, name: &str) -> Option<&SchedClassifier> {
        self.ebpf.program(name)?.try_into().ok()
    }
}

pub(super) fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Option<&'a mut SchedClassifier> {
    ebpf.program_mut(name)?.try_into().ok()
}

/// Whether the maps are new.
fn check_version(maps: &mut Maps) -> Result<bool, OpenError> {
    let meta = maps.meta.get(&0, 0).map_err(MapError::aya(map::META, "read it"))?.0;
    match meta.abi_version {
        ABI_VERSION => Ok(false),
        0 => {
            let meta = Meta { abi_version: ABI_VERSION, epoch: 0 };
            maps.meta.set(0, Plain(meta), 0).map_err(MapError::aya(map::META, "write it"))?;
            Ok(true)
        }
        found => Err(OpenError::Version { found, wanted: ABI_VERSION }),
    }
}

/// What a pinned map must be. The loader takes any map that it finds by name.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
}

const fn shape<K, V>(name: &'static str, kind: MapType) -> Shape {
    Shape { name, kind, key: size_of::<K>(), value: size_of::<V>() }
}

const SHAPES: &[Shape] = &[
    shape::<u32, abi::Endpoint>(map::EP, MapType::Array),
    shape::<u32, abi::SlotValue>(map::IFSLOT, MapType::Hash),
    shape::<abi::PeerKey4, abi::PeerValue>(map::PEER4, MapType::Hash),
    shape::<abi::PeerKey6, abi::PeerValue>(map::PEER6, MapType::Hash),
    shape::<abi::CidrKey4, abi::CidrValue>(map::CIDR4, MapType::LpmTrie),
    shape::<abi::CidrKey6, abi::CidrValue>(map::CIDR6, MapType::LpmTrie),
    shape::<abi::RowKey, abi::RowValue>(map::ROW, MapType::Hash),
    shape::<abi::PortKey, abi::PortValue>(map::PORT, MapType::Hash),
    shape::<abi::VipKey, abi::VipValue>(map::VIP, MapType::Hash),
    shape::<abi::CtKey, abi::CtValue>(map::CT, MapType::LruHash),
    shape::<abi::CtKey, abi::CtValue>(map::CT_NEW, MapType::LruHash),
    shape::<abi::FragKey, abi::FragValue>(map::FRAG, MapType::LruHash),
    shape::<u32, u64>(map::BUDGET, MapType::Array),
    shape::<u32, abi::Counter>(map::STATS, MapType::PerCpuArray),
    shape::<u32, abi::Counter>(map::RULEHITS, MapType::PerCpuArray),
    shape::<(), ()>(map::EVENTS, MapType::RingBuf),
    shape::<u32, abi::Control>(map::CONTROL, MapType::Array),
    shape::<u32, Meta>(map::META, MapType::Array),
];

impl Shape {
    /// A map that is not pinned yet will be made right.
    fn check(&self, pins: &Path) -> Result<(), OpenError> {
        let path = pins.join(self.name);
        if !path.exists() {
            return Ok(());
        }
        let info = MapInfo::from_pin(&path).map_err(MapError::aya(self.name, "look at its pin"))?;
        let kind = info.map_type().map_err(MapError::aya(self.name, "know its type"))?;
        let pairs = [
            ("type", kind as u32, self.kind as u32),
            ("key size", info.key_size(), u32::try_from(self.key).unwrap_or(u32::MAX)),
            ("value size", info.value_size(), u32::try_from(self.value).unwrap_or(u32::MAX)),
        ];
        match pairs.into_iter().find(|(_, found, wanted)| found != wanted) {
            Some((what, found, wanted)) => Err(OpenError::PinnedMap { name: self.name, what, found, wanted }),
            None => Ok(()),
        }
    }
}
