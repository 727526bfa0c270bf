//! Get and list.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::super::error::ApiError;
use super::super::kinds::ResourceType;
use super::Store;
use super::collection::in_range;
use super::object::{Stored, key};
use super::options::{ListPage, ListQuery, VersionMatch};

/// What a continue token says.
#[derive(Debug, Serialize, Deserialize)]
struct Resume {
    /// The version of the list; -1 goes on with whatever is there now.
    rv: i64,
    /// The key of the last object of the chunk before.
    start: String,
}

impl Resume {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("invalid continue token: continue key is not valid");
        let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        serde_json::from_slice(&text).map_err(|_| invalid())
    }
}

impl Store {
    /// One object.
    ///
    /// # Errors
    /// 404 if there is none.
    pub(in super::super) fn get(
        &self,
        kind: &ResourceType,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Stored>, ApiError> {
        let key = key(namespace.unwrap_or_default(), name);
        self.lock().get(kind, &key).ok_or_else(|| ApiError::not_found(kind, name))
    }

    /// The objects of one namespace, or of all.
    ///
    /// # Errors
    /// 400 for a broken continue token, 410 for a version that is gone.
    pub(in super::super) fn list(
        &self,
        kind: &ResourceType,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<ListPage, ApiError> {
        let state = self.lock();
        let current = state.version;
        let Some(collection) = state.collection(kind) else {
            return Err(ApiError::no_such_path());
        };
        let resume = query.resume.as_deref().map(Resume::decode).transpose()?;
        // Without resourceVersionMatch, a limit with a version asks for just that version.
        let exact = query.matching == Some(VersionMatch::Exact)
            || query.matching.is_none() && query.limit > 0 && query.version.is_some_and(|v| v > 0);
        let version = match &resume {
            Some(resume) => u64::try_from(resume.rv).unwrap_or(current),
            None if exact => query.version.unwrap_or(current),
            None => current,
        };
        let start = resume.as_ref().map(|resume| resume.start.as_str());
        // Version 0 is answered from the cache, which ignores the limit.
        let limit = match query.limit {
            0 => usize::MAX,
            _ if query.version == Some(0) && resume.is_none() => usize::MAX,
            limit => limit,
        };
        let mut page = ListPage { version, items: Vec::new(), resume: None, remaining: None };
        let mut take = |objects: &mut dyn Iterator<Item = &Arc<Stored>>| {
            let mut more = 0_usize;
            for object in objects.filter(|object| query.selector.matches(object)) {
                if page.items.len() < limit {
                    page.items.push(Arc::clone(object));
                } else {
                    more += 1;
                }
            }
            if more > 0 {
                let start = page.items.last().map(|last| last.key()).unwrap_or_default();
                let rv = i64::try_from(version).unwrap_or(i64::MAX);
                page.resume = Some(Resume { rv, start }.encode());
                page.remaining = query.selector.is_empty().then_some(more);
            }
        };
        if version >= current {
            take(&mut collection.range(namespace, start));
        } else {
            let objects = collection.at(version).ok_or_else(|| match &resume {
                Some(resume) => {
                    let token = Resume { rv: -1, start: resume.start.clone() };
                    ApiError::expired_continue(token.encode())
                }
                None => ApiError::expired(version, collection.oldest()),
            })?;
            take(&mut in_range(&objects, namespace, start));
        }
        Ok(page)
    }
}
