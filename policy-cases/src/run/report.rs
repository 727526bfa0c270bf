//! Who judges, and what came of it.

use std::fmt;
use std::time::Duration;

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// The programs' code on the host; the tables and the specification's direct reading must say the same.
    Host,
    /// The programs in the kernel, by test runs.
    Kernel,
    /// Packets between namespaces, by the pods' addresses.
    Packets,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Probes that were asked.
    pub probes: usize,
    /// Those that differ from the table.
    pub differ: usize,
    /// Probes of a pod to itself that no packet can ask.
    pub of_itself: usize,
    /// Without the time for loading programs and making links.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.of_itself > 0 {
            writeln!(
                f,
                "{} probes of a pod to itself are not asked: they never leave the pod",
                self.of_itself
            )?;
        }
        writeln!(f, "{:.1} s", self.took.as_secs_f64())?;
        writeln!(f, "{} probes, {} differ", self.probes, self.differ)
    }
}
