//! Pure knowledge and decisions of patroni-rs.
//!
//! Nothing in this crate does I/O, reads a clock, draws a random number, or logs: a decision depends on its
//! arguments alone, so states can be enumerated, replayed and checked.

pub mod cluster;
pub mod decide;
pub mod disk;
pub mod effects;
pub mod election;
pub mod facts;
pub mod fence;
pub mod forecast;
pub mod hang;
pub mod health;
pub mod history;
pub mod job;
pub mod json;
pub mod lsn;
pub mod member_key;
pub mod memory;
pub mod name;
pub mod parameters;
pub mod peer;
pub mod plan;
pub mod python;
pub mod request;
pub mod server;
pub mod settings;
pub mod slots;
pub mod sync;
pub mod tags;
pub mod time;
pub mod units;
pub mod verdict;
pub mod view;

/// A JSON object that keeps the order of its keys, as Python's dictionaries do.
pub type JsonMap = serde_json::Map<String, serde_json::Value>;

/// The version of Patroni whose behaviour, keys and REST API this project matches. Members announce it, because
/// members of a mixed cluster compare it.
pub const COMPATIBLE_VERSION: &str = "4.1.5";
