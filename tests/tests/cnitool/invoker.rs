//! A runtime's part of the CNI specification (1.1.0, section 3): plugins of a list one after the other, with the result
//! handed on, capabilities handed to those that declare them, and DEL in reverse.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernel_test::NetNs;
use serde_json::{Value, json};
use system_tests::house::{items, text};
use system_tests::world::{STILL_POOL, World};

use crate::{BIN_DIR, NODE};

/// The port that sandboxes answer on.
pub(crate) const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A container's sandbox.
pub(crate) struct Sandbox {
    pub(crate) ns: NetNs,
    pub(crate) id: String,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    /// The runtime does not know its namespace any more.
    pub(crate) astray: bool,
    /// The result of its ADD, as a runtime keeps it.
    pub(crate) result: Option<Value>,
}

impl Sandbox {
    pub(crate) fn new(id: &str) -> Result<Self> {
        Ok(Self { ns: NetNs::new()?, id: id.to_owned(), args: String::new(), astray: false, result: None })
    }

    /// The address that the ADD gave it: the last in the list is ours where others gave some before us.
    pub(crate) fn address(&self) -> Result<IpAddr> {
        let result = self.result.as_ref().context("it was not added")?;
        let ip = items(&result["ips"]).last().context("no address")?;
        let (address, _) = text(&ip["address"]).split_once('/').context("no prefix")?;
        Ok(address.parse()?)
    }

    /// Listens, and expects one connection from the node's own namespace.
    pub(crate) fn must_answer(&self, world: &World) -> Result<()> {
        let listener = self.ns.run(|| TcpListener::bind(("0.0.0.0", PORT)))?;
        let target = SocketAddr::from((self.address()?, PORT));
        let netns = text(&world.node(NODE)?["netns"]).to_owned();
        let connected = std::thread::spawn(move || -> Result<()> {
            nix::sched::setns(std::fs::File::open(netns)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
            TcpStream::connect_timeout(&target, PATIENCE)
                .with_context(|| format!("connecting to {target}"))?;
            Ok(())
        });
        let outcome = connected.join();
        outcome.unwrap_or_else(|_| bail!("the client panicked"))?;
        listener.accept()?;
        Ok(())
    }
}

/// One node with an agent, and these plugins beside ours. Each is a name and where the program is.
pub(crate) fn node_with(plugins: &[(&str, &str)]) -> Result<World> {
    started(World::of(1, "m5.large", STILL_POOL)?, plugins)
}

/// The same on a node that is there.
pub(crate) fn started(mut world: World, plugins: &[(&str, &str)]) -> Result<World> {
    world.inside(NODE, &["mkdir", "-p", BIN_DIR])?;
    for (name, program) in plugins {
        world.inside(NODE, &["ln", "-s", program, &format!("{BIN_DIR}/{name}")])?;
    }
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    Ok(world)
}

/// Nodes have a /run of their own: a process that shows it to us, whichever agent runs, and the agent's socket by it.
pub(crate) fn agent_socket(world: &World) -> Result<(Child, PathBuf)> {
    let resident = world.command(NODE, "sleep")?.arg("infinity").spawn()?;
    let socket = PathBuf::from(format!("/proc/{}/root{SOCKET}", resident.id()));
    world.wait("the agent's socket is seen", || socket.exists().then_some(()))?;
    Ok((resident, socket))
}

/// A network's list of plugins on the node, with what the runtime wants for one sandbox.
pub(crate) struct List<'a> {
    pub(crate) world: &'a World,
    pub(crate) version: &'a str,
    pub(crate) plugins: Vec<Value>,
    /// By capability.
    pub(crate) wishes: Value,
}

