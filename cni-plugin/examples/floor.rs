//! What the kernel alone takes for a pod: a namespace, and a veth pair into it.
//!
//! `floor AT_A_TIME COUNT` prints `{"add": […], "del": […]}` in milliseconds.
//! Threads ask the kernel directly, with the fewest requests there are: no
//! process, no agent, no filter, no rule. Everything happens in a namespace that
//! ends with this program.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use ipnetwork::IpNetwork;
use netlink::{
    Batch, Mac, Socket, TABLE_MAIN,
    address::{self, Address},
    link::{self, LinkChange, Veth, VethIndices},
    netns,
    route::{self, Route},
};
use nix::sched::{CloneFlags, unshare};

const LOOPBACK: u32 = 1;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

fn main() -> Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let &[at_a_time, count] = numbers.as_slice() else {
        return Err(anyhow!("floor AT_A_TIME COUNT"));
    };
    unshare(CloneFlags::CLONE_NEWNET).context("making a namespace (this needs root)")?;
    let next = AtomicU32::new(0);
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(|| work(&next, count))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    })?;
    let column = |which: fn(&Times) -> f64| times.iter().flatten().map(which).collect::<Vec<f64>>();
    println!("{}", serde_json::json!({ "add": column(|one| one.add), "del": column(|one| one.del) }));
    Ok(())
}

/// Milliseconds of one pod.
struct Times {
    add: f64,
    del: f64,
}

/// All pods come, then all go, as in a turn of the other contenders.
fn work(next: &AtomicU32, count: u32) -> Result<Vec<Times>> {
    let host = netns::current().context("opening our namespace")?;
    let mut socket = Socket::open()?;
    let mut pods = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            break;
        }
        let began = Instant::now();
        let (pod, near) = add(&mut socket, &host, number)?;
        pods.push((pod, near, millis(began)));
    }
    let mut times = Vec::new();
    for (pod, near, add) in pods {
        let began = Instant::now();
        let mut batch = Batch::new();
        link::delete(&mut batch, near);
        socket.run(batch)?;
        drop(pod);
        times.push(Times { add, del: millis(began) });
    }
    Ok(times)
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// Makes a namespace and wires it; returns it with the index of the host's end.
fn add(socket: &mut Socket, host: &File, number: u32) -> Result<(File, u32)> {
    let (pod, mut inside) = new_namespace(host)?;
    let [_, _, high, low] = number.to_be_bytes();
    let name = format!("eni{number}");
    let veth = Veth {
        name: &name,
        mac: Mac([2, 0, 0, 1, high, low]),
        peer_netns: pod.as_fd(),
        peer_name: "eth0",
        peer_mac: Mac([2, 0, 0, 2, high, low]),
        mtu: 9001,
    };
    let VethIndices { near, far } = link::create_veth(socket, &veth)?;
    let network = IpNetwork::from(std::net::IpAddr::from([10, 20, high, low]));
    let mut batch = Batch::new();
    link::change(&mut batch, &LinkChange::up(LOOPBACK));
    link::change(&mut batch, &LinkChange::up(far));
    address::add(&mut batch, &Address { link: far, network, no_prefix_route: true });
    route::replace(
        &mut batch,
        &Route::on_link(IpNetwork::from(std::net::IpAddr::from(GATEWAY)), far, TABLE_MAIN),
    );
    route::replace(&mut batch, &Route::default_via(GATEWAY.into(), far, TABLE_MAIN));
    inside.run(batch)?;
    let mut batch = Batch::new();
    route::replace(&mut batch, &Route::on_link(network, near, TABLE_MAIN));
    socket.run(batch)?;
    Ok((pod, near))
}

/// A namespace and a socket in it; the calling thread is back where it was.
fn new_namespace(host: &File) -> Result<(File, Socket)> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a namespace")?;
    let made = netns::current().map_err(io_context("opening the new namespace")).and_then(|pod| {
        let socket = Socket::open()?;
        Ok((pod, socket))
    });
    netns::enter(host.as_fd()).context("going back")?;
    made
}

fn io_context(what: &'static str) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |error| anyhow::Error::new(error).context(what)
}
