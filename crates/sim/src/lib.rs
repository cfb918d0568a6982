//! Whole clusters in one thread, on virtual time, with the loop that production runs. Development only.
//!
//! A seed decides everything: the size of the cluster, its settings, every delay, every fault. The same seed gives the
//! same trace, byte for byte. See `docs/proof.md` for what this proves and what it does not.

mod faults;
mod invariants;
mod jobs;
mod postgres;
mod random;
mod simulation;
mod store;
mod universe;
mod wal;
mod world;

pub use simulation::{Report, run};
