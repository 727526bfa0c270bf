//! The requests. Each is chosen for something that a client may rely on.

use serde_json::{Value, json};

/// One step of the script.
pub(crate) enum Step {
    Ask(Ask),
    /// Asked for its effect; the answers may differ.
    Prepare(Ask),
    /// Both servers lose their history.
    Expire,
    /// Asks until the code comes.
    Until {
        path: String,
        code: u16,
    },
}

/// One request. `{name}` in its path is what an earlier step kept.
pub(crate) struct Ask {
    pub(crate) label: String,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: Option<String>,
    pub(crate) content_type: &'static str,
    pub(crate) accept: &'static str,
    /// A name, and the JSON pointer of what to keep of the answer.
    pub(crate) keep: Option<(&'static str, &'static str)>,
    /// The texts for humans may differ; codes, reasons and fields may not.
    pub(crate) other_words: bool,
}

impl Ask {
    fn words(mut self) -> Self {
        self.other_words = true;
        self
    }

    fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    fn keep(mut self, name: &'static str, pointer: &'static str) -> Self {
        self.keep = Some((name, pointer));
        self
    }
}

fn ask(label: &str, method: &'static str, path: &str, body: Option<String>) -> Ask {
    Ask {
        label: label.to_owned(),
        method,
        path: path.to_owned(),
        body,
        content_type: "application/json",
        accept: "application/json",
        keep: None,
        other_words: false,
    }
}

pub(crate) fn get(label: &str, path: &str) -> Ask {
    ask(label, "GET", path, None)
}

fn post(label: &str, path: &str, body: Value) -> Ask {
    ask(label, "POST", path, Some(body.to_string()))
}

fn put(label: &str, path: &str, body: Value) -> Ask {
    ask(label, "PUT", path, Some(body.to_string()))
}

fn delete(label: &str, path: &str) -> Ask {
    ask(label, "DELETE", path, None)
}

fn patch(label: &str, path: &str, kind: &'static str, body: Value) -> Ask {
    Ask { content_type: kind, ..ask(label, "PATCH", path, Some(body.to_string())) }
}

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

const NAMESPACES: &str = "/api/v1/namespaces";
const PODS: &str = "/api/v1/namespaces/t/pods";
const MAPS: &str = "/api/v1/namespaces/t/configmaps";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/t/networkpolicies";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/t/leases";
const STREAM: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "example:1", "ports": [{"containerPort": 80}]}]},
    })
}

/// The whole script, in order.
pub(crate) fn script() -> Vec<Step> {
    let asks = |part: Vec<Ask>| part.into_iter().map(Step::Ask);
    let mut steps = Vec::new();
    for part in [creating(), reading(), patching(), pods_life(), other_kinds()] {
        steps.extend(asks(part));
    }
    // The real server establishes and serves a definition a moment later.
    steps.push(Step::Prepare(definition()));
    steps.push(Step::Until { path: "/apis/example.com/v1/namespaces/t/ws".to_owned(), code: 200 });
    for part in [custom_resources(), watching()] {
        steps.extend(asks(part));
    }
    steps.extend(expiring());
    steps
}

fn creating() -> Vec<Ask> {
    let strict = format!("{PODS}?dryRun=All&fieldValidation=Strict");
    let mut unknown = pod("u");
    unknown["spec"]["color"] = json!("red");
    let mut elsewhere = pod("q");
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut empty = pod("q");
    empty["spec"]["containers"] = json!([]);
    vec![
        post("no such namespace", PODS, pod("p")),
        post("namespace", NAMESPACES, json!({"metadata": {"name": "t"}})),
        post("namespace again", NAMESPACES, json!({"metadata": {"name": "t"}})),
        post("pod", PODS, pod("p")),
        post("pod again", PODS, pod("p")),
        post("pod without a name", PODS, json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}})),
        post("pod with a bad name", PODS, pod("Bad_Name")),
        post("pod without containers", PODS, empty),
        post("pod of another namespace", PODS, elsewhere),
        post("another kind", PODS, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "q"}}))
            .words(),
        post("another version", PODS, json!({"apiVersion": "v2", "kind": "Pod", "metadata": {"name": "q"}}))
            .words(),
        post("no kind", MAPS, json!({"metadata": {"name": "plain"}})),
        post("a version", MAPS, json!({"metadata": {"name": "v", "resourceVersion": "5"}})),
        post("unknown field, strict", &strict, unknown),
        post("wrong type", PODS, json!({"metadata": {"name": "q"}, "spec": {"containers": "x"}})).words(),
        ask("no JSON", "POST", PODS, Some("{\"a\":".to_owned())).words(),
        post("bad dryRun", &format!("{PODS}?dryRun=some"), pod("q")),
        post("bad fieldValidation", &format!("{PODS}?fieldValidation=some"), pod("q")),
        post("in all namespaces", "/api/v1/pods", pod("q")),
        put("of a collection", PODS, pod("q")),
        delete("of all namespaces", "/api/v1/pods"),
    ]
}

