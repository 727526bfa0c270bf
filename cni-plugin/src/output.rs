//! The time that a run has, and standard output.
//!
//! Every step of a verb has its own deadline, but one: the kernel handles a netlink request inside the system call that
//! sends it, and waits there for RTNL for as long as another holds it. Nothing ends that wait, so the alarm sees to it
//! that such a run does no more when it is over: the runtime has given it up, and its DEL may be under way.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::alarm,
};

use crate::error::Error;

/// What the alarm gives beyond the deadline, for undoing.
const GRACE: Duration = Duration::from_secs(5);

/// How long this run may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// The run begins; `timeout` holds until [`Self::allow`].
    pub(crate) fn start(timeout: Duration) -> Self {
        let clock = Self { started: Instant::now() };
        clock.allow(timeout);
        clock
    }

    /// Sets the time the verb has from the start of the program; returns when it is over.
    pub(crate) fn allow(&self, timeout: Duration) -> Instant {
        let deadline = self.started + timeout;
        let left = deadline.saturating_duration_since(Instant::now()) + GRACE;
        // Whole seconds, and never 0, which would mean "no alarm".
        alarm::set(u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
        deadline
    }
}

/// All that the runtime writes to us, unless it takes longer than `deadline`.
pub(crate) fn read_input(deadline: Instant) -> Result<String, Error> {
    let mut stdin = io::stdin().lock();
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        wait_readable(&stdin, deadline)?;
        match stdin.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Stdin(error)),
        }
    }
    String::from_utf8(bytes).map_err(|error| Error::Stdin(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn wait_readable(stdin: &impl AsFd, deadline: Instant) -> Result<(), Error> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(Error::Deadline),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::Stdin(errno.into())),
    }
}

/// Prints the verb's document; says whether it could.
pub(crate) fn print(document: &str) -> bool {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{document}").and_then(|()| stdout.flush()).is_ok()
}
