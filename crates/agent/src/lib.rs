//! The agent: the loop that drives decisions, the jobs that carry them out, the REST API that shows them.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests write where nobody else does"))]

pub mod agent;
pub mod api;
mod blocking;
mod clock;
pub mod configuration;
mod effects;
pub mod guard;
mod hang;
pub mod init;
pub mod jobs;
pub mod log;
pub mod maintenance;
pub mod metrics;
pub mod node;
mod notes;
pub mod notify;
pub mod options;
pub mod peers;
pub mod publisher;
pub mod raft_controller;
pub mod refusals;
pub mod requests;
pub mod rewind;
pub mod slots;
pub mod store;
pub mod synchronous;
pub mod watchdog;