fn reading() -> Vec<Ask> {
    let query = |label: &str, query: &str| get(label, &format!("{PODS}?{query}"));
    vec![
        get("a pod", &format!("{PODS}/p")),
        get("no pod", &format!("{PODS}/none")),
        get("pods", PODS),
        get("pods by namespace field", "/api/v1/pods?fieldSelector=metadata.namespace%3Dt"),
        get("no such resource", "/api/v1/colors"),
        get("no such group", "/apis/example.org/v1"),
        get("no such subresource", &format!("{PODS}/p/color")),
        get("pod's metadata", &format!("{PODS}/p")).accept(METADATA),
        get("pods' metadata", PODS)
            .accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
        get("an unknown form", PODS).accept("application/color").words(),
        query("unknown field selector", "fieldSelector=color%3Dred"),
        query("broken field selector", "fieldSelector=color"),
        query("broken label selector", "labelSelector=a%20b").words(),
        query("match without version", "resourceVersionMatch=Exact"),
        query("exact zero", "resourceVersionMatch=Exact&resourceVersion=0"),
        query("unknown match", "resourceVersionMatch=Some&resourceVersion=0"),
        query("version that is none", "resourceVersion=abc"),
        query("limit that is none", "limit=abc"),
        query("broken continue token", "continue=abc").words(),
        query("streaming in a list", "sendInitialEvents=true"),
        query("streaming without match", "watch=1&sendInitialEvents=true"),
        query("streaming with exact match", "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact"),
        query("match without streaming", "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1"),
        query("watch of an unknown field", "watch=1&fieldSelector=color%3Dred"),
        query("list of the future", "resourceVersion=99999999").words(),
        query("watch of the future", "watch=1&timeoutSeconds=1&resourceVersion=99999999"),
    ]
}

fn patching() -> Vec<Ask> {
    let path = format!("{PODS}/p");
    let change = |label: &str, kind, body| patch(label, &path, kind, body);
    let status = json!({"status": {"phase": "Running", "podIP": "1.2.3.4"}, "spec": {"nodeName": "zz"}});
    let image = json!({"spec": {"containers": [{"name": "c", "image": "example:2"}]}});
    vec![
        change("status through the pod", MERGE, json!({"status": {"phase": "Running"}})),
        patch("status", &format!("{path}/status"), MERGE, status),
        get("by phase", &format!("{PODS}?fieldSelector=status.phase%3DRunning")),
        change("node through the pod", MERGE, json!({"spec": {"nodeName": "zz"}})).words(),
        change(
            "annotation",
            JSON_PATCH,
            json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]),
        ),
        change("failed test", JSON_PATCH, json!([{"op": "test", "path": "/metadata/name", "value": "zz"}]))
            .words(),
        change("missing path", JSON_PATCH, json!([{"op": "remove", "path": "/metadata/zz"}])).words(),
        change("no JSON patch", JSON_PATCH, json!("zz")).words(),
        change("no merge patch", MERGE, json!([])).words(),
        change("unknown format", "application/json", json!({})).words(),
        change("image", STRATEGIC, image),
        change("item without its key", STRATEGIC, json!({"spec": {"containers": [{"image": "x"}]}})).words(),
        change("nothing", MERGE, json!({})),
        change("old version", MERGE, json!({"metadata": {"resourceVersion": "1"}})),
        change("another name", MERGE, json!({"metadata": {"name": "other"}})),
        patch("missing pod", &format!("{PODS}/none"), MERGE, json!({})),
        put("another name by PUT", &format!("{PODS}/other"), pod("p")),
        put("missing map", &format!("{MAPS}/none"), json!({"metadata": {"name": "none"}})),
        put(
            "lease",
            &format!("{LEASES}/l"),
            json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}}),
        ),
        put("lease without version", &format!("{LEASES}/l"), json!({"metadata": {"name": "l"}, "spec": {}})),
        patch(
            "name label",
            &format!("{NAMESPACES}/t"),
            MERGE,
            json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "x"}}}),
        ),
    ]
}

