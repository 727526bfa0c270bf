//! Applying and deleting manifests through the Kubernetes API, whatever kinds
//! they hold, without kubectl.

use std::fmt;
use std::time::{Duration, Instant};

use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fabric::chain;

/// A manifest could not be applied or deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// What was sent is not YAML, or no object.
    #[error("document {number}: {problem}")]
    Document { number: usize, problem: String },
    /// The API serves no such kind, also after a while.
    #[error("the API serves no {0}")]
    UnknownKind(String),
    /// What was deleted has not ended.
    #[error("{what} is still there after {waited:?}")]
    StillThere { what: String, waited: Duration },
    /// The API refused something.
    #[error("{what}: {}", reason(refusal))]
    Api {
        what: String,
        // Not a source of the error: its words are in the text.
        refusal: Box<kube::Error>,
    },
}

/// The API's own words where it answered: the error's text repeats the whole
/// answer.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => chain(other),
    }
}

/// An object that was applied or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Named {
    pub(super) kind: String,
    /// `None` of objects that belong to no namespace.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// How long a kind that a definition has just made may take to be served.
const NEW_KIND: (u32, Duration) = (20, Duration::from_millis(100));

/// How often a write that met another's is repeated.
const CONFLICTS: u32 = 5;

/// Creates every object of `yaml`, or replaces the one that is there, in order.
pub(super) async fn apply(client: &Client, yaml: &str) -> Result<Vec<Named>, ApplyError> {
    let mut kinds = Kinds::new(client.clone());
    let mut applied = Vec::new();
    for object in parse(yaml)? {
        let (api, named) = kinds.api_of(&object).await?;
        write(&api, &named, object).await?;
        applied.push(named);
    }
    Ok(applied)
}

/// How long [`delete`] waits for the end of what it deleted, and between looks.
const END: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(50));

