//! Carrying out what [`patroni_core::slots`] plans.

pub mod copy;
pub mod logical;
mod snapshot;
mod state_file;

use std::collections::BTreeSet;
use std::time::Duration;

use patroni_core::slots::{Change, DropReason, Kept};

use crate::sql::{Connection, SqlError, quote_literal};

/// What became of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotsDone {
    /// Slots whose change failed, or that could not be dropped because somebody uses them. They come up again in the next plan.
    pub failed: BTreeSet<String>,
    /// The connection is lost or the server hangs: the rest of the plan was not tried.
    pub aborted: bool,
}

/// Makes the changes one after the other, each within `limit`. A change that fails is logged, and the others go on; only when the server does
/// not answer the rest is left for the next time. Repeating a change does no harm.
pub async fn apply(connection: &Connection, plan: &[Change], limit: Duration) -> SlotsDone {
    let mut done = SlotsDone::default();
    for change in plan {
        let (slot, result) = match change {
            Change::Drop { slot, reason, kept } => (slot, drop_slot(connection, slot, *reason, kept, limit).await),
            // It is still there: an active slot, most likely.
            Change::Create(slot) if done.failed.contains(slot) => continue,
            Change::Create(slot) => (slot, create(connection, slot, limit).await),
            // From a connection to their database: see [`logical::apply`].
            Change::CreateLogical { .. } | Change::AdvanceLogical { .. } => continue,
            Change::Advance(slot, lsn) => (slot, advance(connection, slot, &lsn.to_string(), limit).await),
        };
        match result {
            Ok(true) => {}
            Ok(false) => {
                done.failed.insert(slot.clone());
            }
            Err(error) => {
                tracing::error!("Exception when changing replication slots: {error}");
                done.failed.insert(slot.clone());
                done.aborted = true;
                return done;
            }
        }
    }
    done
}

/// Drops a slot that nobody uses. The check and the drop are one statement; PostgreSQL itself refuses to drop a slot that became
/// active in between.
async fn drop_slot(
    connection: &Connection,
    slot: &str,
    reason: DropReason,
    kept: &Kept,
    limit: Duration,
) -> Result<bool, SqlError> {
    match reason {
        DropReason::Unknown | DropReason::Lost | DropReason::Different => tracing::info!("{}", reason.sentence(slot)),
        DropReason::HoldsXmin | DropReason::KeepsNothing => tracing::warn!("{}", reason.sentence(slot)),
    }
    if let Some(sentence) = kept.sentence(slot) {
        tracing::info!("{sentence}");
    }
    let sql = format!(
        "WITH slots AS (SELECT slot_name, active FROM pg_catalog.pg_replication_slots WHERE slot_name = {} AND NOT temporary), dropped AS \
         (SELECT pg_catalog.pg_drop_replication_slot(slot_name), true AS dropped FROM slots WHERE NOT active) \
         SELECT active, COALESCE(dropped, false) FROM slots FULL OUTER JOIN dropped ON true",
        quote_literal(slot)
    );
    let rows = match answer(connection.query_within(&sql, limit).await)? {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!("Failed to drop replication slot '{slot}': {error}");
            return Ok(false);
        }
    };
    match rows.first() {
        Some(row) if row.flag(1) => {
            tracing::info!("Dropped replication slot '{slot}'");
            Ok(true)
        }
        Some(row) if row.flag(0) => {
            tracing::warn!("Unable to drop replication slot '{slot}', slot is active");
            Ok(false)
        }
        Some(_) => {
            tracing::error!("Failed to drop replication slot '{slot}'");
            Ok(false)
        }
        // Somebody was faster.
        None => Ok(true),
    }
}

async fn create(connection: &Connection, slot: &str, limit: Duration) -> Result<bool, SqlError> {
    let name = quote_literal(slot);
    let sql = format!(
        "SELECT pg_catalog.pg_create_physical_replication_slot({name}, true) WHERE NOT EXISTS \
         (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND slot_name = {name})"
    );
    let result = answer(connection.query_within(&sql, limit).await)?;
    Ok(log_failure(result, || format!("Failed to create physical replication slot '{slot}'")))
}

async fn advance(connection: &Connection, slot: &str, lsn: &str, limit: Duration) -> Result<bool, SqlError> {
    let sql = format!(
        "SELECT pg_catalog.pg_replication_slot_advance({}, {}::pg_catalog.pg_lsn)",
        quote_literal(slot),
        quote_literal(lsn)
    );
    let result = answer(connection.query_within(&sql, limit).await)?;
    Ok(log_failure(result, || format!("Error while advancing replication slot {slot} to position '{lsn}'")))
}

fn log_failure<T>(result: Result<T, SqlError>, what: impl Fn() -> String) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            tracing::error!("{}: {error}", what());
            false
        }
    }
}

/// Tells what the server said from the lack of an answer.
fn answer<T>(result: Result<T, SqlError>) -> Result<Result<T, SqlError>, SqlError> {
    match result {
        // Class 57P: the server ends the connection.
        Err(error) if error.code().is_none_or(|code| code.starts_with("57P")) => Err(error),
        other => Ok(other),
    }
}
