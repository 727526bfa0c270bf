//! Memory that was needed for a moment goes back to the node.
//!
//! glibc keeps most of what is freed for the next allocation. What the start among 150,000 pods takes for a moment (lists of
//! the API, what a former agent left in the maps) would stay resident for the life of the process, a quarter of it.

use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(5);
/// Bytes by which the process must have grown before it is worth a walk through its heap, which takes milliseconds.
const WORTH: u64 = 16 << 20;

/// Watches the process grow, and gives back what it does not use.
pub(super) async fn give_back() -> &'static str {
    let mut least = Least::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        if least.has_grown(resident()) {
            let _ = tokio::task::spawn_blocking(trim).await;
            least.was_trimmed(resident());
        }
    }
}

/// The least that was resident since something was given back, in bytes.
#[derive(Debug, Default)]
struct Least(u64);

impl Least {
    fn has_grown(&mut self, resident: u64) -> bool {
        self.0 = self.0.min(resident);
        resident - self.0 >= WORTH
    }

    fn was_trimmed(&mut self, resident: u64) {
        self.0 = resident;
    }
}

/// Bytes of the process in memory; 0 where nobody can say.
fn resident() -> u64 {
    let read = || {
        // The second field of proc_pid_statm(5), in pages.
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        Some(pages * u64::try_from(page).ok()?)
    };
    read().unwrap_or_default()
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no library has malloc_trim(3)")]
fn trim() {
    // SAFETY: it takes no pointer, and may be called by any thread at any time (MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_worth_it() {
        let mut least = Least::default();
        assert!(least.has_grown(100 << 20), "the start");
        least.was_trimmed(80 << 20);
        assert!(!least.has_grown(95 << 20));
        assert!(least.has_grown(96 << 20));
        // It was all needed.
        least.was_trimmed(96 << 20);
        assert!(!least.has_grown(111 << 20));
        assert!(!least.has_grown(60 << 20), "it shrank by itself");
        assert!(least.has_grown(76 << 20));
    }
}
