//! `patronictl store ...`: the store itself, not what a cluster keeps in it.

pub(super) mod add;
pub(super) mod backup;
pub(super) mod move_keys;
pub(super) mod remove;
pub(super) mod restore;
pub(super) mod status;

use crate::cli::definition::{Argument, Arity};

/// `ADDRESS` of a member.
const ADDRESS: Argument = Argument { key: "address", arity: Arity::Required, choices: &[] };
