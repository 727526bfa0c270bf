//! The objects, their history, and the rules by which they change.
//!
//! Everything happens under one lock, which is held for microseconds: what is
//! handed out are shared, immutable versions of objects. Nothing here waits.

mod collection;
mod create;
mod delete;
mod namespaces;
mod object;
mod options;
mod pods;
mod read;
mod seed;
mod services;
mod update;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

pub(super) use collection::{Change, Happened};
pub(super) use delete::Deleted;
pub(super) use object::Stored;
pub(super) use options::{
    DeleteOptions, ListPage, ListQuery, Part, Strictness, VersionMatch, WriteOptions, Written,
};

use super::error::ApiError;
use super::faults::{Closing, Faults};
use super::kinds::{NAMESPACES, ResourceType, builtins};
use collection::Collection;

/// Changes kept for each resource, unless set otherwise: enough for the
/// creation of 10,000 pods to be watched by a client that looks away.
const HISTORY_LIMIT: usize = 20_000;

/// How long new watches are refused after the history was lost, as measured on
/// a real server.
const REINITIALIZING: Duration = Duration::from_secs(1);

/// A simulated Kubernetes API's contents.
#[derive(Debug)]
pub struct Store {
    /// Never held across an await.
    state: Mutex<State>,
    faults: Faults,
}

/// All that changes.
#[derive(Debug)]
struct State {
    /// The version of the latest change, of any resource.
    version: u64,
    collections: HashMap<(String, String), Collection>,
    types: Arc<Vec<Arc<ResourceType>>>,
    history_limit: usize,
    /// New watches are refused until then.
    initializing_until: Option<Instant>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with the namespaces that every cluster has, and nothing else.
    pub fn new() -> Self {
        let types = builtins();
        let mut state = State {
            version: 1,
            collections: HashMap::new(),
            types: Arc::new(Vec::new()),
            history_limit: HISTORY_LIMIT,
            initializing_until: None,
        };
        state.set_types(types);
        let store = Self { state: Mutex::new(state), faults: Faults::default() };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({"metadata": {"name": name}});
            if let Some(kind) = store.kind_of(NAMESPACES) {
                // A new store has no namespace of that name, and the name is valid.
                let _ = store.create(&kind, None, namespace, &WriteOptions::default());
            }
        }
        store
    }

    /// The version of the latest change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Loses the history of all resources, as a restarted API server does:
    /// open watches end, for a second new ones get 429, and then versions from
    /// before get 410.
    pub fn expire_history(&self) {
        self.expire_history_for(REINITIALIZING);
    }

    /// Like [`Store::expire_history`], refusing new watches for `refuse`.
    pub fn expire_history_for(&self, refuse: Duration) {
        {
            let mut state = self.lock();
            let version = state.version;
            state.collections.values_mut().for_each(|collection| collection.forget(version));
            state.initializing_until = (!refuse.is_zero()).then(|| Instant::now() + refuse);
        }
        self.faults.close_watches("", Closing::Clean);
    }

    /// How many changes of each resource can still be watched; older ones are 410.
    pub fn set_history_limit(&self, changes: usize) {
        let mut state = self.lock();
        state.history_limit = changes;
        state.collections.values_mut().for_each(|collection| collection.set_limit(changes));
    }

    /// The faults that tests can switch on, and the open watches.
    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// All served resource types, in the order of discovery.
    pub(super) fn types(&self) -> Arc<Vec<Arc<ResourceType>>> {
        Arc::clone(&self.lock().types)
    }

    pub(super) fn kind(&self, group: &str, version: &str, plural: &str) -> Option<Arc<ResourceType>> {
        let types = self.types();
        types.iter().find(|kind| kind.is((group, plural)) && kind.version == version).cloned()
    }

    fn kind_of(&self, storage: (&str, &str)) -> Option<Arc<ResourceType>> {
        self.lock().kind_of(storage)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole objects behind: each change is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new watches are refused for the moment.
    pub(super) fn is_initializing(&self) -> bool {
        self.lock().initializing_until.is_some_and(|until| Instant::now() < until)
    }

    /// A receiver that is marked changed by each change of the resource; its
    /// sender goes when the resource is no longer served.
    pub(super) fn subscribe(&self, kind: &ResourceType) -> Option<watch::Receiver<u64>> {
        self.lock().collection(kind).map(Collection::subscribe)
    }

    /// Up to `limit` changes after `version`, and the version up to which they tell all.
    ///
    /// # Errors
    /// 410 if the history doesn't reach back to `version`.
    pub(super) fn changes_after(
        &self,
        kind: &ResourceType,
        version: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), ApiError> {
        let state = self.lock();
        let Some(collection) = state.collection(kind) else {
            return Err(ApiError::no_such_path());
        };
        let oldest = collection.oldest();
        let changes =
            collection.changes_after(version, limit).ok_or_else(|| ApiError::expired(version, oldest))?;
        let seen = match changes.last() {
            Some(last) if changes.len() == limit => last.version,
            _ => state.version.max(version),
        };
        Ok((changes, seen))
    }
}

impl State {
    fn collection(&self, kind: &ResourceType) -> Option<&Collection> {
        let (group, plural) = kind.storage();
        self.collections.get(&(group.to_owned(), plural.to_owned()))
    }

    fn collection_mut(&mut self, kind: &ResourceType) -> Option<&mut Collection> {
        let (group, plural) = kind.storage();
        self.collections.get_mut(&(group.to_owned(), plural.to_owned()))
    }

    fn kind_of(&self, storage: (&str, &str)) -> Option<Arc<ResourceType>> {
        self.types.iter().find(|kind| kind.is(storage)).cloned()
    }

    fn get(&self, kind: &ResourceType, key: &str) -> Option<Arc<Stored>> {
        self.collection(kind)?.get(key).cloned()
    }

    /// Serves exactly `types`: new ones get an empty collection, and the
    /// collection of those no longer served goes with its open watches.
    fn set_types(&mut self, types: Vec<Arc<ResourceType>>) {
        let storage = |kind: &ResourceType| {
            let (group, plural) = kind.storage();
            (group.to_owned(), plural.to_owned())
        };
        let kept: Vec<_> = types.iter().map(|kind| storage(kind)).collect();
        self.collections.retain(|key, _| kept.contains(key));
        for key in kept {
            let (version, limit) = (self.version, self.history_limit);
            self.collections.entry(key).or_insert_with(|| Collection::new(version, limit));
        }
        self.types = Arc::new(types);
    }

    /// Puts `value` in as a new version of its object.
    fn put(&mut self, kind: &ResourceType, mut value: Value) -> Arc<Stored> {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(Stored::of(kind, &value, self.version));
        if let Some(collection) = self.collection_mut(kind) {
            collection.put(Arc::clone(&object));
        }
        object
    }

    /// Removes the object whose last state is `value`.
    fn take_out(&mut self, kind: &ResourceType, mut value: Value) -> Arc<Stored> {
        self.version += 1;
        value["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = Arc::new(Stored::of(kind, &value, self.version));
        if let Some(collection) = self.collection_mut(kind) {
            collection.remove(Arc::clone(&object));
        }
        object
    }
}
