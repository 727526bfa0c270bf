//! Frames as a pod may send them, and what of them comes out at the other end.
//!
//! Pods A and B of [`Pods`] in both families, and somebody outside at the node's eth0, who has no filter. Everybody is
//! of class 5, so that set 1 allows TCP/80 and UDP/53 between all of them, and nothing else.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::{Direction, PeerValue, Reason, proto};
use ebpf_common::frame::Frame;
use kernel_test::{NetNs, wait_for};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Via};

use super::packets::{GATEWAY_MAC, LATE, Pods, count, send_frame};
use super::world::{ifindex, ip, options, row, rules, sets};

/// The longest frame that is looked at.
const FRAME: usize = 16_384;
/// What the frame carries that tells that all before it have come.
const WITNESS: &[u8] = b"witness";

/// Somebody who sends or receives frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Pod A, slot 1.
    A,
    /// Pod B, slot 2.
    B,
    /// Beyond the node's eth0.
    Outside,
}

impl Who {
    pub(crate) fn v4(self) -> IpAddr {
        match self {
            Self::A => IpAddr::from([10, 0, 0, 1]),
            Self::B => IpAddr::from([10, 0, 0, 2]),
            Self::Outside => IpAddr::from([10, 0, 9, 1]),
        }
    }

    pub(crate) fn v6(self) -> IpAddr {
        match self {
            Self::A => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
            Self::B => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]),
            Self::Outside => IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, 1]),
        }
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        match self {
            Self::A => [2, 0, 0, 0, 0, 1],
            Self::B => [2, 0, 0, 0, 0, 2],
            Self::Outside => [2, 0, 0, 0, 0, 9],
        }
    }
}

/// The pods with both families and somebody outside.
pub(crate) struct Wire {
    pub(crate) pods: Pods,
    pub(crate) outside: NetNs,
    taps: [Tap; 3],
    sent: AtomicU16,
}

impl Wire {
    pub(crate) fn new() -> Result<Self> {
        let pods = Pods::new()?;
        let outside = NetNs::new()?;
        let tid = outside.path().to_string_lossy().split('/').nth(4).context("a thread's path")?.to_owned();
        pods.node.ns.ip(&format!(
            "link add eth0 address {GATEWAY_MAC} mtu 9001 type veth peer name eth0 netns {tid} address 02:00:00:00:00:09 mtu 9001
             link set eth0 up
             addr add fd00::100/128 dev lo nodad
             neigh add 10.0.9.1 dev eth0 lladdr 02:00:00:00:00:09
             route add 10.0.9.0/24 dev eth0 scope link src 10.0.0.100
             neigh add fd00:9::1 dev eth0 lladdr 02:00:00:00:00:09
             route add fd00:9::/64 dev eth0"
        ))?;
        outside.ip(&format!(
            "link set lo up
             link set eth0 up
             addr add 10.0.9.1/32 dev eth0
             neigh add 169.254.1.1 dev eth0 lladdr {GATEWAY_MAC}
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             addr add fd00:9::1/128 dev eth0 nodad
             neigh add fe80::fe dev eth0 lladdr {GATEWAY_MAC}
             route add default via fe80::fe dev eth0"
        ))?;
        for (name, pod, last) in [("ha", &pods.a, 1), ("hb", &pods.b, 2)] {
            pods.node.ns.ip(&format!(
                "neigh add fd00::{last} dev {name} lladdr 02:00:00:00:00:0{last}
                 route add fd00::{last}/128 dev {name}"
            ))?;
            pod.ip(&format!(
                "addr add fd00::{last}/128 dev eth0 nodad
                 neigh add fe80::fe dev eth0 lladdr {GATEWAY_MAC}
                 route add default via fe80::fe dev eth0"
            ))?;
        }
        pods.node.ns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1"))?;
        let taps = [Tap::open(&pods.a)?, Tap::open(&pods.b)?, Tap::open(&outside)?];
        Ok(Self { pods, outside, taps, sent: AtomicU16::new(50_000) })
    }

    /// With both pods behind filters: A isolated for egress and B for ingress, each by set 1; set 3 denies all.
    pub(crate) fn with(&self, work: impl FnOnce(&mut Datapath) -> Result<()> + Send) -> Result<()> {
        self.pods.node.with(&options(), |dp| {
            dp.apply(&rules()?)?;
            let everybody = [Who::A, Who::B].into_iter().flat_map(|who| [who.v4(), who.v6()]);
            let classes = everybody.map(|address| (address, PeerValue::new(address, 5))).collect();
            let node = [ip("10.0.0.100")?, ip("fd00::100")?];
            let node = node.map(|address| (address, PeerValue::new(address, 0).local_node())).to_vec();
            dp.apply(&[
                Step::AddRows(vec![row(3, 0, 0, 50)]),
                Step::SetPeers(classes),
                Step::SetPeers(node),
            ])?;
            for (slot, name, who) in [(1, "ha", Who::A), (2, "hb", Who::B)] {
                let index = ifindex(name)?;
                let spec = EndpointSpec { ifindex: index, mac: who.mac(), ..EndpointSpec::default() };
                dp.set_endpoint(slot, &spec.with_address(who.v4()).with_address(who.v6()))?;
                dp.attach(index, name, slot, Via::Clsact, false)?;
            }
            dp.apply(&[sets(1, 0, 1, 1), sets(2, 1, 0, 1)])?;
            work(dp)
        })
    }

    pub(crate) fn ns(&self, who: Who) -> &NetNs {
        match who {
            Who::A => &self.pods.a,
            Who::B => &self.pods.b,
            Who::Outside => &self.outside,
        }
    }

