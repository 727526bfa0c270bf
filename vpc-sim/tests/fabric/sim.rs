//! `vpc-sim up` as a child process, and its control endpoint.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kernel_test::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(super) const BOUND: Duration = Duration::from_secs(30);

/// A running simulation, with a directory for temporary files of its own.
pub(super) struct Sim {
    child: Child,
    /// The line it printed.
    pub(super) ready: Value,
    pub(super) tmp: TempDir,
}

impl Sim {
    pub(super) fn up(arguments: &[&str]) -> Result<Self> {
        Self::up_in(tempfile::tempdir()?, arguments)
    }

    pub(super) fn up_in(tmp: TempDir, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpc-sim"));
        command.arg("up").args(arguments).env("TMPDIR", tmp.path());
        Self::start(command, tmp)
    }

    pub(super) fn start(mut command: Command, tmp: TempDir) -> Result<Self> {
        command.stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("start vpc-sim")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready = match serde_json::from_str(&line) {
            Ok(ready) => ready,
            Err(error) => {
                child.kill()?;
                bail!("{:?} printed {line:?}: {error}", child.wait()?);
            }
        };
        Ok(Self { child, ready, tmp })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal and waits for the end.
    pub(super) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(self.pid(), signal)?;
        let mut ended = None;
        wait_for("the simulation ends", BOUND, || {
            ended = self.child.try_wait().ok().flatten();
            ended
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<String> {
        text(&self.ready, key)
    }

    pub(super) fn node(&self, index: usize) -> Result<SimNode> {
        let node = &self.ready["nodes"][index];
        Ok(SimNode {
            name: text(node, "name")?,
            netns: text(node, "netns")?.into(),
            mntns: text(node, "mntns")?.into(),
            ec2: text(node, "ec2")?,
            imds: text(node, "imds")?,
            kubeconfig: text(node, "kubeconfig")?.into(),
        })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.text("control")?);
        Ok(ureq::get(&url).call().with_context(|| url)?.body_mut().read_json()?)
    }

    pub(super) fn post_text(&self, path: &str, body: &str) -> Result<Value> {
        let url = format!("{}{path}", self.text("control")?);
        let mut answer =
            ureq::post(&url).config().http_status_as_error(false).build().send(body).with_context(|| url)?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status().is_success(), "{}: {text}", answer.status());
        Ok(serde_json::from_str(&text)?)
    }

    /// Asks one question after the other's network.
    pub(super) fn probe(&self, from: &str, to: &str, protocol: &str, port: u16) -> Result<(bool, String)> {
        let request = json!({
            "timeout_ms": 1000,
            "probes": [{"from": from, "to": to, "protocol": protocol, "port": port}],
        });
        let url = format!("{}/probe", self.text("control")?);
        let outcome: Value = ureq::post(&url).send_json(request)?.body_mut().read_json()?;
        let allowed = outcome[0]["allowed"].as_bool().context("an outcome")?;
        Ok((allowed, text(&outcome[0], "detail")?))
    }

    /// Waits until a pod is as it should be.
    pub(super) fn wait_for_pod(
        &self,
        name: &str,
        what: &str,
        check: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        wait_for(&format!("{name} {what}"), BOUND, || {
            last = self.get("/pods").ok()?;
            last.as_array()?.iter().find(|pod| pod["name"] == name && check(pod)).cloned()
        })
        .with_context(|| format!("{last:#}"))
    }

    /// The URL of the Kubernetes API.
    pub(super) fn api(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.text("kubeconfig")?)?;
        let config: Value = serde_yaml_ng::from_str(&text)?;
        config["clusters"][0]["cluster"]["server"].as_str().map(str::to_owned).context("a server")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // It may have been ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) struct SimNode {
    pub(super) name: String,
    pub(super) netns: PathBuf,
    pub(super) mntns: PathBuf,
    pub(super) ec2: String,
    pub(super) imds: String,
    pub(super) kubeconfig: PathBuf,
}

impl SimNode {
    /// Runs a shell script in the node and returns what it prints.
    pub(super) fn sh(&self, script: &str) -> Result<String> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.netns.display()))
            .arg(format!("--mount={}", self.mntns.display()))
            .args(["sh", "-ec", script])
            .output()?;
        ensure!(
            output.status.success(),
            "{}: {script}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a URL answers inside the node.
    pub(super) fn http(&self, method: &str, url: &str, header: Option<&str>) -> Result<String> {
        let rest = url.strip_prefix("http://").context("a plain URL")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let header = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let netns = std::fs::File::open(&self.netns)?;
        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| -> Result<String> {
                use std::io::{Read, Write};

                nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                let mut stream = std::net::TcpStream::connect(&address).context(address)?;
                stream.set_read_timeout(Some(BOUND))?;
                stream.write_all(request.as_bytes())?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            });
            asked.join().map_err(|_| anyhow::anyhow!("the thread in the node panicked"))?
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        ensure!(head.contains(" 200 "), "{method} {url}: {answer}");
        Ok(body.to_owned())
    }
}

pub(super) fn text(value: &Value, key: &str) -> Result<String> {
    value[key].as_str().map(str::to_owned).with_context(|| format!("{key} is a text in {value}"))
}
