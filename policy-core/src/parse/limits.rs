//! How large a policy may be. Whoever may write policies in one namespace could else fill
//! the maps of every node that runs a pod of it, and stop it for all others.

/// The rules of a policy.
pub(super) const MAX_RULES: usize = 1024;
/// The peers of a policy, each `except` of an ipBlock being one more.
pub(super) const MAX_PEERS: usize = 4096;
/// The entries of `ports` of all its rules.
pub(super) const MAX_PORTS: usize = 1024;

/// How large a policy is, or a part of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) rules: usize,
    pub(super) peers: usize,
    pub(super) ports: usize,
}

impl Size {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            rules: self.rules + other.rules,
            peers: self.peers + other.peers,
            ports: self.ports + other.ports,
        }
    }

    /// What is too much, in words.
    pub(super) fn excess(self) -> Option<String> {
        let all = [
            (self.rules, MAX_RULES, "rules"),
            (self.peers, MAX_PEERS, "peers and excepts"),
            (self.ports, MAX_PORTS, "ports"),
        ];
        let (count, most, what) = all.into_iter().find(|(count, most, _)| count > most)?;
        Some(format!("{count} {what} are more than the {most} that one policy may have; split it"))
    }
}
