//! Real packets between two pods of one node.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::{PeerValue, Reason};
use ebpf_common::frame::Frame;
use kernel_test::NetNs;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, Via};

use super::world::{Node, ifindex, ip, options, row, rules, sets};

pub(crate) const SOON: Duration = Duration::from_millis(300);
pub(crate) const LATE: Duration = Duration::from_secs(10);
pub(crate) const GATEWAY_MAC: &str = "02:00:00:00:00:fe";

/// A node with pods A (10.0.0.1, slot 1) and B (10.0.0.2, slot 2), wired as the
/// plugin wires them. B is of class 5: TCP/80 and UDP/53 for set 1.
pub(crate) struct Pods {
    pub(crate) node: Node,
    pub(crate) a: NetNs,
    pub(crate) b: NetNs,
}

impl Pods {
    pub(crate) fn new() -> Result<Self> {
        let pods = Self { node: Node::new()?, a: NetNs::new()?, b: NetNs::new()? };
        pods.node.ns.ip("link set lo up\naddr add 10.0.0.100/32 dev lo")?;
        for (name, pod, last) in [("ha", &pods.a, 1), ("hb", &pods.b, 2)] {
            let tid = pod.path().to_string_lossy().split('/').nth(4).context("a thread's path")?.to_owned();
            pods.node.ns.ip(&format!(
                "link add {name} address {GATEWAY_MAC} mtu 9001 type veth peer name eth0 address 02:00:00:00:00:0{last} mtu 9001
                 link set eth0 netns {tid}
                 link set {name} up"
            ))?;
            pod.ip(&format!(
                "link set lo up
                 addr add 10.0.0.{last}/32 dev eth0
                 link set eth0 up
                 neigh add 169.254.1.1 dev eth0 lladdr {GATEWAY_MAC}
                 route add 169.254.1.1 dev eth0 scope link
                 route add default via 169.254.1.1"
            ))?;
            pods.node.ns.ip(&format!(
                "neigh add 10.0.0.{last} dev {name} lladdr 02:00:00:00:00:0{last}
                 route add 10.0.0.{last}/32 dev {name} scope link src 10.0.0.100"
            ))?;
        }
        pods.node.ns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?;
        Ok(pods)
    }

    /// With both pods behind filters, A isolated by set 1 for egress.
    fn with(&self, work: impl FnOnce(&mut Datapath) -> Result<()> + Send) -> Result<()> {
        let options = Options { ..options() };
        self.node.with(&options, |dp| {
            dp.apply(&rules()?)?;
            let b = ip("10.0.0.2")?;
            dp.apply(&[Step::SetPeers(vec![(b, PeerValue::new(b, 5))])])?;
            for (slot, name) in [(1_u32, "ha"), (2, "hb")] {
                let index = ifindex(name)?;
                let last = u8::try_from(slot)?;
                let spec =
                    EndpointSpec { ifindex: index, mac: [2, 0, 0, 0, 0, last], ..EndpointSpec::default() };
                dp.set_endpoint(slot, &spec.with_address(IpAddr::from([10, 0, 0, last])))?;
                dp.attach(index, name, slot, Via::Clsact, false)?;
            }
            dp.apply(&[sets(1, 0, 1, 1), sets(2, 0, 0, 1)])?;
            work(dp)
        })
    }

    pub(crate) fn listen(&self, port: u16) -> Result<TcpListener> {
        Ok(self.b.run(|| TcpListener::bind(("10.0.0.2", port)))?)
    }

    pub(crate) fn connect(&self, from: &NetNs, to: &str, port: u16) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(ip(to).map_err(std::io::Error::other)?, port);
        from.run(|| TcpStream::connect_timeout(&to, SOON))
    }
}

pub(crate) fn count(dp: &Datapath, reason: Reason) -> Result<u64> {
    Ok(dp.counters()?.iter().filter(|count| count.reason == reason).map(|count| count.packets).sum())
}

