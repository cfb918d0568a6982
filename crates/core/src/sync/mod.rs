//! Synchronous replication, the pure part: what PostgreSQL waits for ([`StandbyNames`]), who may be elected
//! ([`Electorate`]), whom to pick ([`candidates`]), since when the server keeps its word ([`Enforcement`]), and which
//! single change comes next ([`Situation::next`]).
//!
//! The promise: every set of nodes that can elect a leader holds a node that has everything that was acknowledged. With
//! `ANY n` of the names Y before PostgreSQL acknowledges, and `q + 1` of the voters V needed in an election, every such
//! pair meets if and only if `|V ∪ Y| <= q + n`. `synchronous_mode: on` is the case `q = 0`: any one voter suffices.
//!
//! Names are compared as PostgreSQL compares them, without regard to case: they are brought to the spelling of the
//! members of the cluster where they enter ([`Senders`](Inspection), `synchronous_standby_names`).

mod enforcement;
mod names;
mod pick;
mod planner;

pub use enforcement::{Enforcement, Inspection, Sender};
pub use names::{Method, ParseError, StandbyNames};
pub use pick::{Candidate, Candidates, candidates};
pub use planner::{Electorate, Situation, Transition, before_promotion};

use std::collections::BTreeSet;

use crate::name::MemberName;

/// A set of members.
pub type Names = BTreeSet<MemberName>;

/// Prints names as Python prints a list of them, as the log lines of Patroni do: `['a', 'b']`.
pub fn python_list(names: &Names) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// `a, b`
pub fn comma_list(names: &Names) -> String {
    names.iter().map(MemberName::as_str).collect::<Vec<_>>().join(", ")
}
