//! Ctrl-C and SIGTERM end the demo in order instead of in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody asked us to stop.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    came: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes the signals over, from this thread and all that it starts from now
    /// on. Children would inherit that: [`Service`](crate::process::Service)
    /// undoes it for them.
    pub(crate) fn catch() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGHUP);
        signals.thread_block().context("blocking signals")?;
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                if signals.wait().is_ok() {
                    flag.store(true, Ordering::Relaxed);
                    // A second Ctrl-C is meant for us as it comes.
                    let _ = signals.wait();
                    std::process::exit(i32::from(super::INTERRUPTED));
                }
            })
            .context("starting the thread that waits for signals")?;
        Ok(Self { came })
    }

    pub(crate) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// An error once a signal came.
    pub(crate) fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }
}
