//! What the checkpoint is to hold, made anew at every change of the pool.
//!
//! A node has hundreds of leases and one of them changes at a time: the text of
//! the others is kept from the last time.

use std::collections::BTreeMap;

use ipam_core::{Lease, PoolState, SandboxKey, SavedLease};
use serde_json::value::{RawValue, to_raw_value};

use super::adopt::Left;
use super::checkpoint::{Checkpoint, CheckpointError, Content};

/// Texts of leases.
#[derive(Debug, Default)]
pub(super) struct Draft {
    leases: BTreeMap<SandboxKey, (Lease, Box<RawValue>)>,
}

impl Draft {
    /// The whole file.
    pub(super) fn text(
        &mut self,
        checkpoint: &Checkpoint,
        state: &PoolState,
        left: &Left,
    ) -> Result<Vec<u8>, CheckpointError> {
        self.follow(state).map_err(|error| checkpoint.unwritten(error.into()))?;
        let leases: Vec<&RawValue> = self.leases.values().map(|(_, text)| &**text).collect();
        checkpoint.text(&left.content(state.save_beside_leases()), &leases)
    }

    fn follow(&mut self, state: &PoolState) -> Result<(), serde_json::Error> {
        let mut count = 0;
        for lease in state.leases() {
            count += 1;
            if self.leases.get(&lease.key).is_none_or(|(known, _)| known != lease) {
                let text = to_raw_value(&SavedLease::from(lease))?;
                self.leases.insert(lease.key.clone(), (lease.clone(), text));
            }
        }
        if self.leases.len() > count {
            self.leases.retain(|key, _| state.lease_of(key).is_some());
        }
        Ok(())
    }
}

/// The text of a pool that knows nothing: an agent that begins has no reason to
/// write that down.
pub(super) fn blank(checkpoint: &Checkpoint) -> Vec<u8> {
    // What cannot be serialised is told when it is to be written.
    checkpoint.text(&Content::default(), &[]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipam_core::{EniId, Identity, InstanceId, InstanceTable, Now, Saved, SubnetId, Targets};

    use super::super::checkpoint::Found;
    use super::*;

    fn lease(number: u8) -> SavedLease {
        SavedLease {
            key: SandboxKey {
                network: "aws-cni".into(),
                container_id: format!("c{number}"),
                ifname: "eth0".into(),
            },
            pod: None,
            address: IpAddr::from([10, 0, 0, number]),
            eni: EniId::new("eni-1"),
            since: Now::default(),
            host_ifname: None,
        }
    }

    /// What is written, and what a whole serialisation would have written.
    fn written(draft: &mut Draft, checkpoint: &Checkpoint, state: &PoolState) -> (Saved, Saved) {
        let text = draft.text(checkpoint, state, &Left::default()).expect("serialisable");
        checkpoint.write(&text).expect("writable");
        let Ok(Found::Content(content)) = checkpoint.read() else { panic!("unreadable") };
        (content.pool, state.save())
    }

    #[test]
    fn texts_that_are_kept_never_differ_from_the_state() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let checkpoint = Checkpoint::new(dir.path(), "boot-1");
        let mut draft = Draft::default();
        let identity = Identity { instance: InstanceId::new("i-1"), manage_untagged: false };
        let mut state = PoolState::new(identity, "seed");
        assert_eq!(
            draft.text(&checkpoint, &state, &Left::default()).expect("serialisable"),
            blank(&checkpoint)
        );
        state.restore(Saved { leases: (1..=5).map(lease).collect(), ..Saved::default() });
        let (read, whole) = written(&mut draft, &checkpoint, &state);
        assert_eq!(read, whole);
        assert_eq!(read.leases.len(), 5);

        // One is committed, one goes, one comes.
        assert!(state.commit(&lease(3).key, "eni3"));
        let limits = InstanceTable::default().find("m5.large").expect("readable").expect("known");
        let targets = Targets::new(limits, SubnetId::new("subnet-1"));
        state.release(&lease(2).key, &targets, Now::default());
        state.restore(Saved { leases: vec![lease(9)], ..Saved::default() });
        let (read, whole) = written(&mut draft, &checkpoint, &state);
        assert_eq!(read, whole);
        let committed = read.leases.iter().find(|one| one.key == lease(3).key).expect("it is there");
        assert_eq!(committed.host_ifname.as_deref(), Some("eni3"));
        assert!(read.leases.iter().all(|one| one.key != lease(2).key));
        assert_eq!(draft.leases.len(), 5, "nothing is kept of what is gone");
    }
}
