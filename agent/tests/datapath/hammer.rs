//! Packets decided on one processor while another overwrites what they are decided by, a million times a second: no
//! value that is half one and half another, or another key's, ever decides.
//!
//! Whatever the maps hold at any moment, the packet is denied. Every mixture of two values, every value of another
//! key and every entry that is missed lets it pass.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use ebpf_common::abi::{
    CidrValue, Direction, Endpoint, EndpointFlags, PeerValue, SlotValue, VipKey, VipValue, map, proto,
};
use ebpf_common::frame::Frame;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, TestContext};
use zerocopy::IntoBytes;

use super::wire::counted;
use super::world::{MAC, Node, ifindex, ip, options, row, rules};

const DURATION: Duration = Duration::from_secs(2);
/// Entries of one call: the kernel writes them one after the other.
const BATCH: usize = 1000;
/// Packets of one test run.
const REPEAT: u32 = 2000;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// A pinned map, written by the bare system call: more than anybody would write in earnest.
struct Raw(MapData);

/// The fields of `union bpf_attr` that a batch needs.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Raw {
    fn open(root: &Path, name: &str) -> Result<Self> {
        let pin = root.join(format!("v{}", ebpf_common::abi::ABI_VERSION)).join(name);
        Ok(Self(MapData::from_pin(&pin).with_context(|| pin.display().to_string())?))
    }

    /// Writes all entries in their order.
    fn write<K: IntoBytes, V: IntoBytes>(&self, keys: &[K], values: &[V]) -> Result<()> {
        ensure!(keys.len() == values.len());
        let batch = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len())?,
            map_fd: u32::try_from(self.0.fd().as_fd().as_raw_fd())?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values are as many as said, and of the sizes that the map has.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw const batch, size_of::<Batch>())
        };
        ensure!(done == 0, "writing: {}", std::io::Error::last_os_error());
        Ok(())
    }
}

fn run_on(processor: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// Runs a packet on one processor while `write` overwrites on the other; the packet never passes.
fn hammer(
    dp: &Datapath,
    what: &str,
    (direction, frame): (Direction, &Frame),
    write: impl Fn() -> Result<usize> + Send + Sync,
) -> Result<()> {
    let link = ifindex("pa")?;
    let before = counted(dp)?;
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            run_on(1)?;
            while !stop.load(Ordering::Relaxed) {
                writes.fetch_add(write()? as u64, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let reader = scope.spawn(|| {
            run_on(0)?;
            let context = TestContext { ifindex: link, ingress_ifindex: link + 100, repeat: REPEAT };
            let frame = frame.bytes();
            while begin.elapsed() < DURATION {
                dp.test_run(direction, &frame, &context)?;
            }
            anyhow::Ok(())
        });
        let read = reader.join();
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        read.map_err(|_| anyhow::anyhow!("the reader panicked"))?
    })?;
    let took = begin.elapsed();
    let mut seen = counted(dp)?;
    for one in &mut seen {
        one.2 -= before.iter().find(|old| (old.0, old.1) == (one.0, one.1)).map_or(0, |old| old.2);
    }
    seen.retain(|one| one.2 != 0);
    let packets: u64 = seen.iter().map(|one| one.2).sum();
    let rate = writes.load(Ordering::Relaxed) as f64 / took.as_secs_f64() / 1e6;
    println!("{what}: {packets} packets beside {rate:.2} million overwrites a second: {seen:?}");
    for (_, reason, packets) in &seen {
        ensure!(!reason.passes(), "{what}: {packets} packets {reason:?}");
    }
    ensure!(packets > 1000 && rate > 0.01, "{what}: that is no hammer");
    Ok(())
}

pub(crate) fn hammered() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let link = ifindex("pa")?;
        dp.apply(&rules()?)?;
        // Set 5 allows class 6 everything and nobody else anything; set 7 allows everybody.
        dp.apply(&[
            Step::AddRows(vec![row(5, 0, 0, 50), row(5, 6, 1, 51), row(7, 0, 1, 52)]),
            // Who is missed is of class 6.
            Step::SetCidrs(vec![("10.0.7.0/24".parse()?, CidrValue::new(6))]),
        ])?;
        let pod = |address, set_in, set_out, epoch| {
            let flags = EndpointFlags::ACTIVE | EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT;
            let ep = Endpoint {
                ifindex: link,
                flags,
                set_in,
                set_out,
                epoch,
                addr4: address,
                mac: MAC,
                ..Endpoint::EMPTY
            };
            ep.sealed(1)
        };
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.7.7")?);
        let out = Frame::tcp((me, 1), (peer, 80), 2);
        let into = Frame::tcp((peer, 80), (me, 1), 2);

        // The slot is one pod's that may nothing, and another's that may everything.
        let ep = Raw::open(&node.root, map::EP)?;
        let pods: Vec<Endpoint> =
            [pod([10, 0, 0, 1], 5, 5, 1), pod([10, 0, 0, 3], 7, 7, 2)].repeat(BATCH / 2);
        let slots = vec![1_u32; pods.len()];
        dp.apply(&[Step::SetPeers(vec![(peer, PeerValue::new(peer, 5))])])?;
        Raw::open(&node.root, map::IFSLOT)?.write(&[link], &[SlotValue::new(link, 1)])?;
        let both = || ep.write(&slots, &pods).map(|()| pods.len());
        hammer(dp, "ep from-pod", (Direction::Out, &out), both)?;
        hammer(dp, "ep to-pod", (Direction::In, &into), both)?;

        // The peer's own values both deny; that of its neighbours, and none at all, let pass.
        ep.write(&slots[..1], &pods[..1])?;
        let peers = Raw::open(&node.root, map::PEER4)?;
        let others: Vec<[u8; 4]> = (0..100).map(|last| [10, 0, 8, last]).collect();
        let mut keys: Vec<[u8; 4]> = Vec::new();
        let mut values = Vec::new();
        for (number, other) in others.iter().cycle().take(BATCH / 2).enumerate() {
            keys.extend([[10, 0, 7, 7], *other]);
            let class = 8 + u32::from(number % 2 == 0);
            values.extend([PeerValue::new4([10, 0, 7, 7], class), PeerValue::new4(*other, 6)]);
        }
        let both = || peers.write(&keys, &values).map(|()| keys.len());
        hammer(dp, "peer from-pod", (Direction::Out, &out), both)?;
        hammer(dp, "peer to-pod", (Direction::In, &into), both)?;

        // And a Service's: both its values deny.
        let vips = Raw::open(&node.root, map::VIP)?;
        let service = |last| VipKey::new([10, 0, 7, last].into(), 80, proto::TCP);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for number in 0..BATCH / 2 {
            let other = service(100 + u8::try_from(number % 100)?);
            let own = service(9);
            keys.extend([own, other]);
            let class = 8 + u32::from(number % 2 == 0);
            values.extend([VipValue::new(&own, class, 80), VipValue::new(&other, 6, 80)]);
        }
        vips.write(&keys, &values)?;
        let out = Frame::tcp((me, 1), (ip("10.0.7.9")?, 80), 2);
        let both = || vips.write(&keys, &values).map(|()| keys.len());
        hammer(dp, "vip", (Direction::Out, &out), both)
    })
}
