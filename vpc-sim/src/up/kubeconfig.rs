//! Kubeconfig files: for the simulated API, and a real one seen from a node.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use serde_json::json;

use super::UpError;
use super::listen::HostPort;

/// The text of a kubeconfig for the simulated API at `server`, which asks
/// nobody who he is.
pub(super) fn for_simulated(server: &str) -> String {
    // JSON is YAML.
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "vpc-sim", "cluster": {"server": server}}],
        "users": [{"name": "vpc-sim", "user": {}}],
        "contexts": [{"name": "vpc-sim", "context": {"cluster": "vpc-sim", "user": "vpc-sim"}}],
        "current-context": "vpc-sim",
    });
    format!("{value:#}\n")
}

/// A kubeconfig that was given, reduced to its current context, and complete:
/// it names no other file.
#[derive(Debug, Clone)]
pub(super) struct RealCluster {
    path: PathBuf,
    config: Kubeconfig,
    pub(super) server: HostPort,
}

impl RealCluster {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, UpError> {
        let wrong = |problem: String| UpError::Kubeconfig { path: path.to_path_buf(), problem };
        // Relative names in the file become absolute by this.
        let mut config = Kubeconfig::read_from(path).map_err(|error| wrong(error.to_string()))?;
        let current = config.current_context.clone().ok_or_else(|| wrong("no current-context".into()))?;
        config.contexts.retain(|context| context.name == current);
        let context = config
            .contexts
            .first()
            .and_then(|named| named.context.clone())
            .ok_or_else(|| wrong(format!("there is no context {current}")))?;
        config.clusters.retain(|cluster| cluster.name == context.cluster);
        config.auth_infos.retain(|user| Some(&user.name) == context.user.as_ref());
        for user in &mut config.auth_infos {
            if let Some(user) = &mut user.auth_info {
                embed_user(user).map_err(&wrong)?;
            }
        }
        let cluster = config
            .clusters
            .first_mut()
            .and_then(|named| named.cluster.as_mut())
            .ok_or_else(|| wrong(format!("there is no cluster {}", context.cluster)))?;
        embed_cluster(cluster).map_err(&wrong)?;
        if cluster.proxy_url.is_some() {
            return Err(wrong("a proxy-url is not supported".into()));
        }
        let server = host_port(cluster.server.as_deref().unwrap_or_default()).map_err(&wrong)?;
        Ok(Self { path: path.to_path_buf(), config, server })
    }

    /// The kubeconfig as it is, for this process.
    pub(super) fn config(&self) -> Kubeconfig {
        self.config.clone()
    }

    /// The kubeconfig of a node that reaches the API at `port` of its loopback.
    pub(super) fn for_node(&self, port: u16) -> Result<String, UpError> {
        let wrong = |problem: String| UpError::Kubeconfig { path: self.path.clone(), problem };
        let mut config = self.config.clone();
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            let uri: axum::http::Uri = cluster
                .server
                .as_deref()
                .unwrap_or_default()
                .parse()
                .map_err(|_| wrong("the server is no URL".into()))?;
            let scheme = uri.scheme_str().unwrap_or("https");
            let path = uri.path().trim_end_matches('/');
            cluster.server = Some(format!("{scheme}://127.0.0.1:{port}{path}"));
            // The certificate is made for the name it is known by, unless it is
            // known by the very address that the node uses.
            if scheme == "https" && self.server.host != "127.0.0.1" && cluster.tls_server_name.is_none() {
                cluster.tls_server_name = Some(self.server.host.clone());
            }
        }
        serde_yaml_ng::to_string(&config).map_err(|error| wrong(error.to_string()))
    }
}

fn embed_cluster(cluster: &mut Cluster) -> Result<(), String> {
    if let Some(file) = cluster.certificate_authority.take() {
        cluster.certificate_authority_data = Some(encoded(&file)?);
    }
    Ok(())
}

fn embed_user(user: &mut AuthInfo) -> Result<(), String> {
    if let Some(file) = user.client_certificate.take() {
        user.client_certificate_data = Some(encoded(&file)?);
    }
    if let Some(file) = user.client_key.take() {
        user.client_key_data = Some(encoded(&file)?.into());
    }
    if let Some(file) = user.token_file.take() {
        let token = String::from_utf8(read(&file)?).map_err(|_| format!("{file}: not a token"))?;
        user.token = Some(token.trim().to_owned().into());
    }
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err("users that run a command for their credentials are not supported".to_owned());
    }
    Ok(())
}

fn encoded(file: &str) -> Result<String, String> {
    read(file).map(|bytes| STANDARD.encode(bytes))
}

fn read(file: &str) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("read {file}: {error}"))
}

fn host_port(server: &str) -> Result<HostPort, String> {
    let wrong = || format!("the server {server:?} is no URL");
    let uri: axum::http::Uri = server.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
    let port = match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("http")) => 80,
        (None, _) => 443,
    };
    Ok(HostPort { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: b
clusters:
- {name: a, cluster: {server: 'https://a.example:6443'}}
- {name: b, cluster: {server: 'https://b.example/prefix', certificate-authority: ca.pem}}
users:
- {name: a, user: {}}
- {name: b, user: {tokenFile: token}}
contexts:
- {name: a, context: {cluster: a, user: a}}
- {name: b, context: {cluster: b, user: b}}
";

    #[test]
    fn a_node_gets_the_current_context_complete_and_at_its_loopback() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), "PEM")?;
        std::fs::write(dir.path().join("token"), "secret\n")?;
        let path = dir.path().join("config");
        std::fs::write(&path, FILE)?;
        let real = RealCluster::read(&path)?;
        assert_eq!(real.server, HostPort { host: "b.example".into(), port: 443 });
        let node: serde_json::Value = serde_yaml_ng::from_str(&real.for_node(4711)?)?;
        let cluster = &node["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://127.0.0.1:4711/prefix");
        assert_eq!(cluster["tls-server-name"], "b.example");
        assert_eq!(cluster["certificate-authority-data"], STANDARD.encode("PEM"));
        assert_eq!(node["users"][0]["user"]["token"], "secret");
        assert_eq!(node["clusters"].as_array().map(Vec::len), Some(1));
        Ok(())
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for (url, host, port) in [
            ("https://127.0.0.1:6443", "127.0.0.1", 6443),
            ("http://api", "api", 80),
            ("https://[::1]", "::1", 443),
        ] {
            assert_eq!(host_port(url), Ok(HostPort { host: host.into(), port }), "{url}");
        }
        assert!(host_port("").is_err());
    }
}
