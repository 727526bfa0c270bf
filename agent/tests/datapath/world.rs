//! A namespace with its own bpffs, links and a loaded datapath, and the host
//! model beside it that is told the same.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ebpf_common::abi::{
    CidrKey4, CidrKey6, CidrValue, Direction, Endpoint, EndpointFlags, PeerKey4, PeerKey6, PeerValue,
    PortAction, PortKey, PortValue, Reason, RowKey, RowValue, proto,
};
use ebpf_common::host::{Decision, Host};
use ipnetwork::IpNetwork;
use kernel_test::NetNs;
use policy_core::model::Protocol;
use policy_core::{ClassId, EndpointSets, SetId, Step, VipAddress, VipTarget};
use tidepool_agent::datapath::{Datapath, EndpointSpec, Options, Sizes, TestContext};

/// The pods' own hardware address.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The object under test.
pub(crate) fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("TIDEPOOL_EBPF_OBJECT").context("the trial needs it")?;
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Maps of a size that a test needs.
pub(crate) fn options() -> Options {
    let sizes = Sizes {
        peers: 4096,
        cidrs: 1024,
        rows: 4096,
        ports: 4096,
        vips: 1024,
        flows: 65_536,
        new_flows: 65_536,
        fragments: 8192,
    };
    Options { sizes, ..Options::default() }
}

/// Namespaces of a test, with a bpf file system inside; our pins lie in its folder `root`.
pub(crate) struct Node {
    pub(crate) ns: NetNs,
    pub(crate) root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Result<Self> {
        let ns = NetNs::with_mounts()?;
        let directory = tempfile::tempdir()?;
        ns.run(|| {
            let none = None::<&str>;
            nix::mount::mount(Some("bpf"), directory.path(), Some("bpf"), nix::mount::MsFlags::empty(), none)
        })
        .context("mounting a bpf file system")?;
        Ok(Self { ns, root: directory.path().join("tidepool"), _directory: directory })
    }

    /// What is pinned in a folder of the bpf file system.
    pub(crate) fn pinned(&self, folder: &str) -> Result<Vec<String>> {
        self.ns.run(|| {
            let folder = self.root.parent().context("it has a parent")?.join(folder);
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        })
    }

    /// Runs with a datapath that was opened inside.
    pub(crate) fn with<T: Send>(
        &self,
        options: &Options,
        work: impl FnOnce(&mut Datapath) -> Result<T> + Send,
    ) -> Result<T> {
        let object = object()?;
        self.ns.run(|| {
            let mut dp = Datapath::open(&object, &self.root, options)?;
            work(&mut dp)
        })
    }
}

/// The index of a link in the calling thread's namespace.
pub(crate) fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("link {name}"))
}

pub(crate) fn ip(text: &str) -> Result<IpAddr> {
    text.parse().with_context(|| text.to_owned())
}

/// Kernel and host model, told the same.
pub(crate) struct Both<'a> {
    pub(crate) dp: &'a mut Datapath,
    pub(crate) host: Host,
    /// Packets that differed, with what each said.
    pub(crate) differences: Vec<String>,
    counted: std::collections::BTreeMap<(u8, Reason), u64>,
    before: std::collections::BTreeMap<(u8, Reason), u64>,
}

impl<'a> Both<'a> {
    pub(crate) fn new(dp: &'a mut Datapath) -> Result<Self> {
        let mut host = Host::default();
        host.now = 1000;
        let before = counters(dp)?;
        Ok(Self { dp, host, differences: Vec::new(), counted: Default::default(), before })
    }

    pub(crate) fn apply(&mut self, steps: &[Step]) -> Result<()> {
        self.dp.apply(steps)?;
        steps.iter().for_each(|step| tell(&mut self.host, step));
        Ok(())
    }

    /// An endpoint with both addresses `10.0.0.<last>` and `fd00::<last>`.
    pub(crate) fn endpoint(&mut self, slot: u32, ifindex: u32, last: u8) -> Result<()> {
        let spec = EndpointSpec { ifindex, mac: MAC, ..EndpointSpec::default() }
            .with_address(ip(&format!("10.0.0.{last}"))?)
            .with_address(ip(&format!("fd00::{last:x}"))?);
        self.dp.set_endpoint(slot, &spec)?;
        let mut addr6 = [0; 16];
        addr6[0] = 0xfd;
        addr6[15] = last;
        let isolated = EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT;
        let flags = EndpointFlags::ACTIVE | isolated;
        let endpoint =
            Endpoint { ifindex, flags, addr4: [10, 0, 0, last], addr6, mac: MAC, ..Endpoint::EMPTY };
        self.host.put_endpoint(slot, endpoint);
        Ok(())
    }

    /// The same frame through both; the host's decision.
    pub(crate) fn run(
        &mut self,
        what: &str,
        dir: Direction,
        frame: &[u8],
        on: u32,
        from: u32,
    ) -> Result<Decision> {
        let ctx = TestContext { ifindex: on, ingress_ifindex: from, repeat: 1 };
        let ran = self.dp.test_run(dir, frame, &ctx).with_context(|| what.to_owned())?;
        let decision = self.host.run(dir, frame, Host::facts(frame, on, from));
        *self.counted.entry((dir as u8, decision.reason)).or_default() += 1;
        if ran.passed != decision.reason.passes() {
            let said = if ran.passed { "passed" } else { "dropped" };
            self.differences
                .push(format!("{what} {dir:?}: host {:?}, kernel {said}: {frame:02x?}", decision.reason));
        }
        Ok(decision)
    }

