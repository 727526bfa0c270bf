//! Many probes at once between pods, by raw packets in their namespaces: did each arrive?
//!
//! ```no_run
//! use system_tests::probe::{Patience, Probe, Prober, Protocol, Site};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut prober = Prober::new(&[
//!     Site::new("x/a", "/proc/1/task/2/ns/net", &["10.0.0.1".parse()?]),
//!     Site::new("y/b", "/proc/1/task/3/ns/net", &["10.0.0.2".parse()?]),
//! ])?;
//! let probes = [Probe::new(0, "10.0.0.2".parse()?, Protocol::Sctp, 80)];
//! let outcomes = prober.probe(&probes, Patience::NODE)?;
//! assert_eq!(outcomes[0].arrived, Some(1));
//! # Ok(()) }
//! ```
//!
//! A probe is the first packet of a new connection (SYN, datagram, INIT, echo request), or a
//! later one of a flow ([`Probe::later`]). It goes through the source's own stack, so by its
//! routes and neighbours, and is seen by a packet socket in the namespace where it arrives:
//! nobody needs to listen, and the kernel needs no SCTP. Each carries a token that
//! translation of addresses leaves alone, so a probe to a Service is found at its backend.
//! Whether something came back is told too: a denied probe must be met by silence.

mod beacon;
mod packet;
mod run;
mod site;
pub mod wiring;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use beacon::{Beacon, Pinned};
pub use packet::Protocol;
use packet::Seen;
use run::Run;
pub use site::Site;
use site::Socket;

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The source, by its place among the sites.
    pub from: usize,
    /// Where it is sent to: a pod, a Service, anything.
    pub to: IpAddr,
    /// What it is.
    pub protocol: Protocol,
    /// Destination port; nothing for ICMP.
    pub port: u16,
    /// Source port, or the identifier of an echo. None: one that no probe of this prober had
    /// between these ends, so that it is a new flow.
    pub source_port: Option<u16>,
    /// The first packet of a flow; else one of its middle (TCP without SYN, SCTP data).
    pub opening: bool,
}

impl Probe {
    /// The first packet of a new flow.
    pub fn new(from: usize, to: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self { from, to, protocol, port, source_port: None, opening: true }
    }

    /// The same from this source port.
    #[must_use]
    pub fn from_port(self, port: u16) -> Self {
        Self { source_port: Some(port), ..self }
    }

    /// The same in the middle of its flow.
    #[must_use]
    pub fn later(self) -> Self {
        Self { opening: false, ..self }
    }
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The site that saw it arrive at one of its addresses, by its place.
    pub arrived: Option<usize>,
    /// Something came back for it: a reply, a reset or an ICMP error. Not waited for where
    /// all probes have arrived.
    pub answered: bool,
}

/// How long to wait for what does not come. With a beacon nothing is waited for beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// After this long without an arrival the rest is lost.
    pub quiet: Duration,
    /// How often a probe that did not arrive is sent; more than once, as queues overflow on a busy machine.
    pub tries: u32,
}

impl Patience {
    /// Between pods of one node.
    pub const NODE: Self = Self { quiet: Duration::from_millis(15), tries: 2 };
}

/// Source ports are taken from here on, one for each call.
const FIRST_PORT: u16 = 20_000;
/// Sent at once before arrivals are read.
const BURST: usize = 32;
/// Bursts between two beacons: the kernel's queue of a CPU holds 1000 packets.
const BURSTS: usize = 8;
/// Of a beacon: only ends a test that has failed already.
const BOUND: Duration = Duration::from_secs(10);
/// A beacon that was lost itself is sent again.
const AGAIN: Duration = Duration::from_millis(200);

/// Sockets in all sites. They stay when their namespace's pod goes; make a new prober then.
#[derive(Debug)]
pub struct Prober {
    sites: Vec<Site>,
    sockets: Vec<Socket>,
    calls: u16,
    token: u32,
    beacon: Option<Beacon>,
}

impl Prober {
    /// Opens sockets in every site; needs root.
    pub fn new(sites: &[Site]) -> Result<Self> {
        let sockets = sites.iter().map(Socket::open).collect::<Result<_>>()?;
        Ok(Self { sites: sites.to_vec(), sockets, calls: 0, token: 0x5eed_0000, beacon: None })
    }

    /// A prober for sites around one node, of which one always reaches an address of another by
    /// way of the node, as every probe goes. What was sent before it from one CPU has arrived
    /// or is lost when it arrives, so no time is waited for, however busy the machine is.
    #[must_use]
    pub fn with_beacon(self, from: usize, to: IpAddr) -> Self {
        Self { beacon: Some(Beacon { from, to }), ..self }
    }

    /// The place of a site by its name.
    pub fn site(&self, name: &str) -> Result<usize> {
        self.sites.iter().position(|site| site.name == name).with_context(|| format!("no site {name}"))
    }

