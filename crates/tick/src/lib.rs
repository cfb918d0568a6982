//! The loop, and what it shares with those who answer for it: the same code in production and in the simulation.
//!
//! The loop is generic over a [`driver::World`], so that `patroni-agent` runs it on real PostgreSQL and a real store, and
//! `patroni-sim` on simulated ones.

pub mod agreement;
pub mod driver;