fn pods_life() -> Vec<Ask> {
    let path = format!("{PODS}/p");
    let binding = |target: Value| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": target});
    let at_once = |label: &str, path: &str| {
        ask(label, "DELETE", path, Some(json!({"gracePeriodSeconds": 0}).to_string()))
    };
    let mut bound = pod("f");
    bound["metadata"]["finalizers"] = json!(["example.com/hold"]);
    bound["spec"]["nodeName"] = json!("n");
    let mut finished = pod("h");
    finished["spec"]["nodeName"] = json!("n");
    let precondition = json!({"preconditions": {"uid": "zz"}}).to_string();
    vec![
        post("bind to nothing", &format!("{path}/binding"), binding(json!({"name": ""}))),
        post("bind", &format!("{path}/binding"), binding(json!({"kind": "Node", "name": "n"}))),
        post("bind again", &format!("{path}/binding"), binding(json!({"kind": "Node", "name": "n"}))).words(),
        post("bind what is not there", &format!("{PODS}/none/binding"), binding(json!({"name": "n"}))),
        get("bound", &path),
        get("by node", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn"),
        ask("delete another", "DELETE", &path, Some(precondition)).words(),
        delete("delete, dry", &format!("{path}?dryRun=All")),
        delete("delete", &path),
        delete("delete again", &path),
        delete("delete sooner", &format!("{path}?gracePeriodSeconds=5")),
        get("terminating", &path),
        at_once("delete at once", &path),
        delete("delete what is gone", &path),
        post("held pod", PODS, bound),
        at_once("delete held pod", &format!("{PODS}/f")),
        patch(
            "release",
            &format!("{PODS}/f"),
            JSON_PATCH,
            json!([{"op": "remove", "path": "/metadata/finalizers"}]),
        ),
        get("released", &format!("{PODS}/f")),
        post("finished pod", PODS, finished),
        patch("finish", &format!("{PODS}/h/status"), MERGE, json!({"status": {"phase": "Succeeded"}})),
        delete("delete finished pod", &format!("{PODS}/h")),
        post("held map", MAPS, json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})),
        delete("delete held map", &format!("{MAPS}/held")),
        patch("release map", &format!("{MAPS}/held"), MERGE, json!({"metadata": {"finalizers": null}})),
        get("released map", &format!("{MAPS}/held")),
        delete("delete map", &format!("{MAPS}/plain")),
        delete("delete default namespace", &format!("{NAMESPACES}/default")),
    ]
}

fn other_kinds() -> Vec<Ask> {
    let node = json!({
        "metadata": {"name": "n1"},
        "status": {"capacity": {"cpu": 2, "pods": "20"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let set = json!({
        "metadata": {"name": "s"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "example:1"}]},
        }},
    });
    let slice = json!({
        "metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"]}], "ports": [{"port": 80}],
    });
    let event = json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "t"}, "reason": "R",
    });
    let events = format!("{NAMESPACES}/t/events");
    let egress = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}});
    let condition = json!({"status": {"conditions": [{"type": "X", "status": "True"}]}});
    vec![
        post("policy", POLICIES, egress),
        patch(
            "policy types",
            &format!("{POLICIES}/p"),
            STRATEGIC,
            json!({"spec": {"policyTypes": ["Egress"]}}),
        ),
        post(
            "service",
            &format!("{NAMESPACES}/t/services"),
            json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.100.0.9", "ports": [{"port": 80}]}}),
        ),
        post(
            "service with a bad name",
            &format!("{NAMESPACES}/t/services"),
            json!({"metadata": {"name": "9s"}, "spec": {"ports": [{"port": 80}]}}),
        ),
        post("slice", "/apis/discovery.k8s.io/v1/namespaces/t/endpointslices", slice),
        post("daemon set", "/apis/apps/v1/namespaces/t/daemonsets", set),
        post("node", "/api/v1/nodes", node),
        patch("condition", "/api/v1/nodes/n1/status", STRATEGIC, condition),
        delete("delete node", "/api/v1/nodes/n1"),
        post("event", &events, event),
        get("events", &format!("{events}?fieldSelector=involvedObject.name%3Dp,reason%3DR")),
    ]
}

fn definition() -> Ask {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "minimum": 1, "maximum": 5},
            "e": {"type": "string", "enum": ["x", "y"], "default": "x"},
        }},
        "status": {"type": "object", "properties": {"p": {"type": "string"}}},
    }}});
    let definition = json!({
        "metadata": {"name": "ws.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "ws", "kind": "W"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": schema},
        ]},
    });
    post("definition", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
}