    /// The sites.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Sends all probes and says what became of each, in their order.
    pub fn probe(&mut self, probes: &[Probe], patience: Patience) -> Result<Vec<Outcome>> {
        let source_port = FIRST_PORT + self.calls;
        self.calls = (self.calls + 1) % 40_000;
        let mut run = Run {
            first: self.token,
            asked: probes.len(),
            ports: probes.iter().map(|probe| probe.source_port.unwrap_or(source_port)).collect(),
            outcomes: vec![Outcome::default(); probes.len()],
        };
        let _pinned = self.beacon.as_ref().map(|_| Pinned::here()).transpose()?;
        // What came since the last call belongs to nobody.
        self.drain(&mut Run::default());
        for _ in 0..patience.tries {
            let missing: Vec<usize> =
                (0..probes.len()).filter(|place| run.outcomes[*place].arrived.is_none()).collect();
            for (count, burst) in missing.chunks(BURST).enumerate() {
                for place in burst {
                    self.send(&probes[*place], run.ports[*place], run.token(*place))?;
                }
                self.drain(&mut run);
                if let Some(beacon) = &self.beacon
                    && count % BURSTS == BURSTS - 1
                {
                    self.flush(&mut run, beacon)?;
                }
            }
            match &self.beacon {
                // The second one is behind what was sent back for what came before the first.
                Some(beacon) => (0..2).try_for_each(|_| self.flush(&mut run, beacon))?,
                None => self.wait(&mut run, patience.quiet)?,
            }
            if run.is_complete() {
                break;
            }
        }
        self.token = self.token.wrapping_add(u32::try_from(run.outcomes.len())?);
        run.outcomes.truncate(probes.len());
        Ok(run.outcomes)
    }

    /// Waits until a packet that always arrives has arrived.
    fn flush(&self, run: &mut Run, beacon: &Beacon) -> Result<()> {
        let place = run.outcomes.len();
        run.outcomes.push(Outcome::default());
        run.ports.push(beacon::PORT);
        let begun = Instant::now();
        while run.outcomes[place].arrived.is_none() {
            ensure!(begun.elapsed() < BOUND, "no beacon arrives at {}", beacon.to);
            self.send(&beacon.probe(), beacon::PORT, run.token(place))?;
            let sent = Instant::now();
            while run.outcomes[place].arrived.is_none() && sent.elapsed() < AGAIN {
                if !self.drain(run) {
                    self.poll(AGAIN.saturating_sub(sent.elapsed()))?;
                }
            }
        }
        Ok(())
    }

    fn send(&self, probe: &Probe, source_port: u16, token: u32) -> Result<()> {
        let site = self.sites.get(probe.from).context("no such site")?;
        let same_family = |address: &&IpAddr| address.is_ipv4() == probe.to.is_ipv4();
        let from = site.addresses.iter().find(same_family);
        let from = *from.with_context(|| format!("{} has no address to reach {}", site.name, probe.to))?;
        let packet = packet::write(probe, (from, source_port), token);
        self.sockets[probe.from]
            .send(probe.to, &packet)
            .with_context(|| format!("sending from {} to {}", site.name, probe.to))
    }

    /// Reads everything that has arrived; whether there was something of this run.
    fn drain(&self, run: &mut Run) -> bool {
        let mut buffer = [0; 2048];
        let mut progress = false;
        for (place, socket) in self.sockets.iter().enumerate() {
            while let Some(packet) = socket.receive(&mut buffer) {
                if let Some(seen) = Seen::read(packet)
                    && self.sites[place].addresses.contains(&seen.to)
                {
                    progress |= run.note(place, &seen);
                }
            }
        }
        progress
    }

    fn wait(&self, run: &mut Run, quiet: Duration) -> Result<()> {
        let mut until = Instant::now() + quiet;
        loop {
            if self.drain(run) {
                until = Instant::now() + quiet;
            }
            let left = until.saturating_duration_since(Instant::now());
            if run.is_complete() || left.is_zero() {
                return Ok(());
            }
            self.poll(left)?;
        }
    }

    /// Waits for a packet in any of the sites.
    fn poll(&self, bound: Duration) -> Result<()> {
        let ears = self.sockets.iter().flat_map(Socket::ears);
        let mut all: Vec<PollFd<'_>> = ears.map(|ear| PollFd::new(ear, PollFlags::POLLIN)).collect();
        let millis = u16::try_from(bound.as_millis().max(1)).unwrap_or(u16::MAX);
        poll(&mut all, PollTimeout::from(millis)).context("waiting for arrivals").map(drop)
    }
}

/// Fails with every probe whose outcome differs: `expected` says which arrive; those that do
/// not must be met by silence.
pub fn expect(sites: &[Site], probes: &[Probe], outcomes: &[Outcome], expected: &[bool]) -> Result<()> {
    ensure!(probes.len() == outcomes.len() && probes.len() == expected.len(), "not one outcome each");
    let mut wrong = BTreeMap::new();
    for (place, ((probe, outcome), expected)) in probes.iter().zip(outcomes).zip(expected).enumerate() {
        let silent = *expected || !outcome.answered;
        if outcome.arrived.is_some() != *expected || !silent {
            let from = sites.get(probe.from).map_or("?", |site| site.name.as_str());
            let said = match (outcome.arrived.is_some(), silent) {
                (true, _) => "arrived",
                (false, true) => "did not arrive",
                (false, false) => "was refused, not dropped",
            };
            wrong.insert(place, format!("{from} to {} {}/{}: {said}", probe.to, probe.protocol, probe.port));
        }
    }
    let lines: Vec<String> = wrong.into_values().collect();
    ensure!(lines.is_empty(), "{} of {} differ:\n{}", lines.len(), probes.len(), lines.join("\n"));
    Ok(())
}
