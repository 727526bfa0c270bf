//! cni-upgrade-downgrade: from aws-node to us and back, with pods that live through both, beside kube-proxy.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use system_tests::aws_node::{AwsNode, Firewall, Options};
use system_tests::house::text;
use system_tests::kube_proxy::{ExternalPolicy, KubeProxy, Mode, Service, Transport};
use system_tests::world::{INTERNET, PORT, World};

use super::cluster::{Fabric, NODES, POOL, Placed, netns_of_internet, placed, pod};
use super::host_networking::{nothing_left, wired};
use super::pod_traffic::mesh;
use super::talk::{Flow, PATIENCE, Question, ask_all};

const NODE: &str = NODES[0];
const NODE_PORT: u16 = 30_501;

struct Node {
    world: World,
    incumbent: AwsNode,
    mode: Mode,
    internet: PathBuf,
    /// Pods of this node that run.
    pods: Vec<Placed>,
    /// Pods of the other one, which is ours all the time.
    far: Vec<Placed>,
    /// kube-proxy's rules of this node as they were made.
    proxy_rules: Vec<String>,
    /// Two of the first pods that live through all of it: one on the primary ENI, and one on a secondary one, behind
    /// the NodePort.
    staying: [Placed; 2],
}

/// The incumbent's case, forth and back, with its rules and kube-proxy's written by the same tools.
pub(crate) fn upgrade_and_downgrade(firewall: Firewall, mode: Mode) -> Result<()> {
    let mut node = Node::of_incumbent(firewall, mode)?;
    node.check("as aws-node wires it")?;
    let mut flows = node.flows()?;

    node.incumbent.stop(&node.world)?;
    node.world.start_agent(NODE)?;
    node.world.wait_until_ready(NODE)?;
    // What is in x_tables can be taken away by its own tools only: it stays, and does no harm.
    let stays = |line: &String| firewall == Firewall::IptablesLegacy && line.starts_with("iptables-legacy: ");
    let left = || -> Result<Vec<String>> {
        Ok(node.incumbent.leftovers(&node.world)?.into_iter().filter(|line| !stays(line)).collect())
    };
    let gone = node.world.wait("aws-node's rules are gone", || left().ok()?.is_empty().then_some(()));
    gone.with_context(|| format!("{:#?}", left()))?;
    node.check("taken over")?;
    node.come_to_us(&["new-0", "new-1"])?;
    node.go_all_but_staying()?;
    node.come_to_us(&["new-2", "new-3"])?;
    node.check("with pods that came and went")?;
    flows.iter_mut().try_for_each(Flow::lives).context("a flow of before, taken over")?;

    node.world.kill_agent(NODE)?;
    let output = node.world.command(NODE, "tidepool-agent")?.arg("uninstall").output()?;
    ensure!(output.status.success(), "uninstall: {}", String::from_utf8_lossy(&output.stderr));
    let faults = node.incumbent.would_resume(&node.world)?;
    ensure!(faults.is_empty(), "aws-node would not go on: {faults:#?}");
    node.incumbent.resume(&node.world)?;
    node.check("given back")?;
    node.come_to_incumbent(&["newer-0", "newer-1"])?;
    node.check("with pods of aws-node's again")?;
    flows.iter_mut().try_for_each(Flow::lives).context("a flow of before, given back")?;
    // A socket keeps its namespace, and aws-node's plugin leaves the pair of links to that.
    drop(flows);
    node.go_all_but_staying()?;
    node.check("with pods that aws-node deleted")?;
    let staying = node.staying.each_ref().map(|pod| pod.name.clone());
    node.go(&staying)?;
    Fabric::look(&node.world)?.must_be_clean()
}

impl Node {
    fn of_incumbent(firewall: Firewall, mode: Mode) -> Result<Self> {
        let mut world = World::without_agents(POOL)?;
        let options = Options { firewall, addresses_per_eni: 6, ..Options::default() };
        let incumbent = AwsNode::set_up(&world, NODE, &options)?;
        let address = Fabric::look(&world)?.primary_address(NODE)?;
        let proxy = KubeProxy::start(&world, NODE, address, mode)?;
        world.start_agent(NODES[1])?;
        world.wait_until_ready(NODES[1])?;

        let old = ["old-0", "old-1", "old-2", "old-3"];
        let far = ["far-0", "far-1"].map(str::to_owned);
        world.apply(&far.each_ref().map(|name| pod(name, NODES[1])).concat())?;
        let far = placed(&world, NODES[1], &far)?;
        let internet = netns_of_internet(&world)?;
        world.apply(&old.map(|name| pod(name, NODE)).concat())?;
        let pods = of_incumbent(&world, &incumbent, &old)?;
        // Whichever came first.
        let on = |primary: bool| pods.iter().find(|pod| pod.is_on_primary() == primary).cloned();
        let staying = [
            on(true).context("no pod is on the primary ENI")?,
            on(false).context("no pod is on a secondary ENI")?,
        ];
        proxy.sync(
            &world,
            &[Service {
                name: "local".into(),
                transport: Transport::Tcp,
                cluster: ([172, 20, 0, 21].into(), 80),
                node_port: Some((NODE_PORT, ExternalPolicy::Local)),
                endpoints: vec![staying[1].endpoint()],
            }],
        )?;
        let mut node = Self { world, incumbent, mode, internet, pods, far, proxy_rules: Vec::new(), staying };
        node.proxy_rules = node.rules_of_proxy()?;
        ensure!(!node.proxy_rules.is_empty(), "kube-proxy has no rules");
        Ok(node)
    }

