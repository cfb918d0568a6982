//! Proofs about `decide` alone: rows of a table, exhaustive walks, properties.

#[cfg(feature = "deliberate-bugs")]
mod deliberate;
mod fence;
mod forecast;
mod hang;
mod haste;
mod properties;
mod rows;
mod scene;
mod sequences;
mod shown;
mod walk;
