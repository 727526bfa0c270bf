//! The result, for people and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::invoke::Verb;
use super::samples::{Case, Samples, Summary};

/// What the others are compared with.
const YARDSTICK: &str = "bridge + host-local";

/// A table in the terms of Markdown.
pub(super) fn write(out: &mut dyn Write, samples: &Samples) -> io::Result<()> {
    writeln!(
        out,
        "| at a time | | ADD p50 ms | p99 | max | × bridge | CPU ms, plugin + agent | DEL p50 ms | p99 | CPU ms | failed |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|")?;
    for &case in samples.cases() {
        let (Some(add), Some(del)) = (samples.summary(case, Verb::Add), samples.summary(case, Verb::Del))
        else {
            writeln!(out, "| {} | {} | nothing succeeded |", case.at_a_time, case.contender)?;
            continue;
        };
        let ratio = samples.ratio(case, YARDSTICK, Verb::Add);
        writeln!(
            out,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {} | {} | {:.2} | {:.2} | {} | {} |",
            case.at_a_time,
            case.contender,
            add.p50,
            add.p99,
            add.max,
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}")),
            cpu(add),
            del.p50,
            del.p99,
            cpu(del),
            samples.failures(case)
        )?;
    }
    if let (Some(add), Some(del)) = (samples.soaked(Verb::Add), samples.soaked(Verb::Del)) {
        let failed = samples.failures_of(super::contender::OURS).len();
        writeln!(out)?;
        writeln!(
            out,
            "{} ADDs eight at a time: p50 {:.2} ms, p99 {:.2}, max {:.2}; {} DELs: p50 {:.2} ms, p99 {:.2}, max \
             {:.2}; {failed} failed.",
            add.calls, add.p50, add.p99, add.max, del.calls, del.p50, del.p99, del.max
        )?;
    }
    Ok(())
}

fn cpu(summary: Summary) -> String {
    match (summary.plugin_cpu, summary.agent_cpu) {
        (None, None) => "-".to_owned(),
        (Some(plugin), None) => format!("{plugin:.2}"),
        (plugin, Some(agent)) => format!("{:.2} + {agent:.2}", plugin.unwrap_or(0.0)),
    }
}

/// The same as one document.
pub(super) fn document(samples: &Samples) -> Value {
    let rows: Vec<Value> = samples
        .cases()
        .iter()
        .map(|&case| {
            json!({
                "contender": case.contender,
                "at_a_time": case.at_a_time,
                "add": verb(samples, case, Verb::Add),
                "del": verb(samples, case, Verb::Del),
                "failed": samples.failures(case),
            })
        })
        .collect();
    json!({
        "rows": rows,
        "soak": {
            "add": samples.soaked(Verb::Add).map(figures),
            "del": samples.soaked(Verb::Del).map(figures),
        },
        "failures": samples.failures_of(super::contender::OURS),
    })
}

fn verb(samples: &Samples, case: Case, verb: Verb) -> Value {
    let mut value = samples.summary(case, verb).map_or(Value::Null, figures);
    if value.is_object() {
        value["times_bridge"] = json!(samples.ratio(case, YARDSTICK, verb));
    }
    value
}

fn figures(summary: Summary) -> Value {
    json!({
        "calls": summary.calls,
        "p50_ms": summary.p50,
        "p99_ms": summary.p99,
        "max_ms": summary.max,
        "plugin_cpu_ms": summary.plugin_cpu,
        "agent_cpu_ms": summary.agent_cpu,
    })
}
