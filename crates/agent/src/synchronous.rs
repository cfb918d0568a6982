//! Synchronous replication on the live server: what it says, what it is told, and news of its standbys.
//!
//! Standbys that come and go cause no event in the store, so while this node manages them a task of its own looks at
//! `pg_stat_replication` and wakes the loop when it changes.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::sync::{Inspection, Sender};
use patroni_core::units::in_words;
use patroni_postgres::control::Control;
use patroni_postgres::monitor::Monitor;
use patroni_postgres::sql::{Connection, Row};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often standbys are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(400);

/// How often a server that reloads is asked whether it has.
const RELOAD_POLL: Duration = Duration::from_millis(5);

/// How long a reload is waited for. It comes about later all the same: the outcome is unknown then.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);

/// How long one question may take.
const QUERY_LIMIT: Duration = Duration::from_secs(3);

const INSPECT: &str = "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
     pg_catalog.current_setting('synchronous_commit'), pg_catalog.pg_postmaster_start_time()::text, \
     (SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE backend_type = 'checkpointer' LIMIT 1), \
     (SELECT pg_catalog.json_agg(r) FROM (SELECT a.application_name, w.state, w.sync_state, w.sync_priority, \
     w.write_lsn, w.flush_lsn, w.replay_lsn \
     FROM pg_catalog.pg_stat_get_wal_senders() w, pg_catalog.pg_stat_get_activity(w.pid) a) r), \
     (SELECT pg_catalog.json_agg(pg_catalog.concat(pg_catalog.split_part(c, '=', 2), ' for ', \
     pg_catalog.concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname)) ORDER BY d.datname, r.rolname) \
     FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
     LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, pg_catalog.unnest(s.setconfig) c \
     WHERE c ~* '^synchronous_commit=(off|local|false|no|0)$')";

/// Some WAL. WAL senders release commits when a standby confirms something: after a new setting nothing may be left to
/// confirm while a commit waits, until the standby reports by itself (`wal_receiver_status_interval`, 10 s).
const NUDGE: &str = "DO $$ BEGIN IF NOT pg_catalog.pg_is_in_recovery() THEN \
     SET LOCAL synchronous_commit = 'local'; PERFORM pg_catalog.txid_current(); END IF; END; $$";

/// Nothing on a standby, which is asked only before it is promoted: no position that anybody could have reached.
const FLUSHED: &str =
    "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END";

/// What is news. A standby that has just begun to stream has no position yet, and cannot be picked before it has.
const STANDBYS: &str = "SELECT pg_catalog.string_agg(pg_catalog.concat_ws('/', w.pid, a.application_name, w.state, \
     w.sync_state, w.flush_lsn IS NULL), ',' ORDER BY w.pid) \
     FROM pg_catalog.pg_stat_get_wal_senders() w, pg_catalog.pg_stat_get_activity(w.pid) a";

/// The local server, in questions of synchronous replication.
pub struct Synchronous {
    monitor: Monitor,
    connection: Option<Connection>,
    watch: Option<JoinHandle<()>>,
    /// A setting was made since standbys were last made to confirm something.
    nudge: bool,
}

impl Synchronous {
    /// Of the server that `monitor` looks at.
    pub fn new(monitor: Monitor) -> Self {
        Synchronous { monitor, connection: None, watch: None, nudge: false }
    }

    /// What the server says.
    ///
    /// # Errors
    /// It does not answer within `limit`.
    pub async fn inspect(&mut self, limit: Duration) -> Result<Inspection, String> {
        let limit = limit.min(QUERY_LIMIT);
        match timeout(limit, self.ask_all(limit)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {}", in_words(limit))),
        }
    }

    async fn ask_all(&mut self, limit: Duration) -> patroni_postgres::Result<Inspection> {
        let connection = self.connected().await?;
        let rows = connection.query_within(INSPECT, limit).await?;
        // Asked afterwards: whatever was acknowledged by what the first answer shows lies before it.
        let flushed = connection.query_within(FLUSHED, limit).await?;
        if std::mem::take(&mut self.nudge) {
            // By now all WAL senders have the setting, which they may not have had the first time.
            connection.query_within(NUDGE, limit).await?;
        }
        let modern = connection.server_version() >= 140_000;
        self.connection = Some(connection);
        let row = rows.first();
        let text = |column| row.and_then(|row: &Row| row.get(column)).unwrap_or_default().to_owned();
        Ok(Inspection {
            standby_names: text(0),
            synchronous_commit: text(1),
            start_time: text(2),
            checkpointer_busy: checkpointer_is_busy(&text(3), modern),
            senders: senders(&text(4)),
            turned_down: serde_json::from_str(&text(5)).unwrap_or_default(),
            flushed: flushed.first().and_then(|row| row.parse(0)).unwrap_or(Lsn(u64::MAX)),
        })
    }

