//! Clients that we did not write, unchanged, against the simulated Kubernetes
//! API: kubectl and the Python library.
//!
//! kubectl is the one in `PATH`; `TIDEPOOL_KUBECTL` may name others, joined by
//! colons, which then are tried too.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kernel_test::{Need, trial};
use serde_json::{Value, json};
use tempfile::TempDir;
use vpc_sim::kube_api::{Store, router};

fn main() {
    let mut trials = Vec::new();
    for (number, kubectl) in kubectls().into_iter().enumerate() {
        let needs: &'static [Need] = if number == 0 { &[Need::Tool("kubectl")] } else { &[] };
        let mut add = |name: &str, body: fn(&Kubectl) -> Result<()>| {
            let path = kubectl.clone();
            trials.push(trial(format!("kubectl_{number}_{name}"), needs, move || body(&Kubectl::new(path)?)));
        };
        add("creates_applies_and_deletes", creates_applies_and_deletes);
        add("prints_and_describes", prints_and_describes);
        add("is_refused_clearly", is_refused_clearly);
        add("knows_custom_resources", knows_custom_resources);
    }
    trials.push(trial("python_client", &[Need::Python("kubernetes")], python_client));
    kernel_test::run(trials);
}

fn kubectls() -> Vec<PathBuf> {
    let others = std::env::var_os("TIDEPOOL_KUBECTL").unwrap_or_default();
    let others =
        std::env::split_paths(&others).filter(|path| !path.as_os_str().is_empty()).collect::<Vec<_>>();
    std::iter::once(PathBuf::from("kubectl")).chain(others).collect()
}

/// A served store of its own, for clients in other processes.
struct Simulated {
    store: Arc<Store>,
    url: String,
    /// Serves until it is dropped.
    runtime: tokio::runtime::Runtime,
}

impl Simulated {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let store = Arc::new(Store::new());
        let app = router(Arc::clone(&store));
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))))?;
        let url = format!("http://{}", listener.local_addr()?);
        runtime.spawn(async move { axum::serve(listener, app).await });
        Ok(Self { store, url, runtime })
    }
}

/// kubectl with a home and a cluster of its own.
struct Kubectl {
    program: PathBuf,
    home: TempDir,
    _api: Simulated,
}

