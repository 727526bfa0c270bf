//! snat: what AWS_VPC_K8S_CNI_EXTERNALSNAT, _RANDOMIZESNAT and _EXCLUDE_SNAT_CIDRS do to packets.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use system_tests::kube_proxy::{ExternalPolicy, KubeProxy, Mode, Service, Transport};
use system_tests::world::{INTERNET, PORT, World};

use super::cluster::{
    Fabric, NODES, POOL, Placed, Placement, SMALL, netns_of_internet, netns_of_node, populate,
};
use super::talk::{Answer, PATIENCE, Question, ask_all};

const NODE: &str = NODES[0];
const NODE_PORT: u16 = 30_501;

/// How a pod's port is seen outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Kept,
    Changed,
}

struct Snat {
    world: World,
    here: Placement,
    there: Placement,
    internet: PathBuf,
}

/// One agent, restarted with one setting after the other, and pods that live through it all.
pub(crate) fn settings() -> Result<()> {
    let mut world = World::of(2, SMALL, POOL)?;
    for node in NODES {
        world.start_agent(node)?;
    }
    for node in NODES {
        world.wait_until_ready(node)?;
    }
    let [here, there] = populate(&world)?;
    let internet = netns_of_internet(&world)?;
    let address = Fabric::look(&world)?.primary_address(NODE)?;
    let proxy = KubeProxy::start(&world, NODE, address, Mode::Nftables)?;
    let behind = Service {
        name: "local".into(),
        transport: Transport::Tcp,
        cluster: ([172, 20, 0, 21].into(), 80),
        node_port: Some((NODE_PORT, ExternalPolicy::Local)),
        endpoints: vec![here.secondary[0].endpoint()],
    };
    proxy.sync(&world, &[behind])?;
    let mut snat = Snat { world, here, there, internet };

    let outside = format!("{}/32", INTERNET.0);
    snat.translated(Ports::Changed, "fully-random").context("by default")?;
    for (value, ports, word) in [
        ("none", Ports::Kept, ""),
        ("hashrandom", Ports::Changed, "random"),
        ("prng", Ports::Changed, "fully-random"),
    ] {
        snat.restart(&[("AWS_VPC_K8S_CNI_RANDOMIZESNAT", value)])?;
        snat.translated(ports, word).with_context(|| format!("RANDOMIZESNAT={value}"))?;
    }
    snat.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", &outside)])?;
    snat.as_it_is().context("EXCLUDE_SNAT_CIDRS")?;
    snat.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "203.0.113.0/24")])?;
    snat.translated(Ports::Changed, "fully-random").context("EXCLUDE_SNAT_CIDRS of elsewhere")?;
    snat.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")])?;
    snat.as_it_is().context("EXTERNALSNAT=true")?;
    let table = snat.world.inside(NODE, &["nft", "list", "table", "ip", "tidepool"])?;
    ensure!(!table.contains("snat to"), "EXTERNALSNAT=true, and\n{table}");
    snat.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "false")])?;
    snat.translated(Ports::Changed, "fully-random").context("EXTERNALSNAT=false")?;
    snat.external_services(&outside).context("EXTERNAL_SERVICE_CIDRS")?;
    snat.without_node_port_support().context("NODE_PORT_SUPPORT=false")
}

impl Snat {
    fn restart(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        self.world.set_environment(&[POOL, settings].concat());
        self.world.kill_agent(NODE)?;
        self.world.start_agent(NODE)?;
        self.world.wait_until_ready(NODE)
    }

    fn pods(&self) -> [&Placed; 2] {
        [&self.here.primary[0], &self.here.secondary[0]]
    }

    /// What the node has of connections to the internet, for whoever reads of a failure.
    fn connections(&self, of: &Placed) -> String {
        let tracked = self.world.run(NODE, &["conntrack", "-L", "-d", INTERNET.0]);
        let tracked = tracked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        format!("{} ({})\n{tracked:?}\n{:?}", of.name, of.address, Fabric::look(&self.world))
    }