fn custom_resources() -> Vec<Ask> {
    let path = "/apis/example.com/v1/namespaces/t/ws";
    let one = "/apis/example.com/v1/namespaces/t/ws/w";
    let object = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": spec});
    let dry = format!("{path}?dryRun=All");
    vec![
        post("missing field", path, object(json!({}))),
        post("wrong type", path, object(json!({"a": "x"}))),
        post("out of bounds", path, object(json!({"a": 9}))),
        post("no kind", path, json!({"metadata": {"name": "w"}, "spec": {"a": 1}})).words(),
        post("unknown field", &dry, object(json!({"a": 1, "zz": 1}))),
        post(
            "unknown field, strict",
            &format!("{dry}&fieldValidation=Strict"),
            object(json!({"a": 1, "zz": 1})),
        ),
        post("custom object", path, object(json!({"a": 1}))),
        get("custom object", one),
        get("custom objects", path),
        patch("status through the object", one, MERGE, json!({"status": {"p": "z"}})),
        patch(
            "status",
            "/apis/example.com/v1/namespaces/t/ws/w/status",
            MERGE,
            json!({"status": {"p": "z"}, "spec": {"a": 3}, "metadata": {"labels": {"q": "1"}}}),
        ),
        patch("spec", one, MERGE, json!({"spec": {"a": 2}})),
        patch("strategic", one, STRATEGIC, json!({"spec": {"a": 2}})).words(),
        put("without version", one, object(json!({"a": 2}))),
        get("by unknown field", &format!("{path}?fieldSelector=spec.a%3D1")),
        get("stream", &format!("{path}?{STREAM}")),
        delete("custom object", one),
    ]
}

fn watching() -> Vec<Ask> {
    let name = |n: u8| json!({"metadata": {"name": format!("m{n}")}});
    let relabel = |label: &str, value: &str| {
        patch(label, &format!("{MAPS}/m0"), MERGE, json!({"metadata": {"labels": {"x": value}}}))
    };
    let watch = |label: &str, query: &str| get(label, &format!("{MAPS}?watch=1&timeoutSeconds=1&{query}"));
    vec![
        post("map 0", MAPS, name(0)),
        post("map 1", MAPS, name(1)),
        post("map 2", MAPS, name(2)),
        post("map 3", MAPS, name(3)),
        get("stream", &format!("{MAPS}?{STREAM}")),
        get("stream of metadata", &format!("{MAPS}?{STREAM}")).accept(METADATA),
        get("stream of pods", &format!("{PODS}?{STREAM}")),
        watch("from any version", "resourceVersion=0"),
        get("limit", &format!("{MAPS}?limit=2")).keep("token", "/metadata/continue"),
        get("limit by label", &format!("{MAPS}?limit=2&labelSelector=!x")),
        get("limit of any version", &format!("{MAPS}?limit=2&resourceVersion=0")),
        delete("map 3", &format!("{MAPS}/m3")),
        get("the rest, as it was", &format!("{MAPS}?limit=2&continue={{token}}")),
        get("the rest of a version", &format!("{MAPS}?resourceVersion=5&continue={{token}}")),
        relabel("into the selection", "1").keep("version", "/metadata/resourceVersion"),
        relabel("out of the selection", "2"),
        relabel("into it again", "1"),
        delete("map 0", &format!("{MAPS}/m0")),
        watch("changes", "resourceVersion={version}"),
        watch("changes of the selection", "labelSelector=x%3D1&resourceVersion={version}"),
        get("as it was", &format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={{version}}")),
    ]
}

fn expiring() -> Vec<Step> {
    let watch = |query: &str| format!("{MAPS}?watch=1&timeoutSeconds=1&{query}");
    let old = watch("resourceVersion={version}");
    vec![
        Step::Expire,
        Step::Ask(get("watch while there is no history", &old)),
        Step::Until { path: watch("resourceVersion=0"), code: 200 },
        Step::Ask(get("watch of an old version", &old).words()),
        Step::Ask(get("metadata of an old version", &old).accept(METADATA).words()),
        Step::Ask(get("stream from an old version", &format!("{MAPS}?{STREAM}&resourceVersion={{version}}"))),
        Step::Ask(delete("namespace", &format!("{NAMESPACES}/t"))),
        Step::Until { path: format!("{NAMESPACES}/t"), code: 404 },
    ]
}