impl Kubectl {
    fn new(program: PathBuf) -> Result<Self> {
        let (api, home) = (Simulated::start()?, tempfile::tempdir()?);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "sim",
            "clusters": [{"name": "sim", "cluster": {"server": api.url}}],
            "contexts": [{"name": "sim", "context": {"cluster": "sim", "user": "sim"}}],
            "users": [{"name": "sim", "user": {}}],
        });
        std::fs::write(home.path().join("config"), config.to_string())?;
        Ok(Self { program, home, _api: api })
    }

    fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.home.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Runs it; whether it succeeded, and both outputs.
    fn try_run(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", self.home.path().join("config"))
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let (success, text) = self.try_run(arguments)?;
        ensure!(success, "kubectl {}: {text}", arguments.join(" "));
        Ok(text)
    }

    /// Runs it and checks that its output has all of `expected`.
    fn says(&self, arguments: &[&str], expected: &[&str]) -> Result<()> {
        let text = self.run(arguments)?;
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in expected {
            ensure!(squeezed.contains(wanted), "kubectl {}: no {wanted:?} in:\n{text}", arguments.join(" "));
        }
        Ok(())
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - name: c
    image: example:1
    ports: [{containerPort: 8080}]
    resources: {requests: {cpu: 100m, memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.100.0.50
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: 8080, protocol: TCP}]
";

fn creates_applies_and_deletes(kubectl: &Kubectl) -> Result<()> {
    let shop = kubectl.file("shop.yaml", SHOP)?;
    kubectl.says(
        &["apply", "-f", &shop],
        &[
            "namespace/shop created",
            "pod/web created",
            "service/web created",
            "networkpolicy.networking.k8s.io/web created",
        ],
    )?;
    kubectl.says(
        &["apply", "-f", &shop],
        &[
            "namespace/shop unchanged",
            "pod/web unchanged",
            "service/web unchanged",
            "networkpolicy.networking.k8s.io/web unchanged",
        ],
    )?;
    // A changed image, a port more, another peer.
    let changed = SHOP
        .replace("example:1", "example:2")
        .replace("targetPort: 8080}", "targetPort: 8080}, {name: https, port: 443}")
        .replace("app: db", "app: cache");
    let changed = kubectl.file("changed.yaml", &changed)?;
    kubectl.says(
        &["apply", "-f", &changed],
        &["pod/web configured", "service/web configured", "networkpolicy.networking.k8s.io/web configured"],
    )?;
    let pod = kubectl.json(&["get", "pod", "-n", "shop", "web"])?;
    ensure!(
        pod["spec"]["containers"][0]["image"] == "example:2" && pod["metadata"]["generation"] == 2,
        "{pod}"
    );
    let service = kubectl.json(&["get", "service", "-n", "shop", "web"])?;
    ensure!(service["spec"]["ports"].as_array().map(Vec::len) == Some(2), "{service}");
    // What apply added, apply takes away.
    kubectl.says(&["apply", "-f", &shop], &["service/web configured"])?;
    let service = kubectl.json(&["get", "service", "-n", "shop", "web"])?;
    ensure!(service["spec"]["ports"].as_array().map(Vec::len) == Some(1), "{service}");

    kubectl.says(&["create", "configmap", "-n", "shop", "settings", "--from-literal=a=b"], &["created"])?;
    kubectl.says(&["create", "namespace", "other"], &["namespace/other created"])?;
    kubectl.says(&["create", "serviceaccount", "-n", "other", "agent"], &["created"])?;
    kubectl
        .says(&["create", "secret", "generic", "-n", "other", "key", "--from-literal=k=v"], &["created"])?;
    kubectl.says(&["create", "clusterrole", "reader", "--verb=get,list", "--resource=pods"], &["created"])?;
    kubectl.says(
        &["create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=other:agent"],
        &["created"],
    )?;
    kubectl.says(&["create", "service", "clusterip", "-n", "other", "a", "--tcp=80"], &["created"])?;
    let service = kubectl.json(&["get", "service", "-n", "other", "a"])?;
    ensure!(service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.100.")), "{service}");
    kubectl.says(&["run", "-n", "other", "bare", "--image=example:1"], &["pod/bare created"])?;

    kubectl.says(&["label", "pod", "-n", "shop", "web", "tier=front"], &["labeled"])?;
    kubectl.says(&["annotate", "pod", "-n", "shop", "web", "note=text"], &["annotated"])?;
    let pods = kubectl.json(&["get", "pods", "-A", "-l", "tier in (front,back),app=web"])?;
    ensure!(pods["items"][0]["metadata"]["annotations"]["note"] == "text", "{pods}");
    kubectl.run(&["label", "pod", "-n", "shop", "web", "tier-"])?;
    kubectl.says(&["get", "pods", "-A", "-l", "tier"], &["No resources found"])?;
    kubectl.says(&["replace", "-f", &changed], &["networkpolicy.networking.k8s.io/web replaced"])?;
    kubectl.says(&["apply", "--dry-run=server", "-f", &shop], &["(server dry run)"])?;
    let pod = kubectl.json(&["get", "pod", "-n", "shop", "web"])?;
    ensure!(pod["spec"]["containers"][0]["image"] == "example:2", "a dry run changes nothing: {pod}");

    kubectl.says(&["delete", "pod", "-n", "shop", "web"], &["deleted"])?;
    kubectl.says(&["delete", "-f", &shop, "--ignore-not-found"], &["namespace \"shop\" deleted"])?;
    kubectl.says(&["get", "networkpolicies,services,configmaps", "-n", "shop"], &["No resources found"])?;
    kubectl.run(&["delete", "namespace", "other"])?;
    kubectl.run(&["delete", "clusterrole", "reader"]).map(drop)
}

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: us-west-2a}}
spec: {providerID: aws:///us-west-2a/i-0123456789abcdef0}
status:
  capacity: {cpu: 2, memory: 8Gi, pods: 29}
  addresses: [{type: InternalIP, address: 10.20.0.10}]
  conditions: [{type: Ready, status: \"True\", reason: KubeletReady}]
  nodeInfo:
    {architecture: amd64, bootID: b, containerRuntimeVersion: containerd://2, kernelVersion: 6.1.0, kubeProxyVersion: '',
     kubeletVersion: v1.33.0, machineID: m, operatingSystem: linux, osImage: Sim, systemUUID: u}
";

fn prints_and_describes(kubectl: &Kubectl) -> Result<()> {
    let shop = kubectl.file("shop.yaml", SHOP)?;
    let node = kubectl.file("node.yaml", NODE)?;
    kubectl.run(&["create", "-f", &shop])?;
    kubectl.run(&["create", "-f", &node])?;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web", "namespace": "shop"},
        "target": {"kind": "Node", "name": "node-1"},
    });
    let binding = kubectl.file("binding.json", &binding.to_string())?;
    kubectl.run(&["create", "--raw", "/api/v1/namespaces/shop/pods/web/binding", "-f", &binding])?;
    let status = "[{\"op\": \"add\", \"path\": \"/status/podIP\", \"value\": \"10.20.0.11\"}]";
    // Through the main resource it is ignored.
    kubectl.run(&["patch", "pod", "-n", "shop", "web", "--type=json", "-p", status])?;
    kubectl.says(
        &["get", "pods", "-A", "-o", "wide"],
        &["NAMESPACE NAME READY STATUS RESTARTS AGE IP NODE", "shop web 0/1 Pending 0", "<none> node-1"],
    )?;
    kubectl.says(
        &["get", "nodes", "-o", "wide"],
        &[
            "NAME STATUS ROLES AGE VERSION INTERNAL-IP",
            "node-1 Ready <none>",
            "v1.33.0 10.20.0.10 <none> Sim 6.1.0",
        ],
    )?;
    kubectl.says(
        &["get", "services,networkpolicies", "-n", "shop", "-o", "wide"],
        &[
            "service/web ClusterIP 10.100.0.50 <none> 80/TCP",
            "app=web",
            "networkpolicy.networking.k8s.io/web app=web",
        ],
    )?;
    kubectl.says(&["get", "namespaces"], &["NAME STATUS AGE", "kube-system Active", "shop Active"])?;
    kubectl.says(&["get", "pod", "-n", "shop", "web", "-o", "name"], &["pod/web"])?;
    kubectl.says(
        &["get", "pods", "-n", "shop", "--field-selector", "spec.nodeName=node-1", "-o", "name"],
        &["pod/web"],
    )?;
    kubectl.says(
        &["get", "pods", "-n", "shop", "--field-selector", "spec.nodeName=other"],
        &["No resources found"],
    )?;
    kubectl.says(&["get", "pods", "-n", "shop", "--show-labels"], &["app=web"])?;

    let uid = kubectl.json(&["get", "pod", "-n", "shop", "web"])?["metadata"]["uid"].clone();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "shop"}, "type": "Warning",
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "shop", "uid": uid},
        "reason": "NoAddress", "message": "the pool is empty", "source": {"component": "tidepool"},
    });
    let event = kubectl.file("event.json", &event.to_string())?;
    kubectl.run(&["create", "-f", &event])?;
    kubectl.says(&["get", "events", "-n", "shop"], &["Warning NoAddress pod/web the pool is empty"])?;
    kubectl.says(
        &["describe", "pod", "-n", "shop", "web"],
        &["Name: web", "Node: node-1", "Image: example:1", "cpu: 100m", "NoAddress"],
    )?;
    kubectl.says(
        &["describe", "node", "node-1"],
        &["Name: node-1", "InternalIP: 10.20.0.10", "pods: 29", "shop web 100m"],
    )?;
    kubectl.says(&["describe", "service", "-n", "shop", "web"], &["IP: 10.100.0.50", "Port: http 80/TCP"])?;
    kubectl.says(
        &["describe", "networkpolicy", "-n", "shop", "web"],
        &["PodSelector: app=web", "To Port: 8080/TCP", "PodSelector: app=db", "Policy Types: Ingress"],
    )?;
    kubectl.says(&["cordon", "node-1"], &["node/node-1 cordoned"])?;
    kubectl.says(&["get", "nodes"], &["Ready,SchedulingDisabled"])?;
    kubectl.says(&["version"], &["v1.33"])?;
    kubectl.says(&["api-resources"], &["networkpolicies", "NetworkPolicy", "daemonsets"])?;
    // Bound, so it waits for its kubelet.
    kubectl.run(&["delete", "pod", "-n", "shop", "web", "--wait=false"])?;
    kubectl.says(&["get", "pods", "-n", "shop"], &["web 0/1 Terminating"])?;
    kubectl.run(&["delete", "pod", "-n", "shop", "web", "--grace-period=0", "--force"])?;
    kubectl.says(&["get", "pods", "-n", "shop"], &["No resources found"])
}

