//! Standard output, written once: by the verb, or by the watchdog when the verb
//! is stuck.
//!
//! Every step of a verb has its own deadline, but one: the kernel handles a
//! netlink request inside the system call that sends it, and waits there for
//! RTNL for as long as another holds it. So a second thread waits too, a little
//! longer than the verb should take.

use std::{
    io::Write,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use crate::{error::Error, version::Version};

/// What the watchdog gives beyond the deadline, for undoing.
const GRACE: Duration = Duration::from_secs(5);

/// The only way to standard output.
#[derive(Debug)]
pub(crate) struct Output {
    started: Instant,
    /// Held while printing; true when it is done.
    printed: Arc<Mutex<bool>>,
    watchdog: Option<Sender<Instant>>,
}

impl Output {
    /// Starts the watchdog.
    pub(crate) fn start(timeout: Duration) -> Self {
        let started = Instant::now();
        let printed = Arc::new(Mutex::new(false));
        let (sender, receiver) = mpsc::channel::<Instant>();
        let shared = Arc::clone(&printed);
        let watch = move || {
            let mut end = started + timeout + GRACE;
            loop {
                match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(later) => end = later + GRACE,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        print(&shared, &Error::Deadline.to_json(Version::default()));
                        std::process::exit(1);
                    }
                }
            }
        };
        // Without it the verb still has its own deadlines.
        let spawned = std::thread::Builder::new().name("watchdog".into()).stack_size(64 * 1024).spawn(watch);
        Self { started, printed, watchdog: spawned.is_ok().then_some(sender) }
    }

    /// Sets the time the verb has from the start of the program; returns when
    /// it is over.
    pub(crate) fn allow(&self, timeout: Duration) -> Instant {
        let deadline = self.started + timeout;
        if let Some(watchdog) = &self.watchdog {
            // It is gone only when it printed and ends the process.
            let _ = watchdog.send(deadline);
        }
        deadline
    }

    /// Prints the verb's document, if it has one.
    pub(crate) fn finish(self, document: Option<&str>, code: ExitCode) -> ExitCode {
        match document {
            Some(document) if !print(&self.printed, document) => ExitCode::FAILURE,
            _ => code,
        }
    }
}

/// Prints unless something was printed before; says whether it could.
fn print(printed: &Mutex<bool>, document: &str) -> bool {
    let Ok(mut printed) = printed.lock() else {
        return false;
    };
    if std::mem::replace(&mut *printed, true) {
        return false;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{document}").and_then(|()| stdout.flush()).is_ok()
}
