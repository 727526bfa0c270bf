//! Real packets between namespaces, behind the real filters.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use kernel_test::NetNs;
use policy_core::Step;
use system_tests::probe::wiring::Wired;
use system_tests::probe::{Patience, Probe, Prober};
use tidepool_agent::datapath::Via;

use crate::ask::{Ask, Heard};
use crate::kernel::{Kernel, Link};
use crate::places::Places;
use crate::scene::{Kind, Scene};
use crate::translate;

/// A node with pods. All calls come from inside the node's namespaces.
pub(crate) struct Packets<'a> {
    node: &'a NetNs,
    kernel: Kernel,
    prober: Prober,
}

/// The namespaces and links of a set-up.
pub(crate) fn wire(places: &Places) -> Result<Wired> {
    let ends: Vec<(String, Vec<IpAddr>)> = places
        .list
        .iter()
        .enumerate()
        .map(|(place, content)| (format!("end {place}"), content.addresses.clone()))
        .collect();
    Wired::new(&places.node, &ends)
}

impl<'a> Packets<'a> {
    /// Loads programs, puts filters on the links of pods, and opens sockets everywhere.
    pub(crate) fn new(wired: &'a Wired, places: &Places) -> Result<Self> {
        let links = wired.ends.iter().map(|end| Link { name: end.link.clone(), mac: end.mac }).collect();
        let mut kernel = Kernel::load(links)?;
        for (place, end) in wired.ends.iter().enumerate().filter(|(place, _)| places.list[*place].local) {
            let slot = u32::try_from(place)? + 1;
            let ifindex = kernel.ifindexes[place];
            kernel.dp.attach(ifindex, &end.link, slot, Via::Clsact, false).context("attaching filters")?;
        }
        let prober = wired.prober(&places.node)?;
        Ok(Self { node: &wired.node, kernel, prober })
    }

    pub(crate) fn enter(
        &mut self,
        scene: &Scene,
        local: &BTreeMap<u32, Vec<IpAddr>>,
        steps: &[Step],
    ) -> Result<()> {
        self.kernel.enter(local, steps)?;
        if !scene.own_services {
            self.node.input("nft", &["-f", "-"], &translate::rules(scene)?)?;
        }
        Ok(())
    }

    /// Where a column's packets start and arrive.
    fn site(&self, party: usize, scene: &Scene, places: &Places) -> Result<usize> {
        match scene.parties[party].kind {
            Kind::Node => Ok(places.list.len()),
            _ => places.of(&scene.parties[party]),
        }
    }

    /// All at once.
    pub(crate) fn ask(&mut self, asks: &[&Ask], scene: &Scene, places: &Places) -> Result<Vec<Heard>> {
        let probes = asks
            .iter()
            .map(|ask| {
                Ok(Probe {
                    from: self.site(ask.from, scene, places)?,
                    to: ask.to_address,
                    protocol: ask.protocol,
                    port: ask.port,
                    source_port: Some(ask.source_port),
                    opening: ask.opening,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let outcomes = self.prober.probe(&probes, Patience::NODE)?;
        asks.iter()
            .zip(outcomes)
            .map(|(ask, outcome)| {
                if !matches!(scene.parties[ask.to].kind, Kind::Service | Kind::Node)
                    && let Some(site) = outcome.arrived
                {
                    let place = self.site(ask.to, scene, places)?;
                    ensure!(site == place, "{} arrived somewhere else", ask.describe(scene));
                }
                Ok(match (outcome.arrived.is_some(), outcome.answered) {
                    (true, _) => Heard::Whole(true),
                    (false, true) => Heard::Refused,
                    (false, false) => Heard::Whole(false),
                })
            })
            .collect()
    }
}