pub(crate) fn follow_policy() -> Result<()> {
    let pods = Pods::new()?;
    let _listeners = (pods.listen(80)?, pods.listen(81)?);
    pods.with(|dp| {
        pods.connect(&pods.a, "10.0.0.2", 80).context("allowed")?;
        let denied = pods.connect(&pods.a, "10.0.0.2", 81);
        ensure!(denied.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut), "{denied:?}");
        ensure!(count(dp, Reason::Policy)? > 0);
        pods.connect(&pods.node.ns, "10.0.0.2", 81).context("from the node")?;
        ensure!(count(dp, Reason::LocalNode)? > 0);
        // Ingress of B alone denies what A's egress allows.
        dp.apply(&[Step::AddRows(vec![row(3, 0, 0, 50)]), sets(2, 3, 0, 2)])?;
        let denied = pods.connect(&pods.a, "10.0.0.2", 80);
        ensure!(denied.is_err(), "{denied:?}");
        pods.connect(&pods.node.ns, "10.0.0.2", 80).context("the node is never cut off")?;
        // The filter's class id is the slot: one of nobody, and nothing passes.
        dp.attach(ifindex("ha")?, "ha", 9, Via::Clsact, false)?;
        ensure!(
            pods.connect(&pods.a, "10.0.0.100", 1).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
        );
        ensure!(count(dp, Reason::NoEndpoint)? > 0);
        dp.attach(ifindex("ha")?, "ha", 1, Via::Clsact, false)?;
        ensure!(
            pods.connect(&pods.a, "10.0.0.100", 1)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        );
        // A pod that is gone from its slot has no way out.
        dp.clear_endpoint(1)?;
        ensure!(
            pods.connect(&pods.a, "10.0.0.100", 1).is_err_and(|error| error.kind() == ErrorKind::TimedOut)
        );
        Ok(())
    })
}

pub(crate) fn revoked_flows_end() -> Result<()> {
    let pods = Pods::new()?;
    let listener = pods.listen(80)?;
    pods.with(|dp| {
        let mut client = pods.connect(&pods.a, "10.0.0.2", 80)?;
        let (mut server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON))?;
            stream.set_nodelay(true)?;
        }
        let mut byte = [0];
        client.write_all(b"a")?;
        server.read_exact(&mut byte)?;
        server.write_all(b"b")?;
        client.read_exact(&mut byte)?;

        // B's side stays open, and pushes: nothing comes through either way.
        dp.apply(&[Step::AddRows(vec![row(3, 0, 0, 50)]), sets(1, 0, 3, 2)])?;
        client.write_all(b"c")?;
        ensure!(server.read_exact(&mut byte).is_err(), "from A");
        server.write_all(b"d")?;
        ensure!(client.read_exact(&mut byte).is_err(), "from B");
        ensure!(count(dp, Reason::Revoked)? >= 2);

        // Allowed again, both come by retransmission.
        dp.apply(&[sets(1, 0, 1, 3)])?;
        server.set_read_timeout(Some(LATE))?;
        client.set_read_timeout(Some(LATE))?;
        server.read_exact(&mut byte)?;
        ensure!(byte == *b"c");
        client.read_exact(&mut byte)?;
        ensure!(byte == *b"d");
        Ok(())
    })
}

/// A packet socket gives frames beyond a page to the stack with 14 bytes in the
/// linear area, as a packet ring does with all: only the link header.
pub(crate) fn short_linear_area() -> Result<()> {
    let pods = Pods::new()?;
    let server = pods.b.run(|| UdpSocket::bind(("10.0.0.2", 53)))?;
    let other = pods.b.run(|| UdpSocket::bind(("10.0.0.2", 54)))?;
    server.set_read_timeout(Some(LATE))?;
    other.set_nonblocking(true)?;
    pods.with(|dp| {
        for port in [54, 53] {
            let mut frame = Frame::udp((ip("10.0.0.1")?, 4000), (ip("10.0.0.2")?, port));
            frame.payload.resize(6000, 0);
            frame.payload[4..6].copy_from_slice(&6000_u16.to_be_bytes());
            let mut bytes = frame.bytes();
            bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe]);
            pods.a.run(|| send_frame("eth0", &bytes))?;
        }
        let mut buffer = [0; 8192];
        let (len, from) = server.recv_from(&mut buffer).context("the allowed one")?;
        ensure!(len == 5992 && from.port() == 4000);
        ensure!(other.recv_from(&mut buffer).is_err(), "the denied one came first");
        ensure!(count(dp, Reason::Truncated)? == 0, "{:?}", dp.counters()?);
        ensure!(count(dp, Reason::Policy)? == 1);
        Ok(())
    })
}

/// Sends a frame as it is by a packet socket in the calling thread's namespace.
pub(crate) fn send_frame(link: &str, frame: &[u8]) -> Result<()> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    // SAFETY: the call takes integers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    ensure!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = link_address(link, 0x0800_u16.to_be())?;
    // SAFETY: frame and address are valid for the lengths that are given.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>().try_into()?,
        )
    };
    ensure!(sent == isize::try_from(frame.len())?, "sending: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A link of the calling thread's namespace, for packet sockets; the protocol in network order.
pub(crate) fn link_address(link: &str, protocol: u16) -> Result<libc::sockaddr_ll> {
    Ok(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.cast_unsigned().try_into()?,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(ifindex(link)?)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    })
}
