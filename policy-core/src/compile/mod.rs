//! From a cluster to tables.

mod cidr;
mod class;
mod compiler;
mod epoch;
mod heir;
mod peer;
mod profile;
mod registry;
mod row;
mod set;
mod term;
pub(crate) mod vip;

use std::collections::BTreeMap;

pub use compiler::{Compiler, CompilerOptions};

use crate::finding::Finding;
use crate::ids::{RuleId, RuleName};
use crate::plan::{Step, plan};
use crate::tables::{Tables, Transition};

/// What a compilation yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the maps shall hold in the end.
    pub tables: Tables,
    /// What they must hold on the way there besides.
    pub transition: Transition,
    /// The names of all rules that the tables mention.
    pub rules: BTreeMap<RuleId, RuleName>,
    /// What could not be taken as given.
    pub findings: Vec<Finding>,
}

impl Compiled {
    /// The steps from `installed` to these tables; see [`plan`].
    pub fn plan(&self, installed: &Tables) -> Vec<Step> {
        plan(installed, &self.tables, &self.transition)
    }
}
