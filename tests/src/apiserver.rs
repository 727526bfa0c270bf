//! The real API server of the tests, as a child. `TIDEPOOL_APISERVER` names the folder of its sources.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use kernel_test::wait_for;

use crate::demo::{BOUND, bin_dir};

/// A server that runs; dropping it ends it.
#[derive(Debug)]
pub struct ApiServer {
    child: Child,
    /// The URL of its faults.
    pub admin: String,
    /// Where its kubeconfig is.
    pub kubeconfig: PathBuf,
}

impl ApiServer {
    /// Builds it if that was not done yet, and starts it. It writes `kubeconfig`, and ends with the calling thread.
    pub fn start(kubeconfig: PathBuf) -> Result<Self> {
        let source = PathBuf::from(std::env::var("TIDEPOOL_APISERVER")?);
        // Beside the binaries, so that the next run finds it built.
        let built = bin_dir()?.join("../tools/apiserver");
        fs::create_dir_all(&built)?;
        let output = Command::new("sh")
            .arg(source.join("build.sh"))
            .arg(&built)
            .stdin(Stdio::null())
            .output()
            .context("building the API server")?;
        ensure!(output.status.success(), "build.sh: {}", String::from_utf8_lossy(&output.stderr));
        let (api, admin) = (free_port()?, free_port()?);
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(built.join("apisrv"))
            .args(["--listen", &format!("127.0.0.1:{api}"), "--admin", &format!("127.0.0.1:{admin}")])
            .args(["--print-ready", "--kubeconfig-out"])
            .arg(&kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the API server")?;
        let pipe = child.stdout.take();
        let ready = wait_for("the API server is ready", BOUND, || {
            let listens = std::net::TcpStream::connect(("127.0.0.1", admin)).is_ok();
            (listens && kubeconfig.exists()).then_some(())
        });
        // Read to the end on a thread, so that a full pipe never stops it.
        std::thread::spawn(move || {
            let mut sink = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut sink);
            }
        });
        let server = Self { child, admin: format!("http://127.0.0.1:{admin}"), kubeconfig };
        ready?;
        Ok(server)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at this moment.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