    async fn connected(&mut self) -> patroni_postgres::Result<Connection> {
        match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => Ok(connection),
            None => self.monitor.connect("synchronous").await,
        }
    }

    /// Writes the setting and sees the server take it over.
    pub async fn set(
        &mut self,
        control: Option<&mut Control>,
        names: SynchronousStandbyNames,
        limit: Duration,
    ) -> Outcome<()> {
        let Some(control) = control else { return Outcome::Failed("an action is in progress".to_owned()) };
        let changed = control.conf().set_synchronous_standby_names(names);
        let wanted = control.conf().parameters().text("synchronous_standby_names").unwrap_or_default();
        if let Err(error) = control.reload(changed).await {
            return Outcome::Unknown(error.to_string());
        }
        let limit = limit.min(RELOAD_LIMIT);
        match timeout(limit, self.wait_until_shown(&wanted, limit)).await {
            Ok(Ok(())) => Outcome::Done(()),
            Ok(Err(error)) => Outcome::Unknown(error.to_string()),
            Err(_) => Outcome::Unknown(format!(
                "PostgreSQL does not show '{wanted}' within {}; is it set by ALTER SYSTEM or on the command line?",
                in_words(limit)
            )),
        }
    }

    async fn wait_until_shown(&mut self, wanted: &str, limit: Duration) -> patroni_postgres::Result<()> {
        let connection = self.connected().await?;
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let rows = connection.query_within("SHOW synchronous_standby_names", limit).await?;
            if rows.first().and_then(|row| row.get(0)).unwrap_or_default() == wanted {
                connection.query_within(NUDGE, limit).await?;
                self.nudge = true;
                self.connection = Some(connection);
                return Ok(());
            }
            sleep(RELOAD_POLL).await;
        }
        std::future::pending().await
    }

    /// Watches standbys, or stops that.
    pub fn watch(&mut self, wanted: bool, woken: &Arc<Notify>) {
        let watches = self.watch.as_ref().is_some_and(|task| !task.is_finished());
        if !wanted {
            self.connection = None;
            if let Some(task) = self.watch.take() {
                task.abort();
            }
        } else if !watches {
            self.watch = Some(tokio::spawn(watch(self.monitor.clone(), Arc::clone(woken))));
        }
    }
}

impl Drop for Synchronous {
    fn drop(&mut self) {
        if let Some(task) = self.watch.take() {
            task.abort();
        }
    }
}

/// Ends when the server does not answer; the next tick begins anew.
async fn watch(monitor: Monitor, woken: Arc<Notify>) {
    let Ok(Ok(connection)) = timeout(QUERY_LIMIT, monitor.connect("standbys")).await else {
        return sleep(WATCH_INTERVAL).await;
    };
    let mut seen = None;
    while let Ok(rows) = connection.query_within(STANDBYS, QUERY_LIMIT).await {
        let found = rows.first().and_then(|row| row.get(0)).map(str::to_owned);
        // The first look counts as news too: standbys may have come since the loop looked.
        if seen.as_ref() != Some(&found) {
            woken.notify_one();
            seen = Some(found);
        }
        sleep(WATCH_INTERVAL).await;
    }
}

/// Idle, or between two buffers, it has taken over every reload; at any other work it may not have. Before PostgreSQL 14
/// the pause between buffers is not shown: only the flushing of files, which can take long, counts there.
fn checkpointer_is_busy(wait_event: &str, modern: bool) -> bool {
    if modern {
        !matches!(wait_event, "CheckpointerMain" | "CheckpointWriteDelay")
    } else {
        wait_event.ends_with("Sync")
    }
}

fn senders(json: &str) -> Vec<Sender> {
    let rows: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let lsn = |row: &Value, key: &str| row[key].as_str().and_then(|lsn| lsn.parse::<Lsn>().ok());
    rows.iter()
        .map(|row| Sender {
            name: text(row, "application_name"),
            state: text(row, "state"),
            sync_state: text(row, "sync_state"),
            sync_priority: row["sync_priority"].as_i64().unwrap_or(0),
            written: lsn(row, "write_lsn"),
            flushed: lsn(row, "flush_lsn"),
            replayed: lsn(row, "replay_lsn"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_pg_stat_replication_are_read() {
        let json = r#"[{"application_name":"n1","state":"streaming","sync_state":"sync","sync_priority":1,
            "write_lsn":"0/3","flush_lsn":"0/2","replay_lsn":null}]"#;
        let expected = Sender {
            name: "n1".into(),
            state: "streaming".into(),
            sync_state: "sync".into(),
            sync_priority: 1,
            written: Some(Lsn(3)),
            flushed: Some(Lsn(2)),
            replayed: None,
        };
        assert_eq!(senders(json), [expected]);
        assert_eq!(senders(""), []);
    }

    #[test]
    fn an_idle_checkpointer_has_taken_everything_over() {
        for (event, modern, busy) in [
            ("CheckpointerMain", true, false),
            ("CheckpointWriteDelay", true, false),
            ("", true, true),
            ("DataFileSync", true, true),
            ("", false, false),
            ("DataFileSync", false, true),
        ] {
            assert_eq!(checkpointer_is_busy(event, modern), busy, "{event} {modern}");
        }
    }
}