    /// Wiring, traffic in every direction, and kube-proxy's rules.
    fn check(&self, when: &str) -> Result<()> {
        let all = || -> Result<()> {
            wired(&self.world, NODE, &self.pods)?;
            mesh(&[&self.pods[..], &self.far].concat())?;
            let own = Fabric::look(&self.world)?.primary_address(NODE)?;
            let questions: Vec<Question> = self
                .pods
                .iter()
                .map(|pod| Ok(Question::new(&pod.netns, Transport::Tcp, INTERNET.0.parse()?, INTERNET.1)))
                .collect::<Result<_>>()?;
            for answer in ask_all(&questions)? {
                ensure!(answer.seen.ip() == &own, "{answer:?}");
            }
            let answer = Question::new(&self.internet, Transport::Tcp, own, NODE_PORT).ask(PATIENCE)?;
            ensure!(answer.who == self.staying[1].full_name(), "{answer:?}");
            let rules = self.rules_of_proxy()?;
            ensure!(rules == self.proxy_rules, "{:#?}\nthen {rules:#?}", self.proxy_rules);
            Fabric::look(&self.world)?.must_be_clean()
        };
        all().with_context(|| format!("{when}\n{}", self.world.complaints()))
    }

    /// kube-proxy's, in their order, with the jumps to them.
    fn rules_of_proxy(&self) -> Result<Vec<String>> {
        let (words, of_proxy): (&[&str], fn(&str) -> bool) = match self.mode {
            Mode::IptablesNft => (&["iptables-nft-save"], |line| line.contains("KUBE-")),
            Mode::IptablesLegacy => (&["iptables-legacy-save"], |line| line.contains("KUBE-")),
            Mode::Nftables => (&["nft", "list", "table", "ip", "kube-proxy"], |_| true),
            Mode::None => return Ok(Vec::new()),
        };
        let saved = self.world.inside(NODE, words)?;
        let rules = saved.lines().filter(|line| !line.starts_with([':', '#']) && of_proxy(line));
        Ok(rules.map(str::to_owned).collect())
    }

    fn flows(&self) -> Result<Vec<Flow>> {
        let own = Fabric::look(&self.world)?.primary_address(NODE)?;
        let mut flows = vec![Flow::open(&self.internet, own, NODE_PORT)?];
        for pod in &self.staying {
            flows.push(Flow::open(&self.far[0].netns, pod.address, PORT)?);
            flows.push(Flow::open(&pod.netns, INTERNET.0.parse()?, INTERNET.1)?);
            flows.push(Flow::open(&pod.netns, self.far[0].address, PORT)?);
        }
        Ok(flows)
    }

    /// Pods come while we have the node.
    fn come_to_us(&mut self, names: &[&str]) -> Result<()> {
        self.world.apply(&names.iter().map(|name| pod(name, NODE)).collect::<String>())?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.pods.extend(placed(&self.world, NODE, &names)?);
        Ok(())
    }

    /// Pods come while aws-node has it.
    fn come_to_incumbent(&mut self, names: &[&str]) -> Result<()> {
        self.world.apply(&names.iter().map(|name| pod(name, NODE)).collect::<String>())?;
        self.pods.extend(of_incumbent(&self.world, &self.incumbent, names)?);
        Ok(())
    }

    fn go_all_but_staying(&mut self) -> Result<()> {
        let stays = |pod: &&Placed| self.staying.iter().any(|one| one.name == pod.name);
        let names = self.pods.iter().filter(|pod| !stays(pod)).map(|pod| pod.name.clone());
        self.go(&names.collect::<Vec<_>>())
    }

    fn go(&mut self, names: &[String]) -> Result<()> {
        self.world.delete(&names.iter().map(|name| pod(name, NODE)).collect::<String>())?;
        let gone: Vec<Placed> = self.pods.extract_if(.., |pod| names.contains(&pod.name)).collect();
        ensure!(gone.len() == names.len(), "{names:?} are not all here");
        let left = || nothing_left(&self.world, NODE, &gone);
        let found = self.world.wait("nothing is left", || left().ok());
        found.with_context(|| format!("{:?}", left()))
    }
}

/// Waits for pods that aws-node wires, and says where they are.
fn of_incumbent(world: &World, incumbent: &AwsNode, names: &[&str]) -> Result<Vec<Placed>> {
    world.wait_for_pods(names)?;
    let wired = incumbent.pods(world)?;
    let place = |name: &&str| -> Result<Placed> {
        let full = format!("default/{name}");
        let one = wired.iter().find(|one| one.pod == full).with_context(|| format!("no {full}"))?;
        Ok(Placed {
            name: (*name).to_owned(),
            node: NODE.to_owned(),
            address: one.address,
            netns: PathBuf::from(text(&world.pod(name)?["netns"])),
            table: one.table,
        })
    };
    names.iter().map(place).collect()
}
