//! What an operator applies: valid for Kubernetes, and no wider than its use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use serde_json::Value;
use system_tests::demo::bin_dir;
use system_tests::house::{code, items, root, rust_files, strings, text};

fn main() {
    kernel_test::run(vec![
        trial(
            "manifests_are_valid",
            &[Need::Env("TIDEPOOL_PYTHON"), Need::Python("kubernetes_validate")],
            manifests_are_valid,
        ),
        trial("an_unknown_field_is_found", &[Need::Python("kubernetes_validate")], an_unknown_field_is_found),
        trial("the_iam_policy_is_what_the_agent_calls", &[], the_iam_policy_is_what_the_agent_calls),
        trial("the_role_binds_what_the_daemonset_runs_as", &[], the_role_binds_what_the_daemonset_runs_as),
        trial("the_role_reads_what_the_agent_watches", &[], the_role_reads_what_the_agent_watches),
        trial("the_lease_is_all_that_may_be_written_again", &[], the_lease_is_all_that_may_be_written_again),
        trial(
            "the_definition_is_of_what_the_agent_watches",
            &[],
            the_definition_is_of_what_the_agent_watches,
        ),
        trial(
            "the_role_only_reads_but_for_events_and_conditions",
            &[],
            the_role_only_reads_but_for_events_and_conditions,
        ),
        trial("every_knob_is_one_that_the_agent_reads", &[], every_knob_is_one_that_the_agent_reads),
        trial(
            "every_knob_has_a_value_that_the_agent_takes",
            &[Need::Env("TIDEPOOL_BIN_DIR")],
            every_knob_is_taken,
        ),
        trial("every_mount_has_its_volume", &[], every_mount_has_its_volume),
    ]);
}

/// Runs `kubernetes-validate --strict` of the tests' own Python.
fn validate(files: &[&str]) -> Result<(bool, String)> {
    let python = std::env::var("TIDEPOOL_PYTHON")?;
    let program = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())";
    let output =
        Command::new(python).args(["-c", program, "--strict"]).args(files).current_dir(root()).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

fn manifests_are_valid() -> Result<()> {
    let files = ["daemonset.yaml", "examples/application.yaml", "examples/policies.yaml"];
    let (valid, said) = validate(&files)?;
    ensure!(valid, "{said}");
    Ok(())
}

/// Shows that the check above can fail.
fn an_unknown_field_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let wrong = dir.path().join("daemonset.yaml");
    let manifest = fs::read_to_string(root().join("daemonset.yaml"))?;
    fs::write(&wrong, manifest.replace("hostNetwork: true", "hostNetworking: true"))?;
    let (valid, said) = validate(&[wrong.to_str().context("a path that is no text")?])?;
    ensure!(!valid && said.contains("hostNetworking"), "{said}");
    Ok(())
}

/// Documents of a manifest by kind.
fn documents(file: &str) -> Result<BTreeMap<String, Value>> {
    use serde_yaml_ng::Deserializer;
    let text = fs::read_to_string(root().join(file))?;
    let mut found = BTreeMap::new();
    for document in Deserializer::from_str(&text) {
        let value: Value = serde::Deserialize::deserialize(document)?;
        found.insert(self::text(&value["kind"]).to_owned(), value);
    }
    Ok(found)
}

fn the_iam_policy_is_what_the_agent_calls() -> Result<()> {
    let policy: Value = serde_json::from_str(&fs::read_to_string(root().join("iam-policy.json"))?)?;
    let mut granted = BTreeSet::new();
    for statement in items(&policy["Statement"]) {
        match &statement["Action"] {
            Value::String(one) => {
                granted.insert(one.clone());
            }
            several => granted.extend(strings(several).map(str::to_owned)),
        }
    }
    // The SDK's methods are the operations in snake case: `.create_tags()`.
    let adapter = code(&root().join("agent/src/ec2/client.rs"))?;
    let called: BTreeSet<String> = adapter
        .split('.')
        .filter_map(|part| part.split_once("()"))
        .map(|(name, _)| name)
        .filter(|name| {
            ["describe_", "create_", "attach_", "modify_", "assign_", "unassign_", "detach_", "delete_"]
                .iter()
                .any(|verb| name.starts_with(verb))
        })
        // `delete_on_termination()` reads a field; operations have an object.
        .filter(|name| !name.starts_with("delete_on_"))
        .map(|name| format!("ec2:{}", camel(name)))
        .collect();
    ensure!(granted == called, "granted {granted:#?}\ncalled {called:#?}");
    Ok(())
}

fn camel(snake: &str) -> String {
    snake
        .split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string()).unwrap_or_default()
                + letters.as_str()
        })
        .collect()
}

fn the_role_binds_what_the_daemonset_runs_as() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let account = &found["ServiceAccount"]["metadata"];
    let binding = &found["ClusterRoleBinding"];
    ensure!(binding["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]);
    ensure!(binding["subjects"][0]["name"] == account["name"]);
    ensure!(binding["subjects"][0]["namespace"] == account["namespace"]);
    let daemonset = &found["DaemonSet"];
    ensure!(daemonset["metadata"]["namespace"] == account["namespace"]);
    ensure!(daemonset["spec"]["template"]["spec"]["serviceAccountName"] == account["name"]);
    Ok(())
}

/// The paths of the API that an agent's sources name: `/api/v1/pods`.
fn watched_paths() -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    for file in rust_files("agent/src/k8s")? {
        if file.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let source = code(&file)?;
        let literals = source.split('"').skip(1).step_by(2);
        paths.extend(
            literals.filter(|text| text.starts_with("/api") && !text.contains('{')).map(str::to_owned),
        );
    }
    Ok(paths)
}

