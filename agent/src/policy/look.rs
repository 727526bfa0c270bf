//! Questions about what is in force, answered by the policy thread.

use std::collections::BTreeMap;

use policy_core::{Compiler, LocalPod};
use tokio::sync::oneshot;

use super::Binding;
use super::enforcer::{ClusterSource, Enforcer};
use super::worker::Command;
use crate::endpoint::Slot;

/// What the policy thread knows, for as long as a question takes. It does nothing else meanwhile.
#[derive(Debug)]
pub struct InForce<'a> {
    /// What the numbers in the maps stand for.
    pub compiler: &'a Compiler,
    /// The pods under policy.
    pub local: &'a BTreeMap<Slot, (LocalPod, Binding)>,
    /// What is no longer needed is still in the maps: a grace period is under way.
    pub leaving: bool,
}

/// Something that the thread is to look up.
pub(super) type Look = Box<dyn FnOnce(&InForce<'_>) + Send>;

impl<C: ClusterSource> Enforcer<C> {
    /// Asks the policy thread; `None` where it has ended. A compilation that runs is waited for.
    pub async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&InForce<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |in_force| drop(reply.send(question(in_force))));
        self.commands.send(Command::Look(look)).await.ok()?;
        answer.await.ok()
    }
}
