//! From a cluster to the steps on the maps.

mod addresses;
mod book;
mod cidr;
mod class;
mod engine;
mod epoch;
mod force;
mod heir;
mod maps;
mod numbers;
mod profile;
mod reach;
mod registry;
mod report;
mod row;
mod rows;
mod services;
mod set;
mod steps;
mod subjects;
mod term;

pub use engine::{Compiler, CompilerOptions, SetRules, Update};
