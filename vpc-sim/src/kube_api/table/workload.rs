//! Daemon sets and what pods take with them.

use serde_json::{Value, json};

use super::super::lookup::{at, int, items, text};
use super::network::selector_text;
use super::{Layout, age, column, joined, labels, name, number, wide};

pub(super) const DAEMON_SETS: Layout = Layout {
    columns: &[
        column("Name"),
        number("Desired"),
        number("Current"),
        number("Ready"),
        number("Up-to-date"),
        number("Available"),
        column("Node Selector"),
        column("Age"),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    cells: |set| {
        let count = |key: &str| json!(int(set, &["status", key]).unwrap_or(0));
        let containers = items(set, &["spec", "template", "spec", "containers"]);
        let texts = |key: &str| {
            let list: Vec<&str> = containers.iter().map(|one| text(one, &[key])).collect();
            json!(joined(&list))
        };
        vec![
            json!(name(set)),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            json!(labels(at(set, &["spec", "template", "spec", "nodeSelector"]))),
            age(set),
            texts("name"),
            texts("image"),
            json!(selector_text(at(set, &["spec", "selector"]))),
        ]
    },
};

pub(super) const CONTROLLER_REVISIONS: Layout = Layout {
    columns: &[column("Name"), column("Controller"), number("Revision"), column("Age")],
    cells: |revision| {
        let owner = items(revision, &["metadata", "ownerReferences"])
            .first()
            .map(|owner| format!("{}/{}", text(owner, &["kind"]).to_lowercase(), text(owner, &["name"])));
        vec![
            json!(name(revision)),
            json!(owner.unwrap_or_else(|| "<none>".to_owned())),
            json!(int(revision, &["revision"]).unwrap_or(0)),
            age(revision),
        ]
    },
};

pub(super) const CONFIG_MAPS: Layout = Layout {
    columns: &[column("Name"), number("Data"), column("Age")],
    cells: |map| {
        let entries = size(map, "data") + size(map, "binaryData");
        vec![json!(name(map)), json!(entries), age(map)]
    },
};

pub(super) const SECRETS: Layout = Layout {
    columns: &[column("Name"), column("Type"), number("Data"), column("Age")],
    cells: |secret| {
        vec![json!(name(secret)), json!(text(secret, &["type"])), json!(size(secret, "data")), age(secret)]
    },
};

pub(super) const SERVICE_ACCOUNTS: Layout = Layout {
    columns: &[column("Name"), number("Secrets"), column("Age")],
    cells: |account| vec![json!(name(account)), json!(items(account, &["secrets"]).len()), age(account)],
};

fn size(object: &Value, key: &str) -> usize {
    object[key].as_object().map_or(0, serde_json::Map::len)
}