    /// No packet differed, and the kernel counted each by the host's reason.
    pub(crate) fn agree(self) -> Result<()> {
        anyhow::ensure!(
            self.differences.is_empty(),
            "{} differ, first {}",
            self.differences.len(),
            self.differences[0]
        );
        let after = counters(self.dp)?;
        let delta = |key| after.get(&key).unwrap_or(&0) - self.before.get(&key).unwrap_or(&0);
        for dir in [Direction::In, Direction::Out] {
            for &reason in Reason::ALL {
                let key = (dir as u8, reason);
                let host = *self.counted.get(&key).unwrap_or(&0);
                anyhow::ensure!(delta(key) == host, "{dir:?} {reason:?}: kernel {}, host {host}", delta(key));
            }
        }
        Ok(())
    }
}

fn counters(dp: &Datapath) -> Result<std::collections::BTreeMap<(u8, Reason), u64>> {
    Ok(dp
        .counters()?
        .into_iter()
        .map(|count| ((count.direction as u8, count.reason), count.packets))
        .collect())
}

/// A step into the host model.
fn tell(host: &mut Host, step: &Step) {
    match step {
        Step::AddPorts(list) => host.port.extend(list.iter().copied()),
        Step::AddRows(list) => host.row.extend(list.iter().copied()),
        Step::SetCidrs(list) => {
            for (prefix, value) in list {
                match prefix {
                    IpNetwork::V4(v4) => {
                        host.cidr4.insert(CidrKey4::new(v4.network().octets(), v4.prefix()), *value);
                    }
                    IpNetwork::V6(v6) => {
                        host.cidr6.insert(CidrKey6::new(v6.network().octets(), v6.prefix()), *value);
                    }
                }
            }
        }
        Step::SetPeers(list) => {
            for (address, value) in list {
                match address {
                    IpAddr::V4(v4) => drop(host.peer4.insert(PeerKey4 { addr: v4.octets() }, *value)),
                    IpAddr::V6(v6) => drop(host.peer6.insert(PeerKey6 { addr: v6.octets() }, *value)),
                }
            }
        }
        Step::SetVips(list) => {
            for (address, target) in list {
                let key = address.key();
                host.vip.insert(key, target.value(&key));
            }
        }
        Step::SetEndpoints(list) => {
            for (slot, sets) in list {
                let mut ep = host.ep.get(slot).copied().unwrap_or(Endpoint::EMPTY);
                ep.set_in = sets.ingress.0;
                ep.set_out = sets.egress.0;
                ep.epoch = sets.epoch;
                ep.flags = EndpointFlags::ACTIVE;
                ep.flags |= if ep.set_in != 0 { EndpointFlags::ISOLATED_IN } else { 0 };
                ep.flags |= if ep.set_out != 0 { EndpointFlags::ISOLATED_OUT } else { 0 };
                ep.flags |= if sets.audit { EndpointFlags::AUDIT } else { 0 };
                host.put_endpoint(*slot, ep);
            }
        }
        Step::RemoveRows(list) => list.iter().for_each(|key| {
            host.row.remove(key);
        }),
        Step::RemovePorts(list) => list.iter().for_each(|key| {
            host.port.remove(key);
        }),
        Step::Grace | Step::RemoveCidrs(_) | Step::RemovePeers(_) | Step::RemoveVips(_) => {}
    }
}

pub(crate) fn sets(slot: u32, ingress: u32, egress: u32, epoch: u32) -> Step {
    let sets = EndpointSets {
        sandbox: "test".into(),
        ingress: SetId(ingress),
        egress: SetId(egress),
        epoch,
        audit: false,
    };
    Step::SetEndpoints(vec![(slot, sets)])
}

pub(crate) fn row(set: u32, class: u32, profile: u32, rule: u32) -> (RowKey, RowValue) {
    (RowKey { set, class }, RowValue { profile, rule })
}

/// Set 1 allows class 5 on TCP/80 and UDP/53 (profile 9), class 6 everything,
/// nobody else anything; set 2 denies everybody. `10.0.9.0/24` and `fd00:9::/32`
/// have class 5; a service at 172.20.0.10:8000 leads there.
pub(crate) fn rules() -> Result<Vec<Step>> {
    let peers = [("10.0.0.1", 0), ("10.0.0.2", 6), ("fd00::1", 0), ("fd00::2", 6), ("10.0.0.100", 0)];
    let mut values = Vec::new();
    for (text, class) in peers {
        let address = ip(text)?;
        let value = PeerValue::new(address, class);
        values.push((address, if text == "10.0.0.100" { value.local_node() } else { value }));
    }
    let vip = VipAddress { address: ip("172.20.0.10")?, port: 8000, protocol: Protocol::Tcp };
    let range = PortKey::new(9, proto::TCP, 0x2000, 4);
    Ok(vec![
        Step::AddPorts(vec![
            (PortKey::any(9), PortValue::new(PortAction::Deny, 44).with_lengths(&[range])),
            (PortKey::new(9, proto::TCP, 80, 16), PortValue::new(PortAction::Allow, 42)),
            (PortKey::new(9, proto::UDP, 53, 16), PortValue::new(PortAction::Allow, 46)),
            (range, PortValue::new(PortAction::Allow, 47)),
        ]),
        Step::AddRows(vec![row(1, 0, 0, 40), row(1, 5, 9, 41), row(1, 6, 1, 43), row(2, 0, 0, 45)]),
        Step::SetCidrs(vec![
            ("10.0.9.0/24".parse()?, CidrValue::new(5)),
            ("fd00:9::/32".parse()?, CidrValue::new(5)),
            ("172.20.0.0/16".parse()?, CidrValue::service(0)),
        ]),
        Step::SetPeers(values),
        Step::SetVips(vec![(vip, VipTarget { class: ClassId(5), port: 80 })]),
    ])
}
