//! The PostgreSQL server beside the agent: looking at it, and changing it.
//!
//! Two handles. [`monitor::Monitor`] looks: it can be cloned, writes nothing, and answers by its deadline whatever the
//! server does. [`control::Control`] acts: it is the only type that starts or stops PostgreSQL or writes its files,
//! there is one, and a job owns it while it works.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests write where nobody else does"))]

mod blocking;
pub mod bootstrap;
pub mod callbacks;
pub mod cancel;
pub mod clone;
pub mod conf;
pub mod control;
pub mod controldata;
mod copying;
pub mod data_dir;
pub mod disks;
pub mod error;
mod local;
mod method_commands;
pub mod monitor;
pub mod options;
pub mod other_wal;
pub mod postmaster;
pub mod processes;
pub mod programs;
pub mod rewind;
mod server_log;
pub mod slots;
pub mod sql;
pub mod unfinished;
pub mod upstream;
mod whereabouts;

pub use error::Error;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
