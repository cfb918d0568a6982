//! What a member of the store keeps on disk: a log of records, and a snapshot.

mod files;
mod log;
mod machine;
pub(crate) mod records;

pub(crate) use files::{Files, Identity};
pub(crate) use log::LogStore;
pub(crate) use machine::Machine;
