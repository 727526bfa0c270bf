//! The program itself: what stands on standard output, and how it ends.

use std::process::{Command, Output};

fn ipam_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ipam-sim")).args(arguments).output().expect("the program starts")
}

#[test]
fn json_is_all_that_stands_on_standard_output() {
    let output = ipam_sim(&["--json", "--only", "restart", "--seed", "5"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(rows.as_array().map(Vec::len), Some(10));
}

#[test]
fn the_table_names_scenarios_and_both_agents() {
    let output = ipam_sim(&["--only", "IMDS"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    for part in ["IMDS lags 60 s", "WARM_IP=5 MIN=10", "incumbent", "ratio"] {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
}

#[test]
fn a_single_row_can_be_asked_for_by_its_name() {
    let output = ipam_sim(&["--json", "--only", "burst m5.4xlarge 110"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let names: Vec<&str> =
        rows.as_array().expect("rows").iter().filter_map(|row| row["scenario"].as_str()).collect();
    assert_eq!(names, ["burst m5.4xlarge 110"; 4]);
}

#[test]
fn an_unknown_scenario_is_an_error_that_names_those_there_are() {
    let output = ipam_sim(&["--only", "bursts of pods"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("rolling update") && error.contains("fleet"), "{error}");
}
