//! The embedded store: the agents keep the cluster's keys themselves, replicated by Raft consensus.

pub mod admin;
mod client;
mod clock;
mod dcs;
#[cfg(test)]
mod histories;
mod net;
mod node;
mod options;
pub mod protocol;
mod started;
pub mod state;
mod storage;
mod types;

pub use client::RaftClient;
pub use dcs::Raft;
use net::Tcp;
pub use net::TransportError;
pub use node::{RaftNode, StartError};
pub use options::{PORT_DISTANCE, RaftOptions, RaftOptionsError};
