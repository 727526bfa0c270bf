//! What a request asks of the store besides its object, and what it gets.

use std::sync::Arc;

use super::super::selector::Selector;
use super::object::Stored;

/// What to do with fields that a kind doesn't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) enum Strictness {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options of create, replace and patch.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct WriteOptions {
    pub(in super::super) dry_run: bool,
    pub(in super::super) strictness: Strictness,
    /// Of a creation: the status is taken too, as no client may.
    pub(in super::super) with_status: bool,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Part {
    /// Everything but the status (of kinds that have one).
    Main,
    /// The status subresource: status, labels and annotations.
    Status,
    /// The finalize subresource of namespaces.
    Finalize,
}

/// The outcome of a write.
#[derive(Debug)]
pub(in super::super) struct Written {
    pub(in super::super) object: Arc<Stored>,
    /// Texts for `Warning` headers.
    pub(in super::super) warnings: Vec<String>,
}

/// Options of delete.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct DeleteOptions {
    pub(in super::super) dry_run: bool,
    pub(in super::super) grace_seconds: Option<i64>,
    /// Preconditions.
    pub(in super::super) uid: Option<String>,
    pub(in super::super) version: Option<String>,
}

/// How a list's resourceVersion is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct ListQuery {
    pub(in super::super) selector: Selector,
    /// `None` when not given; 0 is any version.
    pub(in super::super) version: Option<u64>,
    pub(in super::super) matching: Option<VersionMatch>,
    /// 0 is no limit.
    pub(in super::super) limit: usize,
    pub(in super::super) resume: Option<String>,
}

/// One chunk of a list.
#[derive(Debug)]
pub(in super::super) struct ListPage {
    pub(in super::super) version: u64,
    pub(in super::super) items: Vec<Arc<Stored>>,
    /// The token for the next chunk.
    pub(in super::super) resume: Option<String>,
    /// How many objects the next chunks hold; unknown with a selector.
    pub(in super::super) remaining: Option<usize>,
}
