//! Notes of the pure parts, in the log.

use patroni_core::parameters;
use patroni_core::verdict::{Level, Note};

/// Logs a note of a decision.
pub(crate) fn of_decision(note: &Note) {
    let text = &note.text;
    match note.level {
        Level::Info => tracing::info!(target: "patroni::ha", "{text}"),
        Level::Warning => tracing::warn!(target: "patroni::ha", "{text}"),
        Level::Error => tracing::error!(target: "patroni::ha", "{text}"),
        Level::Critical => tracing::error!(target: "patroni::ha", critical = true, "{text}"),
    }
}

/// Logs a note of a planner.
pub(crate) fn of_planner(note: &parameters::Note) {
    match note {
        parameters::Note::Info(text) => tracing::info!(target: "patroni::postgresql", "{text}"),
        parameters::Note::Warning(text) => tracing::warn!(target: "patroni::postgresql", "{text}"),
    }
}