/// Deletes every object of `yaml` in reverse order. One that is not there is
/// deleted already. Pods and namespaces end later: with `wait`, this does too.
pub(super) async fn delete(client: &Client, yaml: &str, wait: bool) -> Result<Vec<Named>, ApplyError> {
    let mut kinds = Kinds::new(client.clone());
    let mut deleted = Vec::new();
    let mut ending = Vec::new();
    for object in parse(yaml)?.into_iter().rev() {
        let (api, named) = kinds.api_of(&object).await?;
        match api.delete(&named.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(source) => return Err(failed("delete", &named, source)),
            Ok(answer) => {
                let uid =
                    answer.either(|object| object.uid(), |status| status.details.map(|details| details.uid));
                ending.push((api, named.clone(), uid));
            }
        }
        deleted.push(named);
    }
    if wait {
        let (bound, pause) = END;
        let deadline = Instant::now() + bound;
        for (api, named, uid) in ending {
            while is_there(&api, &named, uid.as_deref()).await? {
                if Instant::now() > deadline {
                    return Err(ApplyError::StillThere { what: named.to_string(), waited: bound });
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
    Ok(deleted)
}

/// Whether the very object is there, and not another one of its name.
async fn is_there(api: &Api<DynamicObject>, named: &Named, uid: Option<&str>) -> Result<bool, ApplyError> {
    match api.get(&named.name).await {
        Ok(object) => Ok(uid.is_none_or(|uid| uid.is_empty() || object.metadata.uid.as_deref() == Some(uid))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(source) => Err(failed("wait for the end of", named, source)),
    }
}

async fn write(api: &Api<DynamicObject>, named: &Named, object: DynamicObject) -> Result<(), ApplyError> {
    let parameters = PostParams::default();
    for round in 1.. {
        let written = match api.create(&parameters, &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                match api.get(&named.name).await {
                    Ok(live) => api.replace(&named.name, &parameters, &replacement(&object, live)).await,
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        match written {
            Ok(_) => return Ok(()),
            // Somebody else wrote, or deleted, between the two calls.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) && round < CONFLICTS => {}
            Err(source) => return Err(failed("apply", named, source)),
        }
    }
    Ok(())
}

/// What replaces `live`: the object as it is wanted, with what the cluster itself
/// has put there and lets nobody change.
fn replacement(wanted: &DynamicObject, live: DynamicObject) -> DynamicObject {
    let mut object = wanted.clone();
    object.metadata.resource_version = live.metadata.resource_version;
    let kind = live.types.as_ref().map(|types| types.kind.as_str());
    match kind {
        Some("Pod") => {
            // All but a few fields of a pod are fixed, defaults included.
            let mut spec = live.data["spec"].clone();
            json_patch::merge(&mut spec, &wanted.data["spec"]);
            object.data["spec"] = spec;
        }
        Some("Service") => {
            for field in ["clusterIP", "clusterIPs"] {
                let live = &live.data["spec"][field];
                if !live.is_null() && object.data["spec"][field].is_null() {
                    object.data["spec"][field] = live.clone();
                }
            }
        }
        _ => {}
    }
    object
}

/// The kinds that the API serves, asked for once, and again for a new one.
struct Kinds {
    client: Client,
    known: Option<Discovery>,
}

impl Kinds {
    fn new(client: Client) -> Self {
        Self { client, known: None }
    }

    async fn api_of(&mut self, object: &DynamicObject) -> Result<(Api<DynamicObject>, Named), ApplyError> {
        let (resource, capabilities) = self.resource_of(object).await?;
        let name = object.name_any();
        let (api, namespace) = match capabilities.scope {
            Scope::Cluster => (Api::all_with(self.client.clone(), &resource), None),
            Scope::Namespaced => {
                let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
                let api = Api::namespaced_with(self.client.clone(), &namespace, &resource);
                (api, Some(namespace))
            }
        };
        let kind = resource.kind;
        Ok((api, Named { kind, namespace, name }))
    }

    async fn resource_of(
        &mut self,
        object: &DynamicObject,
    ) -> Result<(ApiResource, ApiCapabilities), ApplyError> {
        let types = object.types.clone().unwrap_or_default();
        let unknown = || ApplyError::UnknownKind(format!("{} of {}", types.kind, types.api_version));
        let kind = GroupVersionKind::try_from(&types).map_err(|_| unknown())?;
        let (tries, pause) = NEW_KIND;
        for _ in 0..tries {
            if let Some(found) = self.known.as_ref().and_then(|known| known.resolve_gvk(&kind)) {
                return Ok(found);
            }
            if self.known.is_some() {
                tokio::time::sleep(pause).await;
            }
            let known = Discovery::new(self.client.clone()).run().await.map_err(|source| {
                ApplyError::Api { what: "ask the API for its kinds".to_owned(), refusal: Box::new(source) }
            })?;
            self.known = Some(known);
        }
        self.known.as_ref().and_then(|known| known.resolve_gvk(&kind)).ok_or_else(unknown)
    }
}

/// The objects of all documents, lists taken apart.
fn parse(yaml: &str) -> Result<Vec<DynamicObject>, ApplyError> {
    let mut objects = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(yaml).enumerate() {
        let number = index + 1;
        let wrong = |problem: String| ApplyError::Document { number, problem };
        let value = Value::deserialize(document).map_err(|error| wrong(error.to_string()))?;
        // A document of comments only.
        if value.is_null() {
            continue;
        }
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let members = match (is_list, value["items"].as_array()) {
            (true, Some(items)) => items.clone(),
            _ => vec![value],
        };
        for member in members {
            let object: DynamicObject =
                serde_json::from_value(member).map_err(|error| wrong(error.to_string()))?;
            if object.types.is_none() || object.metadata.name.is_none() {
                return Err(wrong("no apiVersion, kind or metadata.name".to_owned()));
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

fn failed(verb: &str, named: &Named, source: kube::Error) -> ApplyError {
    ApplyError::Api { what: format!("{verb} {named}"), refusal: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_and_lists_become_objects() -> anyhow::Result<()> {
        let yaml = "
# a comment only
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: b}}
- {apiVersion: v1, kind: Pod, metadata: {name: c}}
";
        let names: Vec<String> = parse(yaml)?.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b", "c"]);
        Ok(())
    }

    #[test]
    fn a_replacement_keeps_what_the_cluster_has_fixed() -> anyhow::Result<()> {
        let object = |value: Value| serde_json::from_value::<DynamicObject>(value);
        let live = object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"},
            "spec": {"nodeName": "n", "containers": [{"name": "old"}]},
        }))?;
        let wanted = object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "new"}]},
        }))?;
        let sent = serde_json::to_value(replacement(&wanted, live))?;
        assert_eq!(
            sent,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "labels": {"x": "y"}, "resourceVersion": "7"},
                "spec": {"nodeName": "n", "containers": [{"name": "new"}]},
            })
        );
        Ok(())
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        for (yaml, problem) in [
            ("kind: Pod", "document 1: "),
            (
                "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\n",
                "document 2: ",
            ),
            ("{", "document 1: "),
        ] {
            let error = parse(yaml).map(drop).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|text| text.starts_with(problem)), "{yaml}: {error:?}");
        }
    }
}
