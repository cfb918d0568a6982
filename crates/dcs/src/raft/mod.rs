//! The embedded store: the agents keep the cluster's keys themselves, replicated by Raft consensus.

pub mod admin;
mod options;
pub mod protocol;
pub mod state;

pub use options::{PORT_DISTANCE, RaftOptions, RaftOptionsError};