    /// Sends frames with nothing but the link header as it should be, and tells which came out at the other end.
    pub(crate) fn send(&self, from: Who, to: Who, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        self.send_by(from, to, || {
            frames.iter().try_for_each(|frame| {
                let mut frame = frame.clone();
                frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
                send_frame("eth0", &frame)
            })
        })
    }

    /// The same for frames that `work` sends in the sender's namespace.
    pub(crate) fn send_by(
        &self,
        from: Who,
        to: Who,
        work: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Vec<Vec<u8>>> {
        let tap = &self.taps[to as usize];
        tap.frames();
        let port = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut witness = Frame::udp((from.v4(), port), (to.v4(), 53));
        witness.src_mac = from.mac();
        witness.payload.extend_from_slice(WITNESS);
        let size = u16::try_from(witness.payload.len())?;
        witness.payload[4..6].copy_from_slice(&size.to_be_bytes());
        self.ns(from).run(|| {
            // Frames of one processor stay in their order.
            let mut one = CpuSet::new();
            one.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &one)?;
            work()?;
            send_frame("eth0", &witness.bytes())
        })?;
        let mut came = Vec::new();
        wait_for("the frame that is allowed", LATE, || {
            came.extend(tap.frames());
            came.iter().any(|frame| is_witness(frame, port)).then_some(())
        })?;
        came.retain(|frame| !is_witness(frame, port) && !is_links_own(frame));
        Ok(came)
    }

    /// None of the frames comes out, and the filter counts one of this reason at least.
    pub(crate) fn refuses(
        &self,
        dp: &Datapath,
        (from, to): (Who, Who),
        what: &str,
        frames: &[Frame],
        reason: Reason,
    ) -> Result<()> {
        let frames: Vec<_> = frames.iter().map(|frame| as_sent(from, frame)).collect();
        self.refuses_bytes(dp, (from, to), what, &frames, reason)
    }

    /// The same for frames that are what they are.
    pub(crate) fn refuses_bytes(
        &self,
        dp: &Datapath,
        (from, to): (Who, Who),
        what: &str,
        frames: &[Vec<u8>],
        reason: Reason,
    ) -> Result<()> {
        let before = count(dp, reason)?;
        let came = self.send(from, to, frames)?;
        ensure!(came.is_empty(), "{what}: {} came through: {:02x?}", came.len(), came[0]);
        ensure!(count(dp, reason)? > before, "{what}: not counted as {reason:?}: {:?}", counted(dp)?);
        Ok(())
    }

    /// All frames come out.
    pub(crate) fn carries(&self, (from, to): (Who, Who), what: &str, frames: &[Frame]) -> Result<()> {
        let bytes: Vec<_> = frames.iter().map(|frame| as_sent(from, frame)).collect();
        let came = self.send(from, to, &bytes)?;
        ensure!(came.len() >= frames.len(), "{what}: {} of {} came", came.len(), frames.len());
        Ok(())
    }
}

fn as_sent(from: Who, frame: &Frame) -> Vec<u8> {
    let mut frame = frame.clone();
    if frame.src_mac == Who::A.mac() {
        frame.src_mac = from.mac();
    }
    frame.bytes()
}

fn is_witness(frame: &[u8], port: u16) -> bool {
    frame.get(34..36) == Some(&port.to_be_bytes()) && frame.windows(WITNESS.len()).any(|some| some == WITNESS)
}

/// What links speak by themselves: ARP, neighbour and listener discovery.
fn is_links_own(frame: &[u8]) -> bool {
    let link_local = frame.get(22..24).is_some_and(|source| source[0] == 0xfe && source[1] & 0xc0 == 0x80);
    let unspecified = frame.get(22..38) == Some(&[0; 16]);
    match frame.get(12..14) {
        Some([8, 6]) => true,
        Some([0x86, 0xdd]) => {
            link_local || unspecified || frame.get(20) == Some(&proto::ICMPV6) && frame.get(54) == Some(&135)
        }
        _ => false,
    }
}

/// Everything that arrives at eth0 of a namespace.
struct Tap(OwnedFd);

impl Tap {
    fn open(ns: &NetNs) -> Result<Self> {
        ns.run(|| {
            let all = u16::to_be(libc::ETH_P_ALL.try_into()?);
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: the call takes integers only.
            let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
            ensure!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
            // SAFETY: the descriptor was just made and belongs to nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
            let address = super::packets::link_address("eth0", all)?;
            // SAFETY: the address is valid for the length that is given.
            let bound = unsafe {
                libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address).try_into()?)
            };
            ensure!(bound == 0, "binding: {}", std::io::Error::last_os_error());
            Ok(Self(fd))
        })
    }

    /// What came since the last look.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; FRAME];
        // SAFETY: the buffer is as long as said.
        while let Ok(len) = usize::try_from(unsafe {
            libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
        }) {
            found.push(buffer[..len].to_vec());
        }
        found
    }
}

/// Sets an option of a socket.
pub(crate) fn set_option<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> Result<()> {
    // SAFETY: the value is as long as said.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>().try_into()?,
        )
    };
    ensure!(done == 0, "option {name}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// What was counted at all.
pub(crate) fn counted(dp: &Datapath) -> Result<Vec<(Direction, Reason, u64)>> {
    let seen = dp.counters()?.into_iter().filter(|count| count.packets != 0);
    Ok(seen.map(|count| (count.direction, count.reason, count.packets)).collect())
}