fn is_refused_clearly(kubectl: &Kubectl) -> Result<()> {
    let refused = |arguments: &[&str], expected: &str| -> Result<()> {
        let (success, text) = kubectl.try_run(arguments)?;
        ensure!(
            !success && text.contains(expected),
            "kubectl {}: no {expected:?} in: {text}",
            arguments.join(" ")
        );
        Ok(())
    };
    let shop = kubectl.file("shop.yaml", SHOP)?;
    refused(&["get", "pod", "none"], "pods \"none\" not found")?;
    refused(&["apply", "--server-side", "-f", &shop], "server-side apply is not supported")?;
    refused(&["get", "pods", "--field-selector", "spec.color=red"], "field label not supported: spec.color")?;
    let faults = [
        ("image: example:1", "image: ''", "spec.containers[0].image"),
        ("containerPort: 8080", "containerPort: 80800", "spec.containers[0].ports[0].containerPort"),
        ("port: 8080, protocol: TCP", "port: 8080, protocol: TPC", "spec.ingress[0].ports[0].protocol"),
        ("port: 80,", "port: eighty,", "spec.ports[0].port"),
        ("kind: NetworkPolicy", "kind: NetworkPolice", "NetworkPolice"),
    ];
    for (right, wrong, named) in faults {
        let file = kubectl.file("wrong.yaml", &SHOP.replace(right, wrong))?;
        refused(&["apply", "-f", &file], named)?;
    }
    // A field that doesn't exist: refused, or a warning where the client is too
    // old to ask for that.
    let file = kubectl.file("typo.yaml", &SHOP.replace("policyTypes:", "policyTypez:"))?;
    let (_, text) = kubectl.try_run(&["apply", "-f", &file])?;
    ensure!(text.contains("unknown field \"spec.policyTypez\""), "{text}");
    Ok(())
}

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties: {size: {type: integer, minimum: 1}, color: {type: string, default: red}}
";

