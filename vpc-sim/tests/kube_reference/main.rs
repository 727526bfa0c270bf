//! The simulated Kubernetes API beside the real library: the same requests to
//! both, and their answers must be the same.
//!
//! `TIDEPOOL_APISERVER` names the folder of an API server made of the published
//! Kubernetes libraries, with a `build.sh`; it needs Go.

mod answer;
mod script;
mod servers;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kernel_test::{Need, trial};

use answer::differences;
use script::{Step, script};
use servers::{Real, Server, simulated};

/// Generous: the machine may be busy.
const BOUND: Duration = Duration::from_secs(60);

fn main() {
    let needs = [Need::Tool("go"), Need::Env("TIDEPOOL_APISERVER")];
    kernel_test::run(vec![trial("answers_as_the_real_server_does", &needs, || {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(compare())
    })]);
}

async fn compare() -> Result<()> {
    let real = Real::start().await?;
    let (store, simulated) = simulated().await?;
    let mut servers = [real.server().await?, simulated];
    let mut faults = Vec::new();
    let mut count = 0;
    for step in script() {
        match &step {
            Step::Expire => {
                real.expire().await?;
                store.expire_history();
            }
            Step::Until { path, code } => {
                for server in &mut servers {
                    wait_for_code(server, path, *code).await?;
                }
            }
            Step::Prepare(ask) => {
                for server in &mut servers {
                    let code = server.ask(ask).await?.code;
                    ensure!((200..300).contains(&code), "{}: {} answers {code}", server.name, ask.label);
                }
            }
            Step::Ask(ask) => {
                count += 1;
                let [real, simulated] = &mut servers;
                let (expected, found) = (real.ask(ask).await?, simulated.ask(ask).await?);
                let lines = differences(ask, &expected, &found);
                if !lines.is_empty() {
                    faults.push(format!("{}:\n    {}", ask.label, lines.join("\n    ")));
                }
            }
        }
    }
    println!("{count} requests to both");
    ensure!(
        faults.is_empty(),
        "{} answers differ from the real server's:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}

/// Asks until the answer has this code: what a server does by itself takes its time.
async fn wait_for_code(server: &mut Server, path: &str, code: u16) -> Result<()> {
    let deadline = tokio::time::Instant::now() + BOUND;
    loop {
        let answer = server.ask(&script::get("wait", path)).await.context("asking while waiting")?;
        if answer.code == code {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("{}: {path} answers {} and not {code}", server.name, answer.code);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
