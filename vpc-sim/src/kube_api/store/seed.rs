//! A cluster that has been there for long: objects put in whole.

use serde_json::Value;

use super::super::error::ApiError;
use super::super::lookup::text;
use super::Store;
use super::options::{Strictness, WriteOptions};

impl Store {
    /// Creates objects as they stand, status included, so that a large cluster costs one request for thousands of
    /// objects instead of two for each. Returns how many; those before a refused one stay.
    ///
    /// # Errors
    /// As of a creation, for the first object that is refused; 404 where its kind is not served.
    pub(in super::super) fn seed(&self, objects: Vec<Value>) -> Result<usize, ApiError> {
        let types = self.types();
        let options =
            WriteOptions { strictness: Strictness::Strict, with_status: true, ..WriteOptions::default() };
        let count = objects.len();
        for object in objects {
            let (version, name) = (text(&object, &["apiVersion"]), text(&object, &["kind"]));
            let kind = types
                .iter()
                .find(|kind| kind.kind == name && kind.api_version() == version)
                .ok_or_else(ApiError::no_such_path)?;
            let namespace = kind.namespaced.then(|| text(&object, &["metadata", "namespace"]).to_owned());
            self.create(kind, namespace.as_deref(), object, &options)?;
        }
        Ok(count)
    }
}
