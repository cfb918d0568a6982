//! `patronictl store ...`: the store itself, not what a cluster keeps in it.

pub(super) mod move_keys;