impl List<'_> {
    /// The configuration of one plugin, as the specification derives it from the list.
    fn configuration(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut conf = plugin.clone();
        conf["cniVersion"] = json!(self.version);
        conf["name"] = json!("aws-cni");
        let declared = conf["capabilities"].take();
        let wanted =
            |(name, wish): (&String, &Value)| (declared[name] == true).then(|| (name.clone(), wish.clone()));
        let config: serde_json::Map<_, _> =
            self.wishes.as_object().into_iter().flatten().filter_map(wanted).collect();
        if let Some(object) = conf.as_object_mut() {
            object.remove("capabilities");
        }
        if !config.is_empty() {
            conf["runtimeConfig"] = config.into();
        }
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        conf
    }

    /// Starts one plugin of the list.
    pub(crate) fn start(
        &self,
        verb: &str,
        sandbox: &Sandbox,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Result<Child> {
        let netns = if sandbox.astray { "" } else { sandbox.ns.path().to_str().context("UTF-8")? };
        let mut child = self
            .world
            .command(NODE, &format!("{BIN_DIR}/{}", text(&plugin["type"])))?
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", BIN_DIR)
            .env("CNI_ARGS", &sandbox.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("stdin is a pipe")?;
        stdin.write_all(self.configuration(plugin, previous).to_string().as_bytes())?;
        Ok(child)
    }

    fn call(&self, verb: &str, sandbox: &Sandbox, plugin: &Value, previous: Option<&Value>) -> Result<Value> {
        finish(self.start(verb, sandbox, plugin, previous)?)
            .with_context(|| format!("{verb} of {} at {}", plugin["type"], self.version))
    }

    /// ADD; what fails is deleted again, as a runtime does.
    pub(crate) fn add(&self, sandbox: &mut Sandbox) -> Result<()> {
        let mut previous: Option<Value> = None;
        for plugin in &self.plugins {
            match self.call("ADD", sandbox, plugin, previous.as_ref()) {
                Ok(result) => previous = Some(result),
                Err(error) => {
                    self.del(sandbox).context("DEL after an ADD that failed")?;
                    return Err(error);
                }
            }
        }
        sandbox.result = previous;
        Ok(())
    }

    /// CHECK of the plugins of these types.
    pub(crate) fn check(&self, sandbox: &Sandbox, types: &[&str]) -> Result<()> {
        for plugin in self.plugins.iter().filter(|plugin| types.contains(&text(&plugin["type"]))) {
            self.call("CHECK", sandbox, plugin, sandbox.result.as_ref())?;
        }
        Ok(())
    }

    pub(crate) fn del(&self, sandbox: &Sandbox) -> Result<()> {
        for plugin in self.plugins.iter().rev() {
            self.call("DEL", sandbox, plugin, sandbox.result.as_ref())?;
        }
        Ok(())
    }
}

/// What a plugin printed; its error is one here.
pub(crate) fn finish(child: Child) -> Result<Value> {
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{} {said} {}", output.status, String::from_utf8_lossy(&output.stderr));
    if said.is_empty() {
        Ok(Value::Null)
    } else {
        serde_json::from_str(&said).with_context(|| said.into_owned())
    }
}

/// Our plugin alone, by the agent's socket or another one.
pub(crate) fn ours(socket: &str) -> Value {
    json!({"type": "tidepool-cni", "socket": socket, "timeoutSeconds": 40})
}

/// Where the agent listens.
pub(crate) const SOCKET: &str = "/run/tidepool/agent.sock";

/// Nothing of any sandbox is left on the node: no link, endpoint, lease, route or rule.
pub(crate) fn nothing_left(world: &World) -> Result<()> {
    world.wait("no endpoint is left", || {
        let endpoints = world.debug(NODE, "endpoints").ok()?;
        let pool = world.debug(NODE, "pool").ok()?;
        (items(&endpoints).count() == 0 && pool["addresses"]["leased"] == 0).then_some(())
    })?;
    for (words, of_a_pod) in [
        (&["ip", "-o", "link", "show", "type", "veth"][..], "eni"),
        (&["ip", "-o", "link", "show", "type", "ifb"], ": "),
        (&["ip", "route", "show", "table", "main"], "dev eni"),
        (&["ip", "rule", "show"], "512:"),
        (&["ip", "rule", "show"], "1536:"),
    ] {
        let shown = world.inside(NODE, words)?;
        ensure!(!shown.contains(of_a_pod), "{words:?}: {shown}");
    }
    Ok(())
}
