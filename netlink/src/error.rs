//! What can go wrong with a netlink request.

use std::io;

use nix::errno::Errno;
use thiserror::Error;

/// A failed netlink request.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel refused one message.
    #[error("kernel refused to {what}: {errno}{}", Reason(message.as_deref()))]
    Kernel {
        /// What the message was to do, as a verb phrase.
        what: &'static str,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own words (extended ACK), where it has some.
        message: Option<String>,
    },
    /// A socket call failed.
    #[error("netlink socket: cannot {call}")]
    Io {
        /// The call, as a verb phrase.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer did not come in time.
    #[error("no answer from the kernel to: {what}")]
    Deadline {
        /// What was asked, as a verb phrase.
        what: &'static str,
    },
    /// A dump was interrupted by changes each time it was tried.
    #[error("dump interrupted by changes {attempts} times: {what}")]
    Interrupted {
        /// What was dumped, as a verb phrase.
        what: &'static str,
        /// How often it was tried.
        attempts: u32,
    },
    /// The kernel's answer lacks what it must have.
    #[error("answer without {missing} to: {what}")]
    Malformed {
        /// What was asked, as a verb phrase.
        what: &'static str,
        /// What was looked for.
        missing: &'static str,
    },
    /// The thread that enters another network namespace could not be started,
    /// or died.
    #[error("cannot enter the network namespace")]
    Namespace(#[source] io::Error),
}

/// ": text", or nothing.
struct Reason<'a>(Option<&'a str>);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

impl Error {
    /// An I/O error of `call`.
    pub(crate) fn io(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { call, source }
    }

    /// The kernel's error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// The object that was asked for, changed or deleted does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL | Errno::ENXIO)
        )
    }

    /// The object that was to be created exists.
    pub fn is_existing(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}