fn the_role_reads_what_the_agent_watches() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let mut granted = BTreeSet::new();
    for rule in items(&found["ClusterRole"]["rules"]) {
        if strings(&rule["verbs"]).any(|verb| verb == "watch") {
            ensure!(strings(&rule["verbs"]).any(|verb| verb == "list"), "{rule}");
            granted.extend(strings(&rule["resources"]).map(str::to_owned));
        }
    }
    let watched: BTreeSet<String> =
        watched_paths()?.iter().filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect();
    ensure!(granted == watched, "granted {granted:?}, watched {watched:?}");
    Ok(())
}

fn the_lease_is_all_that_may_be_written_again() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    for rule in items(&found["Role"]["rules"]) {
        ensure!(strings(&rule["resources"]).eq(["leases"]), "{rule}");
        let verbs: BTreeSet<&str> = strings(&rule["verbs"]).collect();
        let named: Vec<&str> = strings(&rule["resourceNames"]).collect();
        ensure!(verbs == BTreeSet::from(["create"]) || named == ["tidepool-leak-sweeper"], "{rule}");
    }
    let binding = &found["RoleBinding"];
    ensure!(binding["roleRef"]["name"] == found["Role"]["metadata"]["name"]);
    ensure!(binding["subjects"][0]["name"] == found["ServiceAccount"]["metadata"]["name"]);
    let mut sources = String::new();
    for file in rust_files("agent/src/sweep")? {
        sources.push_str(&code(&file)?);
    }
    ensure!(sources.contains("\"tidepool-leak-sweeper\""), "the sweeper's Lease has another name");
    Ok(())
}

fn the_definition_is_of_what_the_agent_watches() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let definition = &found["CustomResourceDefinition"];
    let (group, plural) = (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["plural"]));
    ensure!(definition["metadata"]["name"] == format!("{plural}.{group}"));
    let version = items(&definition["spec"]["versions"]).next().context("no version")?;
    ensure!(version["served"] == true && version["storage"] == true, "{version}");
    let path = format!("/apis/{group}/{}/{plural}", text(&version["name"]));
    ensure!(watched_paths()?.contains(&path), "{path} is not watched");
    Ok(())
}

fn the_role_only_reads_but_for_events_and_conditions() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    for rule in items(&found["ClusterRole"]["rules"]) {
        let verbs: BTreeSet<&str> = strings(&rule["verbs"]).collect();
        let resources: BTreeSet<&str> = strings(&rule["resources"]).collect();
        let allowed = if resources.contains("events") {
            BTreeSet::from(["create", "patch"])
        } else if resources == BTreeSet::from(["pods/status"]) {
            // Where a new pod is. Pods themselves may not be written.
            BTreeSet::from(["patch"])
        } else {
            BTreeSet::from(["get", "list", "watch"])
        };
        ensure!(verbs.is_subset(&allowed), "{resources:?}: {verbs:?}");
        ensure!(!resources.contains("*") && !verbs.contains("*"));
        ensure!(!resources.contains("secrets"));
    }
    Ok(())
}

fn every_knob_is_one_that_the_agent_reads() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let mut sources = String::new();
    for file in rust_files("agent/src/config")? {
        // A knob that is only warned about has no effect; it must not be set.
        if !file.ends_with("knobs.rs") {
            sources.push_str(&code(&file)?);
        }
    }
    let knobs = found["ConfigMap"]["data"].as_object().context("the ConfigMap has no data")?;
    for knob in knobs.keys() {
        ensure!(sources.contains(&format!("\"{knob}\"")), "the agent does not read {knob}");
    }
    Ok(())
}

/// The agent reports all faults at once: with one of our own added, it must be
/// the only one.
fn every_knob_is_taken() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let knobs = found["ConfigMap"]["data"].as_object().context("the ConfigMap has no data")?;
    let output = Command::new(bin_dir()?.join("tidepool-agent"))
        .arg("run")
        .env_clear()
        .envs(knobs.iter().map(|(knob, value)| (knob, text(value))))
        .env("MY_NODE_NAME", "node")
        .env("POD_MTU", "not a number")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(64), "{}: {said}", output.status);
    ensure!(said.contains("1 fault(s)") && said.contains("POD_MTU"), "{said}");
    Ok(())
}

fn every_mount_has_its_volume() -> Result<()> {
    let found = documents("daemonset.yaml")?;
    let pod = &found["DaemonSet"]["spec"]["template"]["spec"];
    let volumes: BTreeSet<&str> = items(&pod["volumes"]).map(|volume| text(&volume["name"])).collect();
    let mounted: BTreeSet<&str> = items(&pod["containers"])
        .chain(items(&pod["initContainers"]))
        .flat_map(|container| items(&container["volumeMounts"]))
        .map(|mount| text(&mount["name"]))
        .collect();
    ensure!(volumes == mounted, "volumes {volumes:?}, mounts {mounted:?}");
    Ok(())
}
