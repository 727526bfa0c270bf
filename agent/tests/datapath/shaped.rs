//! Pods that the bandwidth plugin shapes, by the real plugin.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebpf_common::abi::PeerValue;
use kernel_test::{NetNs, wait_for};
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EndpointSpec, Via};

use super::packets::{LATE, Pods};
use super::world::{ifindex, ip, options, row, rules, sets};

const PLUGIN: &str = "/usr/lib/cni/bandwidth";
/// Bits per second, both ways.
const RATE: u64 = 16_000_000;
/// What passes at once, in bits.
const BURST: u64 = 800_000;
/// What is sent: at the rate it takes 0.45 s beyond the burst.
const BYTES: usize = 1_000_000;

/// Puts B behind the shaping of both directions, as the runtime does after our plugin.
fn shape(pods: &Pods, command: &str) -> Result<()> {
    let rate =
        format!(r#""ingressRate":{RATE},"ingressBurst":{BURST},"egressRate":{RATE},"egressBurst":{BURST}"#);
    let netns = pods.b.path().display().to_string();
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"aws-cni","type":"bandwidth","runtimeConfig":{{"bandwidth":{{{rate}}}}},
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"hb"}},{{"name":"eth0","sandbox":"{netns}"}}],
        "ips":[{{"address":"10.0.0.2/32","interface":1}}]}}}}"#
    );
    pods.node.ns.run(|| {
        let mut child = Command::new(PLUGIN)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "b")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &netns)
            .env("CNI_PATH", "/usr/lib/cni")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(PLUGIN)?;
        child.stdin.take().context("its input")?.write_all(config.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{command}: {said}");
        Ok(())
    })
}

/// A is not isolated, B may be sent to at TCP/80 and 82 only, and may begin nothing but a connection to A's TCP/80.
fn judge(dp: &mut Datapath) -> Result<()> {
    dp.apply(&rules()?)?;
    let (a, b) = (ip("10.0.0.1")?, ip("10.0.0.2")?);
    dp.apply(&[
        Step::SetPeers(vec![(a, PeerValue::new(a, 5)), (b, PeerValue::new(b, 5))]),
        Step::AddRows(vec![row(4, 0, 0, 60), row(4, 5, 9, 61)]),
    ])?;
    for (link, slot) in [("ha", 1), ("hb", 2)] {
        let last = u8::try_from(slot)?;
        let spec =
            EndpointSpec { ifindex: ifindex(link)?, mac: [2, 0, 0, 0, 0, last], ..EndpointSpec::default() };
        dp.set_endpoint(slot, &spec.with_address(ip(&format!("10.0.0.{last}"))?))?;
    }
    dp.apply(&[sets(1, 0, 0, 1), sets(2, 4, 4, 1)])?;
    Ok(())
}

/// Time in which everything came from one end to the other.
fn transfer(from: &TcpStream, to: &TcpStream) -> Result<Duration> {
    let begin = Instant::now();
    let (mut from, mut to) = (from, to);
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || from.write_all(&vec![0; BYTES]));
        let mut buffer = vec![0; BYTES];
        to.read_exact(&mut buffer)?;
        sender.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        Ok(begin.elapsed())
    })
}

struct World {
    pods: Pods,
    /// Of B, at ports 80 and 81; of A, at 80 and 81.
    listeners: [TcpListener; 4],
}

impl World {
    fn new() -> Result<Self> {
        let pods = Pods::new()?;
        let at = |ns: &NetNs, address: &'static str, port: u16| ns.run(|| TcpListener::bind((address, port)));
        let listeners = [
            at(&pods.b, "10.0.0.2", 80)?,
            at(&pods.b, "10.0.0.2", 81)?,
            at(&pods.a, "10.0.0.1", 80)?,
            at(&pods.a, "10.0.0.1", 81)?,
        ];
        Ok(Self { pods, listeners })
    }

    /// Policy holds in both directions of B.
    fn is_policed(&self) -> Result<()> {
        let Pods { a, b, .. } = &self.pods;
        self.pods.connect(a, "10.0.0.2", 80).context("to the shaped pod")?;
        self.pods.connect(b, "10.0.0.1", 80).context("from the shaped pod")?;
        for (from, to) in [(a, "10.0.0.2"), (b, "10.0.0.1")] {
            let denied = self.pods.connect(from, to, 81);
            ensure!(
                denied.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut),
                "{to}: {denied:?}"
            );
        }
        Ok(())
    }

    /// Both rates of B hold.
    fn is_shaped(&self, shaped: bool) -> Result<()> {
        let listener = &self.listeners[0];
        let client = self.pods.connect(&self.pods.a, "10.0.0.2", 80)?;
        let (server, from) = listener.accept()?;
        // Earlier connections of this trial wait in the queue.
        let server = if from == client.local_addr()? { server } else { self.accept(&client)? };
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LATE))?;
        }
        let least = Duration::from_secs_f64((BYTES as f64 * 8.0 - BURST as f64) / RATE as f64 * 0.8);
        for (what, from, to) in [("to", &client, &server), ("from", &server, &client)] {
            let took = transfer(from, to)?;
            ensure!(!shaped || took > least, "{what} the pod: {took:?}, not {least:?}");
        }
        Ok(())
    }

    fn accept(&self, client: &TcpStream) -> Result<TcpStream> {
        loop {
            let (server, from) = self.listeners[0].accept()?;
            if from == client.local_addr()? {
                return Ok(server);
            }
        }
    }
}

