//! Packets decided on one processor while another overwrites what they are decided by, a million times a second: no
//! value that is half one and half another, or another key's, ever decides.
//!
//! Whatever the maps hold at any moment, the packet is denied. Every mixture of two values, every value of another
//! key and every entry that is missed lets it pass. A pod's own values are whole at any moment, in its slot or in the
//! shadow: of them no packet is denied for anything but what they say, and none where both allow it.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use ebpf_common::abi::{
    CidrValue, Direction, Endpoint, EndpointFlags, PeerValue, Reason, SlotValue, VipKey, VipValue, map,
    proto, shadow_of,
};
use ebpf_common::frame::Frame;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, TestContext};
use zerocopy::IntoBytes;

use super::wire::counted;
use super::world::{MAC, Node, ifindex, ip, options, row, rules, sets};

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

/// Runs a packet on one processor while `write` overwrites on the other; all that is counted is expected.
fn hammer(
    dp: &Datapath,
    what: &str,
    expected: fn(Reason) -> bool,
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
        ensure!(expected(*reason), "{what}: {packets} packets {reason:?}");
    }
    ensure!(packets > 1000 && rate > 0.01, "{what}: that is no hammer");
    Ok(())
}

/// Denied by what one of the pods is, or by what the other is.
fn denied(reason: Reason) -> bool {
    matches!(reason, Reason::Policy | Reason::Spoofed | Reason::NotOurs)
}

fn dropped(reason: Reason) -> bool {
    !reason.passes()
}

/// The value of slot 1: a pod with one set in both directions.
fn pod(ifindex: u32, addr4: [u8; 4], set: u32, epoch: u32) -> Endpoint {
    let flags = EndpointFlags::ACTIVE | EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT;
    let (set_in, set_out) = (set, set);
    Endpoint { ifindex, flags, set_in, set_out, epoch, addr4, mac: MAC, ..Endpoint::EMPTY }.sealed(1)
}

/// A writer that has lost its processor in the middle.
pub(crate) fn shadow_of_a_torn_endpoint() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let link = ifindex("pa")?;
        dp.apply(&[Step::AddRows(vec![row(5, 0, 0, 50), row(7, 0, 1, 52)])])?;
        let spec = EndpointSpec { ifindex: link, mac: MAC, ..EndpointSpec::default() };
        dp.set_endpoint(1, &spec.with_address(ip("10.0.0.1")?))?;
        dp.apply(&[sets(1, 7, 7, 1)])?;
        let ep = Raw::open(&node.root, map::EP)?;
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.7.7")?);
        let context = TestContext { ifindex: link, ingress_ifindex: link, repeat: 1 };
        let [old, new] = [pod(link, [10, 0, 0, 1], 7, 1), pod(link, [10, 0, 0, 1], 5, 2)];
        let torn = Endpoint { set_out: new.set_out, ..old };
        let of = |dp: &Datapath, reason| -> Result<u64> {
            Ok(counted(dp)?.iter().filter(|one| one.1 == reason).map(|one| one.2).sum())
        };
        let mut port = 0;
        let mut ask = |dp: &Datapath, what: &str, reason: Reason| {
            port += 1;
            let before = of(dp, reason)?;
            dp.test_run(Direction::Out, &Frame::tcp((me, port), (peer, 80), 2).bytes(), &context)?;
            ensure!(of(dp, reason)? == before + 1, "{what}, not {reason:?}: {:?}", counted(dp)?);
            Ok(())
        };
        ep.write(&[1], &[torn])?;
        ask(dp, "as the agent wrote it", Reason::New)?;
        ep.write(&[shadow_of(1)], &[new])?;
        ask(dp, "as the shadow says now", Reason::Policy)?;
        ep.write(&[shadow_of(1)], &[torn])?;
        ask(dp, "neither is whole", Reason::Torn)?;
        dp.clear_endpoint(1)?;
        Raw::open(&node.root, map::IFSLOT)?.write(&[link], &[SlotValue::new(link, 1)])?;
        ep.write(&[1], &[torn])?;
        ask(dp, "while it is emptied", Reason::NoEndpoint)
    })
}

pub(crate) fn hammered() -> Result<()> {
    let node = Node::new()?;
    node.ns.ip("link add pa type veth peer name a1")?;
    node.with(&options(), |dp| {
        let link = ifindex("pa")?;
        dp.apply(&rules()?)?;
        // Set 5 allows class 6 everything and nobody else anything; set 7 allows everybody.
        dp.apply(&[
            Step::AddRows(vec![row(5, 0, 0, 50), row(5, 6, 1, 51), row(7, 0, 1, 52), row(8, 0, 1, 53)]),
            // Who is missed is of class 6.
            Step::SetCidrs(vec![("10.0.7.0/24".parse()?, CidrValue::new(6))]),
        ])?;
        let (me, peer) = (ip("10.0.0.1")?, ip("10.0.7.7")?);
        let out = Frame::tcp((me, 1), (peer, 80), 2);
        let into = Frame::tcp((peer, 80), (me, 1), 2);

        // The slot is one pod's that may nothing, and another's that may everything.
        let ep = Raw::open(&node.root, map::EP)?;
        let slots = [shadow_of(1), 1].repeat(BATCH / 2);
        let closed = pod(link, [10, 0, 0, 1], 5, 1);
        let other = pod(link, [10, 0, 0, 3], 7, 2);
        dp.apply(&[Step::SetPeers(vec![(peer, PeerValue::new(peer, 5))])])?;
        Raw::open(&node.root, map::IFSLOT)?.write(&[link], &[SlotValue::new(link, 1)])?;
        // Before the writer's first turn the slot would be nobody's.
        ep.write(&slots[..2], &[closed; 2])?;
        let pods = [closed, closed, other, other].repeat(BATCH / 4);
        let both = || ep.write(&slots, &pods).map(|()| pods.len());
        hammer(dp, "ep from-pod", denied, (Direction::Out, &out), both)?;
        hammer(dp, "ep to-pod", denied, (Direction::In, &into), both)?;
        // One pod, and policy that changes and allows the packet before and after.
        let [one, two] = [pod(link, [10, 0, 0, 1], 7, 3), pod(link, [10, 0, 0, 1], 8, 4)];
        ep.write(&slots[..2], &[one; 2])?;
        let pods = [one, one, two, two].repeat(BATCH / 4);
        let both = || ep.write(&slots, &pods).map(|()| pods.len());
        hammer(dp, "ep allowed from-pod", Reason::passes, (Direction::Out, &out), both)?;
        hammer(dp, "ep allowed to-pod", Reason::passes, (Direction::In, &into), both)?;

        // The peer's own values both deny; that of its neighbours, and none at all, let pass. Another frame: the one
        // before has a flow by now.
        let out = Frame::tcp((me, 2), (peer, 80), 2);
        let into = Frame::tcp((peer, 80), (me, 2), 2);
        ep.write(&slots[..2], &[closed; 2])?;
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
        hammer(dp, "peer from-pod", dropped, (Direction::Out, &out), both)?;
        hammer(dp, "peer to-pod", dropped, (Direction::In, &into), both)?;

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
        hammer(dp, "vip", dropped, (Direction::Out, &out), both)
    })
}
