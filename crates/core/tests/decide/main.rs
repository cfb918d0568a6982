//! Proofs about `decide` alone: rows of a table, exhaustive walks, properties.

mod properties;
mod rows;
mod scene;
mod walk;