pub(crate) fn both_rates_and_policy() -> Result<()> {
    if !Path::new(PLUGIN).exists() {
        // The package is not installed; `cargo xtask setup` does.
        return Ok(());
    }
    let world = World::new()?;
    let pods = &world.pods;
    pods.node.with(&options(), |dp| {
        judge(dp)?;
        dp.attach(ifindex("ha")?, "ha", 1, Via::Clsact, false)?;
        let attached = dp.attach(ifindex("hb")?, "hb", 2, Via::Tcx, false)?;
        ensure!(attached.via == Via::Tcx && attached.foreign.is_empty(), "{attached:?}");
        ensure!(dp.look(ifindex("hb")?, 2)?.ours);
        world.is_policed()?;
        Ok(())
    })?;
    // An agent that starts between our plugin and the bandwidth plugin knows of no shaping: it keeps what it finds.
    pods.node.with(&options(), |dp| {
        ensure!(dp.look(ifindex("hb")?, 2)?.ours, "with the programs of the agent before");
        ensure!(dp.attach(ifindex("hb")?, "hb", 2, Via::Clsact, false)?.via == Via::Tcx);
        Ok(())
    })?;
    shape(pods, "ADD")?;
    world.is_policed()?;
    world.is_shaped(true)?;
    // And one that starts later.
    pods.node.with(&options(), |dp| {
        let index = ifindex("hb")?;
        let attached = dp.attach(index, "hb", 2, Via::Clsact, false)?;
        ensure!(attached.via == Via::Tcx && attached.foreign.is_empty(), "{attached:?}");
        world.is_policed()?;
        world.is_shaped(true)?;
        // Nobody is told of a link that goes.
        ensure!(dp.leads_by_tcx(index) && !dp.leads_by_tcx(ifindex("ha")?));
        let pin = pods.node.root.join(format!("v{}/link_{index}_to_pod", version()));
        pods.node.ns.run(|| std::fs::remove_file(&pin))?;
        wait_for("the link to end", LATE, || (!dp.leads_by_tcx(index)).then_some(()))?;
        ensure!(!dp.look(index, 2)?.ours);
        dp.attach(index, "hb", 2, Via::Clsact, false)?;
        ensure!(dp.leads_by_tcx(index) && dp.look(index, 2)?.ours);
        let (began, times) = (Instant::now(), 1000);
        (0..times).for_each(|_| assert!(dp.leads_by_tcx(index)));
        println!("a question to both hooks: {:?}", began.elapsed() / times);
        // The first of the two DELs comes while the link is there.
        dp.clear_endpoint(2)?;
        ensure!(dp.forget(index)?, "it is still there");
        let links = |names: Vec<String>| names.into_iter().filter(|name| name.starts_with("link_")).count();
        let pinned = || Ok::<_, anyhow::Error>(links(pods.node.pinned(&format!("tidepool/v{}", version()))?));
        ensure!(pinned()? == 2, "nothing is taken off a link that is there");
        ensure!(pods.connect(&pods.a, "10.0.0.2", 80).is_err(), "its slot is empty");
        ensure!(dp.forget_gone()? == 0);
        shape(pods, "DEL")?;
        pods.node.ns.ip("link del hb")?;
        ensure!(!dp.forget(index)? && pinned()? == 0, "no pin outlives its link");
        // Nor one whose DEL nobody served.
        dp.attach(ifindex("ha")?, "ha", 1, Via::Clsact, false)?;
        dp.attach(ifindex("lo")?, "lo", 3, Via::Tcx, false)?;
        ensure!(dp.forget_gone()? == 0 && pinned()? == 2);
        pods.node.ns.ip("link add short type veth peer name other")?;
        dp.attach(ifindex("short")?, "short", 4, Via::Tcx, false)?;
        pods.node.ns.ip("link del short")?;
        ensure!(dp.forget_gone()? == 1 && pinned()? == 2);
        Ok(())
    })
}

fn version() -> u32 {
    ebpf_common::abi::ABI_VERSION
}

/// An unshaped pod is faster, so that the trial above measures the plugin.
pub(crate) fn unshaped_is_faster() -> Result<()> {
    let world = World::new()?;
    world.pods.node.with(&options(), |dp| {
        judge(dp)?;
        dp.attach(ifindex("hb")?, "hb", 2, Via::Clsact, false)?;
        dp.attach(ifindex("ha")?, "ha", 1, Via::Clsact, false)?;
        let refused = world.is_shaped(true);
        ensure!(refused.is_err(), "as slow as a shaped one");
        world.is_shaped(false)
    })
}
