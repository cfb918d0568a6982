//! Whole clusters in one thread, on virtual time, with the loop that production runs. Development only.
//!
//! A seed decides everything: the size of the cluster, its settings, every delay, every fault. The same seed gives the
//! same trace, byte for byte. See `docs/proof.md` for what this proves and what it does not.

mod ambush;
mod clients;
mod effects;
mod failsafe;
mod faults;
mod guard;
mod invariants;
mod jobs;
mod kept_out;
mod managing;
mod node;
mod operators;
mod postgres;
mod random;
mod servers;
mod shown;
mod simulation;
mod store;
mod synchronous;
mod universe;
mod wal;
mod world;

pub use simulation::{Mode, Report, run};
