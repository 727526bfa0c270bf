//! `cnitool`, the reference invoker, for every verb that it has.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kernel_test::NetNs;
use serde_json::Value;
use system_tests::house::{items, text};
use system_tests::world::World;

use crate::invoker::{node_with, nothing_left};
use crate::{BIN_DIR, NODE, tools};

const CNITOOL: (&str, &str) = ("github.com/containernetworking/cni/cnitool", "v1.3.0");
const PLUGINS: &str = "github.com/containernetworking/plugins/plugins/meta";
const PLUGINS_VERSION: &str = "v1.9.0";

struct Cnitool<'a> {
    world: &'a World,
    program: &'a str,
}

impl Cnitool<'_> {
    /// Standard output; an error is what it printed.
    fn call(&self, verb: &str, netns: &Path, capabilities: &str) -> Result<String> {
        let output = self
            .world
            .command(NODE, self.program)?
            .args([verb, "aws-cni"])
            .arg(netns)
            .env("CNI_PATH", BIN_DIR)
            .env("CAP_ARGS", capabilities)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{verb}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

pub(crate) fn every() -> Result<()> {
    let Some(program) = tools::build(CNITOOL.0, CNITOOL.1)? else { return Ok(()) };
    let (portmap, bandwidth) = (format!("{PLUGINS}/portmap"), format!("{PLUGINS}/bandwidth"));
    let chained = (tools::build(&portmap, PLUGINS_VERSION)?, tools::build(&bandwidth, PLUGINS_VERSION)?);
    let (Some(portmap), Some(bandwidth)) = chained else { return Ok(()) };
    let path = |path: &Path| path.to_str().context("UTF-8").map(str::to_owned);
    let mut world = node_with(&[("portmap", &path(&portmap)?), ("bandwidth", &path(&bandwidth)?)])?;
    let conflist = world.inside(NODE, &["cat", "/etc/cni/net.d/05-tidepool.conflist"])?;
    ensure!(conflist.contains("1.1.0"), "all three speak it: {conflist}");
    let program = path(&program)?;
    let cnitool = Cnitool { world: &world, program: &program };
    let (one, two) = (NetNs::new()?, NetNs::new()?);

    cnitool.call("status", one.path(), "")?;
    let wishes = r#"{"portMappings":[{"hostPort":18081,"containerPort":7000,"protocol":"tcp"}],
        "bandwidth":{"ingressRate":80000000,"ingressBurst":8000000}}"#;
    let first: Value = serde_json::from_str(&cnitool.call("add", one.path(), wishes)?)?;
    ensure!(first["cniVersion"] == "1.1.0" && first["interfaces"][1]["mtu"] == 9001, "{first:#}");
    // The bandwidth plugin's CHECK needs a rate, and portmap's a port that is not taken.
    let other = wishes.replace("18081", "18082");
    let second: Value = serde_json::from_str(&cnitool.call("add", two.path(), &other)?)?;
    ensure!(first["ips"][0]["address"] != second["ips"][0]["address"], "{first:#} {second:#}");
    cnitool.call("check", two.path(), &other)?;
    // The same container again is the same; the bandwidth plugin does not do that.
    let again: Value = serde_json::from_str(&cnitool.call("add", two.path(), "")?)?;
    ensure!(again["ips"] == second["ips"] && again["interfaces"] == second["interfaces"], "{again:#}");
    two.ip("route del default")?;
    let error = cnitool.call("check", two.path(), &other).expect_err("its default route is gone");
    ensure!(error.to_string().contains("default route"), "{error}");

    // DEL, again, and then the same container anew.
    cnitool.call("del", two.path(), &other)?;
    cnitool.call("del", two.path(), &other)?;
    ensure!(leased(&world)? == 1);
    cnitool.call("add", two.path(), &other)?;
    cnitool.call("check", two.path(), &other)?;
    // It names no attachment as living, and has taken away all that it knows before it asks.
    cnitool.call("gc", one.path(), "")?;
    nothing_left(&world)?;

    world.kill_agent(NODE)?;
    let cnitool = Cnitool { world: &world, program: &program };
    let error = cnitool.call("status", one.path(), "").expect_err("there is no agent");
    ensure!(error.to_string().contains("cannot be reached"), "{error}");
    Ok(())
}

fn leased(world: &World) -> Result<usize> {
    let endpoints = world.debug(NODE, "endpoints")?;
    Ok(items(&endpoints).filter(|one| !text(&one["sandbox"]).is_empty()).count())
}
