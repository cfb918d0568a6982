//! What is wrong with a cluster or will bite, and the command that fixes it. Findings are pure functions of what the
//! store, the members and PostgreSQL say; the command asks them.

pub(crate) mod certificates;
pub(crate) mod hba;
pub(crate) mod keys;
pub(crate) mod lost;
pub(crate) mod members;
#[cfg(test)]
mod runbook;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod wal;

use std::fmt;

/// Something to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What is wrong.
    pub(crate) what: String,
    /// What fixes it.
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "* {}\n  remedy: {}", self.what, self.remedy)
    }
}

/// A finding with these texts.
pub(crate) fn finding(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { what: what.into(), remedy: remedy.into() }
}
