//! Logical slots: created and moved from connections to their databases, and compared with the primary's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patroni_core::job::UpstreamMember;
use patroni_core::slots::{Change, PrimarySlots};

use crate::Result;
use crate::conf::primary_as_rewind_user;
use crate::monitor::Monitor;
use crate::sql::{Connection, DEFAULT_OPTIONS, SqlError, quote_literal};

/// A new slot waits for all transactions that run; in vain where one runs for ever, and holds back WAL meanwhile.
const CREATE_LIMIT: Duration = Duration::from_secs(30);

/// Moving a slot means decoding everything in between.
const ADVANCE_LIMIT: Duration = Duration::from_secs(3600);

/// How long a question may take.
const QUERY_LIMIT: Duration = Duration::from_secs(3);

/// Makes the changes of logical slots in a plan. What fails is logged. Returns the slots that cannot be moved, because the WAL they need is gone or
/// they are invalid.
pub async fn apply(monitor: &Monitor, plan: &[Change]) -> BTreeSet<String> {
    let mut by_database: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in plan {
        match change {
            Change::CreateLogical { database, .. } | Change::AdvanceLogical { database, .. } => {
                by_database.entry(database).or_default().push(change);
            }
            Change::Drop { .. } | Change::Create(_) | Change::Advance(..) => {}
        }
    }
    let mut unusable = BTreeSet::new();
    for (database, changes) in by_database {
        let server = monitor.options();
        let connection = match server.connect(Some(database), "Patroni slots", &options(&changes)).await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::error!("replication slots in database {database} could not be changed: {error}");
                continue;
            }
        };
        for change in changes {
            unusable.extend(apply_one(&connection, change).await);
        }
    }
    unusable
}

/// A statement that is no longer waited for should not go on.
fn options(changes: &[&Change]) -> String {
    let creates = changes.iter().any(|change| matches!(change, Change::CreateLogical { .. }));
    let limit = if creates { CREATE_LIMIT } else { ADVANCE_LIMIT };
    format!("-c statement_timeout={}", limit.as_millis())
}

async fn apply_one(connection: &Connection, change: &Change) -> Option<String> {
    match change {
        Change::CreateLogical { slot, plugin, .. } => {
            let name = quote_literal(slot);
            let sql = format!(
                "SELECT pg_catalog.pg_create_logical_replication_slot({name}, {}) WHERE NOT EXISTS \
                 (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {name})",
                quote_literal(plugin)
            );
            if let Err(error) = connection.query_within(&sql, CREATE_LIMIT * 2).await {
                tracing::error!("Failed to create logical replication slot '{slot}' plugin='{plugin}': {error}");
            }
            None
        }
        Change::AdvanceLogical { slot, lsn, .. } => {
            let (name, position) = (quote_literal(slot), quote_literal(&lsn.to_string()));
            let sql = format!("SELECT pg_catalog.pg_replication_slot_advance({name}, {position}::pg_catalog.pg_lsn)");
            let error = connection.query_within(&sql, ADVANCE_LIMIT * 2).await.err()?;
            tracing::error!("Failed to advance logical replication slot '{slot}': {error}");
            is_unusable(&error).then(|| slot.clone())
        }
        Change::Drop { .. } | Change::Create(_) | Change::Advance(..) => None,
    }
}

/// `undefined_file`: WAL is gone; `object_not_in_prerequisite_state`: the slot was invalidated.
fn is_unusable(error: &SqlError) -> bool {
    matches!(error.code(), Some("58P01" | "55000"))
}

/// Asks the primary for what the readiness of this standby's slots depends on. `physical` is the slot through which it streams.
///
/// # Errors
/// The primary does not answer.
pub async fn ask_primary(
    monitor: &Monitor,
    primary: &UpstreamMember,
    physical: &str,
    logical: &BTreeSet<String>,
) -> Result<Option<PrimarySlots>> {
    let conninfo = primary_as_rewind_user(&monitor.options(), primary)?;
    let connection = Connection::open(&conninfo, "Patroni slots", DEFAULT_OPTIONS).await?;
    let names: Vec<String> = logical.iter().map(String::as_str).chain([physical]).map(quote_literal).collect();
    let sql = format!(
        "SELECT slot_name, catalog_xmin FROM pg_catalog.pg_get_replication_slots() \
         WHERE NOT pg_catalog.pg_is_in_recovery() AND slot_name IN ({})",
        names.join(", ")
    );
    let rows = connection.query_within(&sql, QUERY_LIMIT).await?;
    let Some(own) = rows.iter().find(|row| row.get(0) == Some(physical)) else {
        tracing::warn!("Physical slot {physical} does not exist on the primary");
        return Ok(None);
    };
    let others = rows.iter().filter(|row| row.get(0) != Some(physical));
    let slots = PrimarySlots {
        feedback: own.parse(1),
        logical: others.filter_map(|row| Some((row.get(0)?.to_owned(), row.parse(1)?))).collect(),
    };
    if slots.feedback.is_none() {
        check_feedback(monitor).await?;
    }
    Ok(Some(slots))
}

/// The agent switches feedback on; somebody may have switched it off.
async fn check_feedback(monitor: &Monitor) -> Result<()> {
    let connection = monitor.connect("slots").await?;
    let rows = connection.query_within("SHOW hot_standby_feedback", QUERY_LIMIT).await?;
    if rows.first().and_then(|row| row.get(0)) == Some("off") {
        tracing::error!("Logical slot failover requires \"hot_standby_feedback\". Please check postgresql.auto.conf");
    }
    Ok(())
}
