//! Packets as an operator sees them, by the names of those who talk.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::world::manifests::trio;
use system_tests::world::{STILL_POOL, World};

/// `tidepool-agent flows --follow --json` on a node, and what it has said.
pub(crate) struct Followed {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Followed {
    /// Returns when nothing is missed any more.
    pub(crate) fn start(world: &World, node: &str, options: &[&str]) -> Result<Self> {
        let before = world.metric(node, "tidepool_flow_followers")?.unwrap_or_default();
        let mut command = world.command(node, "tidepool-agent")?;
        command.args(["flows", "--follow", "--json"]).args(options).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("it has no output")?);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let told = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if let Ok(mut lines) = heard.lock() {
                    lines.push(told);
                }
            }
        });
        let followed = Self { child, lines };
        world.wait("somebody follows", || {
            let now = world.metric(node, "tidepool_flow_followers").ok()??;
            (now > before).then_some(())
        })?;
        Ok(followed)
    }

    /// Everything so far.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.lines.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Waits for a flow with these fields, each by its JSON pointer.
    pub(crate) fn wait_for(&self, world: &World, fields: &[(&str, &str)]) -> Result<Value> {
        let is_meant = |flow: &&Value| {
            fields.iter().all(|(path, wanted)| match flow.pointer(path) {
                Some(Value::String(text)) => text == wanted,
                Some(other) => format!("{other}").as_str() == *wanted,
                None => false,
            })
        };
        world
            .wait(&format!("a flow with {fields:?}"), || self.told().iter().find(is_meant).cloned())
            .with_context(|| format!("{:#?}", self.told()))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nobody of `app: to` may speak to anybody.
fn mute(to: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: mute, namespace: default}}
spec:
  podSelector: {{matchLabels: {{app: {to}}}}}
  policyTypes: [Egress]
"
    )
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec:
  clusterIP: 10.100.0.77
  selector: {app: db}
  ports: [{port: 5432, targetPort: 8080}]
";

pub(crate) fn followed() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    world.apply(&trio())?;
    world.wait_for_pods(&["web", "other", "db"])?;
    world.wait_for_verdict("other", "db", false)?;
    ensure!(world.metric("node-2", "tidepool_flow_followers")? == Some(0.0), "somebody follows already");

    let all = Followed::start(&world, "node-2", &["--sample", "1"])?;
    let nobody = Followed::start(&world, "node-2", &["--denied", "--pod", "default/web"])?;
    world.must_not_reach("other", "db")?;
    let db = world.pod("db")?;
    let denied = all.wait_for(
        &world,
        &[("/verdict", "denied"), ("/from/name", "default/other"), ("/to/name", "default/db")],
    )?;
    for (path, wanted) in [
        ("/reason", "policy"),
        ("/rule", "default/db isolates ingress"),
        ("/direction", "ingress"),
        ("/protocol", "TCP"),
        ("/pod", "default/db"),
        ("/from/kind", "pod"),
    ] {
        ensure!(denied.pointer(path).is_some_and(|found| found == wanted), "{path}: {denied:#}");
    }
    ensure!(denied["to"]["port"] == 8080 && denied["to"]["address"] == db["ip"], "{denied:#}");
    world.must_reach("web", "db")?;
    all.wait_for(
        &world,
        &[
            ("/verdict", "allowed"),
            ("/from/name", "default/web"),
            ("/to/name", "default/db"),
            ("/rule", "default/db ingress[0]"),
        ],
    )?;
    ensure!(nobody.told().is_empty(), "denies of another pod: {:#?}", nobody.told());

    // What leaves a pod for a Service has the Service's name; in words, this time.
    world.apply(&[SERVICE, &mute("other")].concat())?;
    world.wait("the policy is in force", || {
        let list = world.inside("node-1", &["tidepool-agent", "policy", "list", "default/other"]).ok()?;
        list.contains("isolated by default/mute").then_some(())
    })?;
    let mut command = world.command("node-1", "tidepool-agent")?;
    command.args(["flows", "--denied", "--seconds", "4"]).stdout(Stdio::piped());
    let spoken = command.spawn()?;
    world.wait("it listens", || {
        (world.metric("node-1", "tidepool_flow_followers").ok()?? > 0.0).then_some(())
    })?;
    world.must_not_reach("other", "10.100.0.77")?;
    let said = String::from_utf8(spoken.wait_with_output()?.stdout)?;
    let line = said.lines().find(|line| line.contains("10.100.0.77")).context("the Service is not told")?;
    ensure!(
        line.contains("DENIED  egress  default/other (")
            && line.contains("→ service default/db (10.100.0.77):")
            && line.ends_with(" TCP  policy: default/mute isolates egress"),
        "{said}"
    );

    drop((all, nobody));
    world.wait("nobody follows any more", || {
        (world.metric("node-2", "tidepool_flow_followers").ok()?? == 0.0).then_some(())
    })?;
    let refused = world.run("node-2", &["tidepool-agent", "flows", "--pod", "db"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && said.contains("neither namespace/pod nor namespace/"),
        "{said}"
    );
    Ok(())
}
