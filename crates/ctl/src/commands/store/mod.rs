//! `patronictl store ...`: the store itself, and the keys of a cluster as they are.

pub(super) mod add;
pub(super) mod backup;
pub(super) mod get;
pub(super) mod list;
pub(super) mod move_keys;
pub(super) mod remove;
pub(super) mod restore;
pub(super) mod status;

use crate::cli::definition::{Argument, Arity};

/// `ADDRESS` of a member.
const ADDRESS: Argument = Argument { key: "address", arity: Arity::Required, choices: &[] };