const WIDGET: &str = "
apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: 3}
";

fn knows_custom_resources(kubectl: &Kubectl) -> Result<()> {
    let definition = kubectl.file("widgets.yaml", WIDGETS)?;
    kubectl.says(
        &["apply", "-f", &definition],
        &["customresourcedefinition.apiextensions.k8s.io/widgets.example.com created"],
    )?;
    kubectl.says(&["apply", "-f", &definition], &["unchanged"])?;
    kubectl.says(&["wait", "--for=condition=Established", "crd/widgets.example.com"], &["condition met"])?;
    let widget = kubectl.file("widget.yaml", WIDGET)?;
    kubectl.says(&["apply", "-f", &widget], &["widget.example.com/w created"])?;
    kubectl.says(&["apply", "-f", &widget], &["widget.example.com/w unchanged"])?;
    let larger = kubectl.file("larger.yaml", &WIDGET.replace("size: 3", "size: 4"))?;
    kubectl.says(&["apply", "-f", &larger], &["widget.example.com/w configured"])?;
    kubectl.says(&["get", "wd"], &["NAME SIZE AGE", "w 4"])?;
    ensure!(kubectl.json(&["get", "widget", "w"])?["spec"]["color"] == "red");
    let wrong = kubectl.file("wrong.yaml", &WIDGET.replace("size: 3", "size: 0"))?;
    let (success, text) = kubectl.try_run(&["apply", "-f", &wrong])?;
    ensure!(!success && text.contains("spec.size"), "{text}");
    kubectl.says(&["delete", "-f", &definition], &["deleted"])?;
    let (success, text) = kubectl.try_run(&["get", "widgets"])?;
    // The first where it asks what is served, the second where it remembers.
    let texts = ["the server doesn't have a resource type", "could not find the requested resource"];
    ensure!(!success && texts.iter().any(|expected| text.contains(expected)), "{text}");
    Ok(())
}

/// The Python script, with the faults that it waits for injected when it asks.
fn python_client() -> Result<()> {
    let api = Simulated::start()?;
    let python = std::env::var_os("TIDEPOOL_PYTHON").context("TIDEPOOL_PYTHON")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube_clients/client.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(&api.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut answers = child.stdin.take().context("a pipe")?;
    let requests = std::io::BufReader::new(child.stdout.take().context("a pipe")?);
    let mut done = false;
    for line in std::io::BufRead::lines(requests) {
        match line?.as_str() {
            "expire" => api.store.expire_history_for(Duration::ZERO),
            "done" => done = true,
            other => bail!("the script says {other:?}"),
        }
        std::io::Write::write_all(&mut answers, b"ok\n")?;
    }
    let status = child.wait()?;
    drop(api.runtime);
    ensure!(status.success() && done, "the script ended with {status}");
    Ok(())
}
