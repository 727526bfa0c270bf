//! The same maps in the kernel, and its programs by test runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::MsFlags;
use policy_core::Step;
use tidepool_agent::datapath::{Datapath, EMBEDDED, EndpointSpec, Options, Sizes, TestContext};

use crate::ask::{Ask, By, Heard, OUTSIDE};
use crate::host::{MAC, ends};
use crate::places::Places;
use crate::scene::Scene;

/// The link of a place.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
}

/// A datapath of its own. It lives in a namespace with mounts of its own, and all calls come from there.
pub(crate) struct Kernel {
    pub(crate) dp: Datapath,
    /// By place.
    pub(crate) ifindexes: Vec<u32>,
    links: Vec<Link>,
    present: BTreeMap<u32, Vec<IpAddr>>,
    _pins: tempfile::TempDir,
}

/// Maps of a size that cases need.
const SIZES: Sizes = Sizes {
    peers: 4096,
    cidrs: 4096,
    rows: 16_384,
    ports: 16_384,
    vips: 4096,
    flows: 65_536,
    new_flows: 65_536,
    fragments: 8192,
};

impl Kernel {
    /// Loads the programs in the calling thread's namespaces, where the links stand.
    pub(crate) fn load(links: Vec<Link>) -> Result<Self> {
        let pins = tempfile::tempdir()?;
        nix::mount::mount(Some("bpf"), pins.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("mounting a bpf file system")?;
        let object = object()?;
        let options = Options { sizes: SIZES, ..Options::default() };
        let dp = Datapath::open(&object, &pins.path().join("tidepool"), &options)?;
        let ifindexes = links.iter().map(|link| ifindex(&link.name)).collect::<Result<_>>()?;
        Ok(Self { dp, ifindexes, links, present: BTreeMap::new(), _pins: pins })
    }

    /// Links that lead nowhere, for test runs.
    pub(crate) fn make_links(places: &Places) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for place in 0..places.list.len() {
            let name = format!("end{place}");
            let arguments = ["link", "add", &name, "type", "veth", "peer", "name", &format!("peer{place}")];
            let output = std::process::Command::new("ip").args(arguments).output()?;
            ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            links.push(Link { name, mac: MAC });
        }
        Ok(links)
    }

    /// Carries a change out.
    pub(crate) fn enter(&mut self, local: &BTreeMap<u32, Vec<IpAddr>>, steps: &[Step]) -> Result<()> {
        let gone: Vec<u32> = self.present.keys().copied().filter(|slot| !local.contains_key(slot)).collect();
        for slot in gone {
            self.dp.clear_endpoint(slot)?;
            self.present.remove(&slot);
        }
        for (slot, addresses) in local {
            if self.present.contains_key(slot) {
                continue;
            }
            let place = usize::try_from(*slot)? - 1;
            let spec = EndpointSpec {
                ifindex: self.ifindexes[place],
                mac: self.links[place].mac,
                ..EndpointSpec::default()
            };
            let spec = addresses.iter().fold(spec, |spec, address| spec.with_address(*address));
            self.dp.set_endpoint(*slot, &spec)?;
            self.present.insert(*slot, addresses.clone());
        }
        Ok(self.dp.apply(steps)?)
    }

    /// One packet through the programs of every link that it crosses.
    pub(crate) fn ask(&self, ask: &Ask, scene: &Scene, places: &Places) -> Result<Heard> {
        let frame = ask.frame();
        let index = |party: usize| Ok::<_, anyhow::Error>(self.ifindexes[places.of(&scene.parties[party])?]);
        let mut said = Vec::new();
        for crossing in ask.crossings(scene) {
            let ingress_ifindex = match crossing.by {
                By::Pod(party) => index(party)?,
                By::Node => 0,
                By::Outside => OUTSIDE,
            };
            let context = TestContext { ifindex: index(crossing.party)?, ingress_ifindex, repeat: 1 };
            let ran = self.dp.test_run(crossing.direction, &frame, &context)?;
            said.push((crossing.direction, ran.passed));
        }
        Ok(ends(&said))
    }
}

/// The programs that the environment names, else those that this was built with.
fn object() -> Result<Vec<u8>> {
    match std::env::var_os("TIDEPOOL_EBPF_OBJECT").filter(|path| !path.is_empty()) {
        Some(path) => std::fs::read(Path::new(&path)).with_context(|| format!("reading {}", path.display())),
        None => Ok(EMBEDDED.to_vec()),
    }
}

fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("link {name}"))
}
