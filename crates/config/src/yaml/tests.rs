//! Rows: what PyYAML reads and writes.
use super::*;