    /// The internet sees the node.
    fn translated(&self, ports: Ports, word: &str) -> Result<()> {
        const TRIES: usize = 4;
        let own = Fabric::look(&self.world)?.primary_address(NODE)?;
        let table = self.world.inside(NODE, &["nft", "list", "table", "ip", "tidepool"])?;
        let rule = table.lines().find(|line| line.contains("snat to")).context("no rule translates")?;
        let flags = rule.split("snat to").nth(1).and_then(|rest| rest.split_whitespace().nth(1));
        let flags = flags.filter(|flags| flags.contains("random")).unwrap_or_default();
        ensure!(flags == word, "{word:?} is wanted, and there is {rule}");
        for pod in self.pods() {
            let question = Question::new(&pod.netns, Transport::Tcp, INTERNET.0.parse()?, INTERNET.1);
            let answers = ask_all(&vec![question; TRIES]).with_context(|| self.connections(pod))?;
            let kept = |answer: &&Answer| answer.seen.port() == answer.sent_from.port();
            let count = answers.iter().filter(kept).count();
            // A random port may be the pod's own by chance, hardly four times.
            let right = match ports {
                Ports::Kept => count == TRIES,
                Ports::Changed => count < TRIES,
            };
            ensure!(
                right && answers.iter().all(|answer| answer.seen.ip() == &own),
                "{}: {answers:?}",
                pod.name
            );
        }
        self.within()
    }

    /// What leaves keeps the pod's address and goes by the pod's ENI. Nothing beyond the simulated gateway takes it,
    /// as in a subnet without a NAT gateway.
    fn as_it_is(&self) -> Result<()> {
        for pod in self.pods() {
            let before = Fabric::look(&self.world)?;
            Question::new(&pod.netns, Transport::Tcp, INTERNET.0.parse()?, INTERNET.1).must_fail()?;
            let after = Fabric::look(&self.world)?;
            let device = if pod.is_on_primary() { 0 } else { pod.table - 1 };
            ensure!(after.no_way_out()? > before.no_way_out()?, "{} was translated", pod.name);
            ensure!(after.sent(NODE, device)? > before.sent(NODE, device)?, "not by the ENI of {}", pod.name);
        }
        self.within()
    }

    /// AWS_EXTERNAL_SERVICE_CIDRS are reached by the primary ENI, translated or not.
    fn external_services(&mut self, outside: &str) -> Result<()> {
        let cidrs = ("AWS_EXTERNAL_SERVICE_CIDRS", outside);
        self.restart(&[cidrs])?;
        self.translated(Ports::Changed, "fully-random")?;
        self.restart(&[cidrs, ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")])?;
        let pod = &self.here.secondary[0];
        let before = Fabric::look(&self.world)?;
        Question::new(&pod.netns, Transport::Tcp, INTERNET.0.parse()?, INTERNET.1).must_fail()?;
        let after = Fabric::look(&self.world)?;
        // As the pod, by an ENI that is not the pod's: that is what was asked for, and here the fabric drops it.
        ensure!(after.wrong_source()? > before.wrong_source()?, "it did not leave by the primary ENI");
        Ok(())
    }

    /// AWS_VPC_CNI_NODE_PORT_SUPPORT=false: replies of the pod leave by its own ENI with the node's address, and the
    /// VPC drops them. So all that is checked above can fail, and the fabric would count it.
    fn without_node_port_support(&mut self) -> Result<()> {
        self.restart(&[
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true"),
        ])?;
        self.world.wait("nothing is marked any more", || {
            let tables = self.world.inside(NODE, &["nft", "list", "tables"]).ok()?;
            let rules = self.world.inside(NODE, &["ip", "rule", "show", "priority", "1024"]).ok()?;
            (!tables.contains("tidepool") && rules.is_empty()).then_some(())
        })?;
        let before = Fabric::look(&self.world)?;
        let own = before.primary_address(NODE)?;
        Question::new(&self.internet, Transport::Tcp, own, NODE_PORT).must_fail()?;
        let after = Fabric::look(&self.world)?;
        ensure!(after.wrong_source()? > before.wrong_source()?, "no wrong source was counted");
        Ok(())
    }

    /// The VPC's inside does not care, and a NodePort's way back is the same.
    fn within(&self) -> Result<()> {
        let far = &self.there.secondary[0];
        for pod in self.pods() {
            for (from, to) in [(pod, far), (far, pod)] {
                let answer = Question::new(&from.netns, Transport::Tcp, to.address, PORT).ask(PATIENCE)?;
                ensure!(answer.seen.ip() == &from.address, "{} is seen as {answer:?}", from.name);
            }
        }
        let own = Fabric::look(&self.world)?.primary_address(NODE)?;
        for client in [self.internet.clone(), netns_of_node(&self.world, NODES[1])?] {
            let answer = Question::new(&client, Transport::Tcp, own, NODE_PORT).ask(PATIENCE)?;
            ensure!(answer.who == self.here.secondary[0].full_name(), "{answer:?}");
        }
        Fabric::look(&self.world)?.must_be_clean()
    }
}
