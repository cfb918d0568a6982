//! The query that tells everything about a running server at once, and its answer.

use std::collections::BTreeMap;

use patroni_core::JsonMap;
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::SystemId;
use patroni_core::server::{Replication, Running, Slot, SlotKind, Wal};
use serde_json::Value;

use crate::sql::{Row, SqlError};

/// As Python prints a time with its zone.
const TIME_FORMAT: &str = "'YYYY-MM-DD HH24:MI:SS.USTZH:TZM'";

/// The query for a server version (13 and later).
pub(super) fn query(server_version: u32) -> String {
    // Older versions ask a process for statistics, which may be slow.
    let reset =
        if server_version >= 150_000 { "pg_catalog.pg_stat_get_bgwriter_stat_reset_time()::text" } else { "NULL" };
    let of_17 = if server_version >= 170_000 { ", failover, synced, inactive_since::text" } else { "" };
    format!(
        "SELECT pg_catalog.pg_is_in_recovery(), \
         pg_catalog.to_char(pg_catalog.pg_postmaster_start_time(), {TIME_FORMAT}), \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END, \
         CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(\
         pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
         GREATEST(pg_catalog.pg_last_wal_receive_lsn(), wr.written_lsn), \
         pg_catalog.pg_last_wal_replay_lsn(), \
         pg_catalog.to_char(pg_catalog.pg_last_xact_replay_timestamp(), {TIME_FORMAT}), \
         pg_catalog.pg_is_in_recovery() AND pg_catalog.pg_is_wal_replay_paused(), \
         wr.status, CASE WHEN wr.latest_end_lsn IS NOT NULL THEN wr.received_tli END, \
         NULLIF(pg_catalog.current_setting('restore_command'), ''), \
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
         (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
         (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
         (SELECT pg_catalog.json_agg(r) FROM (SELECT \
         (SELECT rolname FROM pg_catalog.pg_authid WHERE oid = a.usesysid) AS usename, \
         a.application_name, a.client_addr, w.state, w.sync_state, w.sync_priority, w.flush_lsn \
         FROM pg_catalog.pg_stat_get_wal_senders() w, pg_catalog.pg_stat_get_activity(w.pid) a) r), \
         (SELECT pg_catalog.json_agg(s) FROM (SELECT slot_name, slot_type, plugin, database, active, restart_lsn, \
         confirmed_flush_lsn, xmin IS NOT NULL AS holds_xmin, catalog_xmin::text, wal_status{of_17} \
         FROM pg_catalog.pg_replication_slots WHERE NOT temporary) s), \
         (SELECT pg_catalog.json_agg(p) FROM (SELECT s.name, pg_catalog.current_setting(s.name, true) AS old_value, \
         COALESCE((SELECT f.setting FROM pg_catalog.pg_file_settings f WHERE f.name = s.name ORDER BY f.seqno DESC \
         LIMIT 1), s.boot_val) AS new_value FROM pg_catalog.pg_settings s WHERE s.pending_restart) p), \
         wr.latest_end_lsn, {reset} FROM pg_catalog.pg_stat_get_wal_receiver() wr"
    )
}

/// Reads the row that [`query`] gives.
pub(super) fn read(row: &Row, server_version: u32) -> Result<(Running, SystemId), SqlError> {
    let missing = |what: &str| SqlError::other("status", format!("PostgreSQL did not tell {what}"));
    let control_timeline = row.parse(11).map(Timeline);
    let (wal, timeline) = if row.flag(0) {
        let recovered = row.parse(12).map(Timeline).max(control_timeline);
        (standby(row), row.parse(9).map(Timeline).or(recovered))
    } else {
        let location = row.parse(2).ok_or_else(|| missing("its WAL position"))?;
        (Wal::Primary { location }, row.parse(3).map(Timeline))
    };
    let running = Running {
        start_time: time(row.get(1).ok_or_else(|| missing("when it was started"))?),
        statistics_reset: row.get(18).map(str::to_owned),
        server_version,
        wal,
        timeline,
        control_timeline,
        replication: objects(row.get(14))?.iter().map(replication).collect(),
        slots: objects(row.get(15))?.iter().filter_map(slot).collect::<BTreeMap<_, _>>(),
        pending_restart: objects(row.get(16))?.into_iter().filter_map(pending).collect(),
    };
    Ok((running, row.parse(13).map(system_id).ok_or_else(|| missing("its system identifier"))?))
}

/// SQL has no unsigned numbers: large identifiers come as negative ones.
fn system_id(signed: i64) -> SystemId {
    SystemId(u64::from_ne_bytes(signed.to_ne_bytes()))
}

fn standby(row: &Row) -> Wal {
    let replication_state = match (row.get(8), row.get(10)) {
        (Some("streaming"), _) => Some("streaming".to_owned()),
        (_, Some(_restore_command)) => Some("in archive recovery".to_owned()),
        (_, None) => None,
    };
    Wal::Standby {
        received: row.parse(4),
        replayed: row.parse(5),
        replayed_timestamp: row.get(6).map(time),
        paused: row.flag(7),
        latest_end: row.parse(17),
        replication_state,
    }
}

/// Python leaves out a fraction of zero.
fn time(text: &str) -> String {
    text.replacen(".000000", "", 1)
}

fn objects(json: Option<&str>) -> Result<Vec<JsonMap>, SqlError> {
    json.map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(text).map_err(|e| SqlError::other("status", format!("{e} in {text:?}")))
    })
}

fn text(object: &JsonMap, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(str::to_owned)
}

fn lsn(object: &JsonMap, key: &str) -> Option<Lsn> {
    object.get(key)?.as_str()?.parse().ok()
}

fn flag(object: &JsonMap, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn replication(object: &JsonMap) -> Replication {
    Replication {
        user: text(object, "usename").unwrap_or_default(),
        application_name: text(object, "application_name").unwrap_or_default(),
        client_addr: text(object, "client_addr"),
        state: text(object, "state").unwrap_or_default(),
        sync_state: text(object, "sync_state").unwrap_or_default(),
        sync_priority: object.get("sync_priority").and_then(Value::as_i64).unwrap_or(0),
        flush_lsn: lsn(object, "flush_lsn"),
    }
}

fn slot(object: &JsonMap) -> Option<(String, Slot)> {
    let kind = match text(object, "slot_type").as_deref() {
        Some("logical") => SlotKind::Logical {
            plugin: text(object, "plugin").unwrap_or_default(),
            database: text(object, "database").unwrap_or_default(),
        },
        Some(_) | None => SlotKind::Physical,
    };
    let slot = Slot {
        kind,
        active: flag(object, "active"),
        restart_lsn: lsn(object, "restart_lsn"),
        confirmed_flush_lsn: lsn(object, "confirmed_flush_lsn"),
        holds_xmin: flag(object, "holds_xmin"),
        catalog_xmin: text(object, "catalog_xmin").and_then(|t| t.parse().ok()),
        lost: text(object, "wal_status").as_deref() == Some("lost"),
        failover: flag(object, "failover"),
        synced: flag(object, "synced"),
        inactive_since: text(object, "inactive_since"),
    };
    Some((text(object, "slot_name")?, slot))
}

fn pending(mut object: JsonMap) -> Option<(String, Value)> {
    let name = text(&object, "name")?;
    object.retain(|key, _| key != "name");
    Some((name, Value::Object(object)))
}
