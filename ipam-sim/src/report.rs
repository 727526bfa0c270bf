//! The table and the JSON.

use std::fmt::Write;

use crate::engine::Figures;
use crate::scenario::{FleetFigures, Row};

/// The rows as a JSON array, one row a line.
///
/// # Errors
///
/// As serde_json: no figure of a row can cause one.
pub fn json(rows: &[Row]) -> Result<String, serde_json::Error> {
    let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    Ok(format!("[\n{}\n]\n", lines?.join(",\n")))
}

/// Every row, the incumbent's figures below ours and the ratio of the two
/// below those; at most 120 columns.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut scenario = "";
    for row in rows {
        if row.scenario != scenario {
            scenario = &row.scenario;
            let _ = writeln!(text, "\n{scenario}\n{}", heading());
        }
        let _ = writeln!(text, "{}", line(&format!("  {}", row.config), Some(row.pods), &row.ours));
        let _ = writeln!(text, "{}", line("    incumbent", None, &row.incumbent.figures));
        let _ = writeln!(text, "{}", ratios(row));
        for (who, fleet) in [("ours", row.fleet), ("incumbent", row.incumbent.fleet)] {
            if let Some(fleet) = fleet {
                let _ = writeln!(text, "{}", fleet_line(who, &fleet));
            }
        }
    }
    let _ = writeln!(
        text,
        "\nratio: ours by the incumbent's. calls from the first arrival, without periodic reads; p50, p99: wait for an\n\
         address; t99: until 99 of 100 pods have had one; rel., reus.: addresses given back, leased while they cool."
    );
    text
}

fn heading() -> String {
    format!(
        "{:<27}{:>5}{:>8}{:>8}{:>8}{:>9}{:>10}{:>8}{:>9}{:>9}{:>8}{:>5}{:>6}",
        "",
        "pods",
        "failed",
        "refused",
        "calls",
        "mutating",
        "throttled",
        "p50 s",
        "p99 s",
        "t99 s",
        "idle",
        "rel.",
        "reus."
    )
}

fn line(name: &str, pods: Option<u64>, figures: &Figures) -> String {
    format!(
        "{name:<27}{:>5}{:>8}{:>8}{:>8}{:>9}{:>10}{:>8}{:>9}{:>9}{:>8}{:>5}{:>6}",
        pods.map(|pods| pods.to_string()).unwrap_or_default(),
        figures.failed_adds,
        figures.refused_adds,
        figures.ec2_calls,
        figures.mutating_calls,
        figures.throttled_calls,
        seconds(Some(figures.wait_p50_s)),
        seconds(Some(figures.wait_p99_s)),
        seconds(figures.time_to_99_s),
        figures.idle_addresses,
        figures.released_while_cooling,
        figures.reused_while_cooling,
    )
}

fn ratios(row: &Row) -> String {
    let (ours, theirs) = (&row.ours, &row.incumbent.figures);
    let count = |ours: u64, theirs: u64| ratio(ours as f64, theirs as f64);
    format!(
        "    ratio{:>42}{:>9}{:>10}{:>8}{:>9}{:>9}{:>8}",
        count(ours.ec2_calls, theirs.ec2_calls),
        count(ours.mutating_calls, theirs.mutating_calls),
        count(ours.throttled_calls, theirs.throttled_calls),
        ratio(ours.wait_p50_s, theirs.wait_p50_s),
        ratio(ours.wait_p99_s, theirs.wait_p99_s),
        match (ours.time_to_99_s, theirs.time_to_99_s) {
            (Some(ours), Some(theirs)) => ratio(ours, theirs),
            _ => "-".to_owned(),
        },
        count(ours.idle_addresses, theirs.idle_addresses),
    )
    .trim_end()
    .to_owned()
}

fn fleet_line(who: &str, fleet: &FleetFigures) -> String {
    format!(
        "    {who}: {} nodes, token buckets allow {} s; half of all pods after {} s, all after {} s",
        fleet.nodes,
        seconds(Some(fleet.bound_s)),
        seconds(fleet.time_to_50_s),
        seconds(fleet.time_to_100_s),
    )
}

fn seconds(time: Option<f64>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{time:.1}"))
}

/// Ours by theirs; nothing to say where both are nothing.
fn ratio(ours: f64, theirs: f64) -> String {
    match (ours == 0.0, theirs == 0.0) {
        (true, true) => "=".to_owned(),
        (false, true) => "-".to_owned(),
        _ => format!("{:.2}", ours / theirs),
    }
}
