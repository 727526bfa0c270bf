//! Traffic that goes on while something else is done, and counts what is lost of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use system_tests::house::text;
use system_tests::world::questions::in_netns;
use system_tests::world::{PORT, World};

/// Between two messages: closer than anything that could go wrong is short.
const PACE: Duration = Duration::from_millis(5);
/// How long an answer may be under way on a busy machine; loss is what never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages to an echo, one after the other, until it is ended.
pub(crate) struct Flow {
    name: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

/// Flows that run at the same time. Dropping them ends them.
#[derive(Default)]
pub(crate) struct Flows(Vec<Flow>);

impl Flows {
    /// A TCP connection for each pair: from a pod to a pod or an address.
    pub(crate) fn tcp(world: &World, pairs: &[(String, String)]) -> Result<Self> {
        Self::begin(world, pairs, "TCP", tcp)
    }

    /// A stream of datagrams for each pair; none may be lost to the end.
    pub(crate) fn udp(world: &World, pairs: &[(String, String)]) -> Result<Self> {
        Self::begin(world, pairs, "UDP", udp)
    }

    fn begin(
        world: &World,
        pairs: &[(String, String)],
        protocol: &str,
        open: fn(&Path, SocketAddr, String) -> Result<Flow>,
    ) -> Result<Self> {
        let mut flows = Self::default();
        for (from, to) in pairs {
            let netns = PathBuf::from(text(&world.pod(from)?["netns"]));
            let address = match to.parse() {
                Ok(address) => address,
                Err(_) => text(&world.pod(to)?["ip"]).parse()?,
            };
            let name = format!("{protocol} {from} to {to}");
            let flow = open(&netns, SocketAddr::new(address, PORT), name.clone()).context(name)?;
            flows.0.push(flow);
        }
        Ok(flows)
    }

    /// Waits until each has had some more answers.
    pub(crate) fn all_flow(&self, world: &World, when: &str) -> Result<()> {
        let before: Vec<u64> = self.0.iter().map(|flow| flow.answered.load(Ordering::SeqCst)).collect();
        for (flow, before) in self.0.iter().zip(before) {
            world
                .wait(&format!("{}: {} flows", when, flow.name), || {
                    (flow.answered.load(Ordering::SeqCst) > before + 20).then_some(())
                })
                .with_context(|| format!("{} of it were answered before", before))?;
        }
        Ok(())
    }

    /// Ends all; an error names each that lost something.
    pub(crate) fn end(mut self, world: &World, when: &str) -> Result<()> {
        self.all_flow(world, when)?;
        let flows = std::mem::take(&mut self.0);
        flows.iter().for_each(|flow| flow.stop.store(true, Ordering::SeqCst));
        let mut faults = Vec::new();
        for flow in flows {
            match flow.thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => faults.push(format!("{}: {error:#}", flow.name)),
                Err(_) => faults.push(format!("{}: panicked", flow.name)),
            }
        }
        ensure!(faults.is_empty(), "{when}: {}", faults.join("\n"));
        Ok(())
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.0.iter().for_each(|flow| flow.stop.store(true, Ordering::SeqCst));
    }
}

fn tcp(netns: &Path, target: SocketAddr, name: String) -> Result<Flow> {
    let stream = in_netns(netns, move || Ok(TcpStream::connect_timeout(&target, Duration::from_secs(5))?))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(spawn(name, move |stop, answered| talk(stream, stop, answered)))
}

fn talk(mut stream: TcpStream, stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    let mut heard = [0; 8];
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        stream.write_all(&number.to_be_bytes())?;
        stream.read_exact(&mut heard).with_context(|| format!("answer {number}"))?;
        ensure!(u64::from_be_bytes(heard) == number, "{heard:?} for {number}");
        answered.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn udp(netns: &Path, target: SocketAddr, name: String) -> Result<Flow> {
    let socket = in_netns(netns, move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(target)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(PACE))?;
    Ok(spawn(name, move |stop, answered| send(&socket, stop, answered)))
}

fn send(socket: &UdpSocket, stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    let (mut sent, mut missing) = (0_u64, std::collections::BTreeSet::new());
    let mut heard = [0; 64];
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end && !missing.is_empty()) {
        if stop.load(Ordering::SeqCst) {
            end.get_or_insert_with(|| Instant::now() + PATIENCE);
        } else {
            socket.send(&sent.to_be_bytes()).with_context(|| format!("datagram {sent}"))?;
            missing.insert(sent);
            sent += 1;
        }
        // Waits for the pace where nothing comes.
        while let Ok(length) = socket.recv(&mut heard) {
            let number = <[u8; 8]>::try_from(&heard[..length]).map(u64::from_be_bytes)?;
            ensure!(missing.remove(&number), "{number} was answered twice");
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
    ensure!(missing.is_empty(), "{} of {sent} datagrams are lost: {missing:?}", missing.len());
    ensure!(sent > 0, "nothing was sent");
    Ok(())
}

fn spawn(name: String, work: impl FnOnce(&AtomicBool, &AtomicU64) -> Result<()> + Send + 'static) -> Flow {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&answered));
    let thread = std::thread::spawn(move || work(&stopping, &counting));
    Flow { name, stop, answered, thread }
}
