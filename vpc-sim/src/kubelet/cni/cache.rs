//! Results kept between ADD and DEL, in the file format of libcni.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::CniError;

/// Where a node's runtime keeps results.
const RESULTS_DIR: &str = "/var/lib/cni/results";

/// What names an entry of the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) network: &'a str,
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
}

/// What is kept beside the result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) config: &'a [u8],
    pub(super) netns: &'a str,
    pub(super) args: &'a [(&'static str, String)],
    pub(super) capability_args: &'a Map<String, Value>,
}

impl Key<'_> {
    fn path(&self) -> PathBuf {
        let name = format!("{}-{}-{}", self.network, self.container_id, self.ifname);
        Path::new(RESULTS_DIR).join(name)
    }
}

/// Keeps a result.
pub(super) fn store(key: Key<'_>, context: Context<'_>, result: &Value) -> Result<(), CniError> {
    let entry = json!({
        "kind": "cniCacheV1",
        "containerId": key.container_id,
        "config": STANDARD.encode(context.config),
        "ifName": key.ifname,
        "networkName": key.network,
        "netns": context.netns,
        "cniArgs": context.args.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
        "capabilityArgs": context.capability_args,
        "result": result,
    });
    let path = key.path();
    let failed = |source| CniError::File { what: "write", path: path.clone(), source };
    fs::create_dir_all(RESULTS_DIR).map_err(failed)?;
    fs::write(&path, entry.to_string()).map_err(failed)
}

/// The result of the ADD, if it is there and can be read.
pub(super) fn load(key: Key<'_>) -> Option<Value> {
    let text = fs::read(key.path()).ok()?;
    let mut entry: Value = serde_json::from_slice(&text).ok()?;
    Some(entry.get_mut("result")?.take())
}

/// Forgets a result. One that is not there is forgotten already.
pub(super) fn remove(key: Key<'_>) -> Result<(), CniError> {
    let path = key.path();
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CniError::File { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}
