//! Settings of the kernel for the namespace that the calling thread is in.

use std::io;
use std::path::{Path, PathBuf};

/// A setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("write {value} to {}", path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    #[source]
    source: io::Error,
}

/// Writes settings below /proc/sys/net, given as path and value. /proc/sys/net
/// shows the network namespace of the thread that opens it.
pub(crate) fn set_all(settings: &[(&str, &str)]) -> Result<(), SysctlError> {
    settings.iter().try_for_each(|(key, value)| {
        let path = Path::new("/proc/sys/net").join(key);
        std::fs::write(&path, value).map_err(|source| SysctlError {
            path,
            value: (*value).to_owned(),
            source,
        })
    })
}
