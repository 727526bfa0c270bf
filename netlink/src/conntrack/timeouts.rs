//! How long the kernel keeps a flow, which tells for how long it was silent.

use std::time::Duration;

use super::{Flow, Tcp};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: [u8; 2] = [1, 58];

/// For how long a flow is kept after its last packet, by what it is
/// (`nf_conntrack_*_timeout*` below `/proc/sys/net/netfilter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP between handshake and the first FIN.
    pub tcp_established: Duration,
    /// The same while data is sent again and again, or is not acknowledged.
    pub tcp_unacknowledged: Duration,
    /// UDP at first.
    pub udp: Duration,
    /// UDP that goes both ways for a while.
    pub udp_stream: Duration,
    /// Queries of ICMP and ICMPv6.
    pub icmp: Duration,
}

impl Default for Timeouts {
    /// What the kernel begins with.
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(432_000),
            tcp_unacknowledged: Duration::from_secs(300),
            udp: Duration::from_secs(30),
            udp_stream: Duration::from_secs(120),
            icmp: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// Those in force in the calling thread's network namespace; the kernel's
    /// defaults for what cannot be read.
    #[must_use]
    pub fn read() -> Self {
        let default = Self::default();
        let read = |name: &str, or: Duration| {
            let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
            let seconds = text.ok().and_then(|text| text.trim().parse().ok());
            seconds.map_or(or, Duration::from_secs)
        };
        Self {
            tcp_established: read("tcp_timeout_established", default.tcp_established),
            tcp_unacknowledged: read("tcp_timeout_unacknowledged", default.tcp_unacknowledged)
                .max(read("tcp_timeout_max_retrans", default.tcp_unacknowledged)),
            udp: read("udp_timeout", default.udp),
            udp_stream: read("udp_timeout_stream", default.udp_stream),
            icmp: read("icmp_timeout", default.icmp),
        }
    }

    /// For how long no packet of a flow was seen, as far as what is left of its
    /// time tells: rather too short. A TCP connection that opens or closes, and
    /// what is neither TCP, UDP nor a query, counts as seen just now.
    #[must_use]
    pub fn silent(&self, flow: &Flow) -> Duration {
        let Some(remaining) = flow.remaining else { return Duration::ZERO };
        let kept = match (flow.original.proto, flow.tcp) {
            // Data that is not acknowledged shortens the time of a connection that is in use.
            (TCP, Some(Tcp::Established)) if remaining > self.tcp_unacknowledged => self.tcp_established,
            (TCP, Some(Tcp::Established)) => self.tcp_unacknowledged,
            (UDP, _) if flow.assured => self.udp_stream,
            (UDP, _) => self.udp,
            (proto, _) if ICMP.contains(&proto) => self.icmp,
            _ => return Duration::ZERO,
        };
        kept.saturating_sub(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Tuple;

    fn silent(proto: u8, tcp: Option<Tcp>, assured: bool, remaining: u64) -> u64 {
        let one = std::net::IpAddr::from([10, 0, 0, 1]);
        let tuple = Tuple { src: one, dst: one, proto, src_port: 1, dst_port: 2, icmp: None };
        let remaining = Some(Duration::from_secs(remaining));
        let flow = Flow { original: tuple, reply: tuple, seen_reply: true, tcp, assured, remaining };
        Timeouts::default().silent(&flow).as_secs()
    }

    #[test]
    fn silence_is_what_was_used_of_the_time() {
        assert_eq!((silent(UDP, None, true, 120), silent(UDP, None, true, 20)), (0, 100));
        assert_eq!((silent(UDP, None, false, 30), silent(UDP, None, false, 1)), (0, 29));
        assert_eq!(silent(58, None, false, 10), 20);
        assert_eq!(silent(UDP, None, false, 120), 0, "more than there can be");
    }

    #[test]
    fn a_connection_with_data_on_the_way_is_not_taken_for_an_old_one() {
        assert_eq!(silent(TCP, Some(Tcp::Established), true, 431_990), 10);
        assert_eq!(silent(TCP, Some(Tcp::Established), true, 295), 5);
        assert_eq!(silent(TCP, Some(Tcp::Closing), true, 5), 0);
        assert_eq!(silent(TCP, Some(Tcp::Opening), false, 5), 0);
        assert_eq!(silent(132, None, false, 5), 0, "SCTP");
    }
}
