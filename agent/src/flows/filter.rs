//! What somebody wants to see.

use super::{Flow, Verdict};

/// One in so many new allowed flows is shown, where nobody says otherwise.
const SAMPLE: u32 = 10;

/// What a follower asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Only flows of this pod, `namespace/name`, at either end; or of a whole namespace, `namespace/`.
    pub pod: Option<String>,
    /// Only what policy or the parser denied, and what audit let pass.
    pub denied: bool,
    /// One in so many new allowed flows; 1 is all, 0 none.
    pub sample: u32,
}

impl Default for Wish {
    fn default() -> Self {
        Self { pod: None, denied: false, sample: SAMPLE }
    }
}

impl Wish {
    /// Reads the fields of a query.
    ///
    /// # Errors
    ///
    /// The field that is malformed, and what it should be.
    pub fn read(field: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut wish = Self::default();
        if let Some(pod) = field("pod") {
            let sound = pod.split_once('/').is_some_and(|(namespace, _)| !namespace.is_empty());
            if !sound {
                return Err(format!("pod: «{pod}» is neither namespace/pod nor namespace/"));
            }
            wish.pod = Some(pod);
        }
        if let Some(denied) = field("denied") {
            wish.denied =
                denied.parse().map_err(|_| format!("denied: «{denied}» is neither true nor false"))?;
        }
        if let Some(sample) = field("sample") {
            wish.sample = sample.parse().map_err(|_| format!("sample: «{sample}» is not a whole number"))?;
        }
        Ok(wish)
    }

    /// What the programs must tell for it: one in so many allowed flows, 0 for none.
    pub(super) fn needs(&self) -> u32 {
        if self.denied { 0 } else { self.sample }
    }

    /// Whether a flow is meant, whatever its share.
    pub(super) fn wants(&self, flow: &Flow) -> bool {
        if flow.verdict == Verdict::Allowed && self.needs() == 0 {
            return false;
        }
        let Some(wanted) = &self.pod else { return true };
        let ends = [flow.pod.as_ref(), flow.from.name.as_ref(), flow.to.name.as_ref()];
        ends.into_iter().flatten().any(|name| match wanted.strip_suffix('/') {
            Some(namespace) => name.split_once('/').is_some_and(|(of, _)| of == namespace),
            None => name == wanted,
        })
    }
}
