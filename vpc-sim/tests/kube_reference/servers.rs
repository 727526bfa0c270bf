//! The two servers, and asking them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use vpc_sim::kube_api::{Store, router};

use super::answer::Answer;
use super::script::Ask;

/// A server to ask, and what earlier answers said.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    client: Client,
    /// By the name that the step gave them: versions and continue tokens.
    kept: HashMap<&'static str, String>,
}

impl Server {
    fn new(name: &'static str, mut config: Config) -> Result<Self> {
        // Refusals are what we came for.
        config.default_retry = false;
        Ok(Self { name, client: Client::try_from(config)?, kept: HashMap::new() })
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        let mut path = ask.path.clone();
        for (name, value) in &self.kept {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        let body = ask.body.clone().unwrap_or_default();
        let mut request = Request::builder().method(ask.method).uri(&path).header("accept", ask.accept);
        if ask.body.is_some() {
            request = request.header("content-type", ask.content_type);
        }
        let response = self
            .client
            .send(request.body(Body::from(body.into_bytes()))?)
            .await
            .with_context(|| format!("{}: {} {path}", self.name, ask.method))?;
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (content_type, retry_after) = (header("content-type"), header("retry-after"));
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer::new(code, content_type, retry_after, text);
        if let Some((name, pointer)) = ask.keep {
            let found = answer.lines.first().and_then(|line| line.pointer(pointer));
            let found = found.and_then(Value::as_str).with_context(|| {
                format!("{}: {}: no {pointer} in {:?}", self.name, ask.label, answer.lines)
            })?;
            self.kept.insert(name, found.to_owned());
        }
        Ok(answer)
    }
}

/// The simulated API, served for as long as the process runs.
pub(crate) async fn simulated() -> Result<(Arc<Store>, Server)> {
    let store = Arc::new(Store::new());
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = router(Arc::clone(&store));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((store, Server::new("simulated", Config::new(url.parse()?))?))
}

/// The real library, as a child that goes with us.
pub(crate) struct Real {
    child: Child,
    admin: SocketAddr,
    directory: tempfile::TempDir,
}

impl Real {
    pub(crate) async fn start() -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let source = PathBuf::from(std::env::var("TIDEPOOL_APISERVER")?);
        // Beside the binaries, where other tests look for it too.
        let built = match std::env::var_os("TIDEPOOL_BIN_DIR") {
            Some(binaries) => PathBuf::from(binaries).join("../tools/apiserver"),
            None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("apiserver"),
        };
        std::fs::create_dir_all(&built)?;
        let status = Command::new("sh").arg(source.join("build.sh")).arg(&built).status()?;
        ensure!(status.success(), "build.sh ended with {status}");
        let directory = tempfile::tempdir()?;
        let admin = free_address()?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(built.join("apisrv"))
            .args(["--listen", &free_address()?.to_string(), "--admin", &admin.to_string()])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg("--kubeconfig-out")
            .arg(directory.path().join("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting the real API server")?;
        Ok(Self { child, admin, directory })
    }

    /// Waits until it answers.
    pub(crate) async fn server(&self) -> Result<Server> {
        let file = self.directory.path().join("kubeconfig");
        kernel_test::wait_for("the real API server writes its kubeconfig", super::BOUND, || {
            Kubeconfig::read_from(&file).ok().map(drop)
        })?;
        let kubeconfig = Kubeconfig::read_from(&file)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let mut server = Server::new("real", config)?;
        let deadline = tokio::time::Instant::now() + super::BOUND;
        while server.client.apiserver_version().await.is_err() {
            ensure!(tokio::time::Instant::now() < deadline, "the real API server is not ready");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        super::wait_for_code(&mut server, "/readyz", 200).await?;
        super::wait_for_code(&mut server, "/api/v1/namespaces/default", 200).await?;
        Ok(server)
    }

    /// Makes its watch caches lose their history.
    pub(crate) async fn expire(&self) -> Result<()> {
        let client = Client::try_from(Config::new(format!("http://{}", self.admin).parse()?))?;
        let request = Request::post("/expire").body(Body::empty())?;
        let code = client.send(request).await?.status();
        ensure!(code.is_success(), "/expire answers {code}");
        Ok(())
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on at this moment.
fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
