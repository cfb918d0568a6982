//! The status document of a node: the body of the health checks and of `/patroni`.

use patroni_core::COMPATIBLE_VERSION;
use patroni_core::JsonMap;
use patroni_core::disk::DISK_KEY;
use patroni_core::health::Status;
use patroni_core::job::JobView;
use patroni_core::request::ScheduledRestart;
use patroni_core::server::{DataDir, Replication, Running, Wal};
use patroni_core::settings::SynchronousMode;
use patroni_core::time::Now;
use patroni_core::view::FAILURE_KEY;
use serde_json::{Value, json};

use crate::log::QueueState;

/// The document.
pub(crate) fn document(status: &Status<'_>, log: QueueState) -> JsonMap {
    let mut document = match status.running() {
        Some(running) => server_part(status, running),
        None => silent_part(status),
    };
    add_cluster_part(status, &mut document);
    add_node_part(status, &mut document);
    if log.queued > log.expected {
        document.insert("logger_queue_size".to_owned(), log.queued.into());
        if log.lost > 0 {
            document.insert("logger_records_lost".to_owned(), log.lost.into());
        }
    }
    document
}

fn silent_part(status: &Status<'_>) -> JsonMap {
    let mut part = JsonMap::new();
    part.insert("state".to_owned(), state_text(status).into());
    part.insert("role".to_owned(), status.role().to_string().into());
    part
}

fn server_part(status: &Status<'_>, running: &Running) -> JsonMap {
    let mut part = JsonMap::new();
    part.insert("state".to_owned(), state_text(status).into());
    part.insert("postmaster_start_time".to_owned(), running.start_time.as_str().into());
    part.insert("role".to_owned(), status.role().to_string().into());
    part.insert("server_version".to_owned(), running.server_version.into());
    part.insert("xlog".to_owned(), xlog(&running.wal));
    match status.synchronous() {
        Some(SynchronousMode::On) => part.insert("sync_standby".to_owned(), true.into()),
        Some(SynchronousMode::Quorum) => part.insert("quorum_standby".to_owned(), true.into()),
        Some(SynchronousMode::Off) | None => None,
    };
    part.insert("timeline".to_owned(), running.timeline.map(|timeline| timeline.0).into());
    if let Some(state) = status.replication_state() {
        part.insert("replication_state".to_owned(), state.into());
    }
    if !running.replication.is_empty() {
        let rows = running.replication.iter().map(replication_row).collect();
        part.insert("replication".to_owned(), Value::Array(rows));
    }
    part
}

fn add_cluster_part(status: &Status<'_>, document: &mut JsonMap) {
    if status.view.settings.paused {
        document.insert("pause".to_owned(), true.into());
    }
    if status.is_unlocked() {
        document.insert("cluster_unlocked".to_owned(), true.into());
    }
    if status.is_failsafe_active() {
        document.insert("failsafe_mode_is_active".to_owned(), true.into());
    }
    document.insert("dcs_last_seen".to_owned(), status.dcs_last_seen_s().into());
}

fn add_node_part(status: &Status<'_>, document: &mut JsonMap) {
    let view = status.view;
    let tags = view.announced_tags();
    if !tags.0.is_empty() {
        document.insert("tags".to_owned(), Value::Object(tags.0));
    }
    if let DataDir::Present(id) = &view.server.data_dir {
        document.insert("database_system_identifier".to_owned(), id.to_string().into());
    }
    if let Some(reason) = status.pending_restart() {
        document.insert("pending_restart".to_owned(), true.into());
        document.insert("pending_restart_reason".to_owned(), Value::Object(reason.clone()));
    }
    let patroni = json!({
        "version": COMPATIBLE_VERSION,
        "scope": view.settings.scope,
        "name": view.settings.name.as_str(),
    });
    document.insert("patroni".to_owned(), patroni);
    if let Some(restart) = &view.scheduled_restart {
        document.insert("scheduled_restart".to_owned(), scheduled_restart(restart));
    }
    if view.watchdog_failed {
        document.insert("watchdog_failed".to_owned(), true.into());
    }
    if let Some(job) = status.job {
        document.insert("job".to_owned(), job_part(job, status.now));
    }
    if let Some(why) = &view.failure {
        document.insert(FAILURE_KEY.to_owned(), why.as_str().into());
    }
    if !view.disks.0.is_empty() {
        document.insert(DISK_KEY.to_owned(), Value::Object(view.disks.document(view.settings.disk.warning)));
    }
    if view.holding {
        document.insert("holding_clients".to_owned(), true.into());
    }
    if !view.settings.unusable.is_empty() {
        document.insert("unusable_settings".to_owned(), view.settings.unusable.clone().into());
    }
    if !view.turned_down.is_empty() {
        document.insert("synchronous_commit_turned_down".to_owned(), view.turned_down.clone().into());
    }
}

fn state_text(status: &Status<'_>) -> String {
    status.state().map_or_else(|| "unknown".to_owned(), |state| state.to_string())
}

fn xlog(wal: &Wal) -> Value {
    match wal {
        Wal::Primary { location } => json!({"location": location.0}),
        Wal::Standby { received, replayed, replayed_timestamp, paused, .. } => json!({
            "received_location": received.or(*replayed).map(|lsn| lsn.0),
            "replayed_location": replayed.map(|lsn| lsn.0),
            "replayed_timestamp": replayed_timestamp,
            "paused": paused,
        }),
    }
}

fn replication_row(row: &Replication) -> Value {
    json!({
        "usename": row.user,
        "application_name": row.application_name,
        "client_addr": row.client_addr,
        "state": row.state,
        "sync_state": row.sync_state,
        "sync_priority": row.sync_priority,
    })
}

/// The long action that runs. Not in Patroni: its readers look for the keys they know.
fn job_part(job: &JobView, now: Now) -> Value {
    let seconds = now.boot.0.saturating_sub(job.since.0).as_secs();
    let mut part = job.shown();
    part.insert("seconds".to_owned(), seconds.into());
    Value::Object(part)
}

/// The request as it was made, with its time as it was understood.
fn scheduled_restart(restart: &ScheduledRestart) -> Value {
    let mut shown = restart.raw.clone();
    shown.shift_remove("postmaster_start_time");
    shown.insert("schedule".to_owned(), restart.at_text.as_str().into());
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use patroni_core::request::RestartConditions;
    use patroni_core::time::WallTime;
    use patroni_core::view::View;

    use super::super::sample;
    use super::*;

    fn text(view: &View, running: Option<&Running>) -> String {
        let server = sample::answer(running);
        let status = Status::new(view, true, &server, sample::NOW);
        patroni_core::json::spaced(&Value::Object(document(&status, QueueState::default())))
    }

    /// Bodies of Patroni 4.1.5 as recorded, for the same nodes.
    #[test]
    fn documents_are_patronis() {
        let tail = r#""dcs_last_seen": 1795398572, "tags": {"clonefrom": true, "datacenter": "eu 1", "rack": 7}, "database_system_identifier": "7711177507295976209", "patroni": {"version": "4.1.5", "scope": "batman", "name": "postgresql"#;
        let primary = sample::view("postgresql0", sample::primary());
        let head = r#"{"state": "running", "postmaster_start_time": "2026-11-23 01:48:43.649964+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 67108960}, "timeline": 1, "replication": [{"usename": "replicator", "application_name": "postgresql1", "client_addr": "127.0.0.1", "state": "streaming", "sync_state": "async", "sync_priority": 0}], "#;
        assert_eq!(text(&primary, Some(&sample::primary())), format!("{head}{tail}0\"}}}}"));

        let standby = sample::view("postgresql1", sample::standby());
        let head = r#"{"state": "running", "postmaster_start_time": "2026-11-23 01:49:27.907407+00:00", "role": "replica", "server_version": 150018, "xlog": {"received_location": 67108960, "replayed_location": 67108960, "replayed_timestamp": null, "paused": false}, "timeline": 1, "replication_state": "streaming", "#;
        assert_eq!(text(&standby, Some(&sample::standby())), format!("{head}{tail}1\"}}}}"));

        let mut scheduled = primary.clone();
        scheduled.scheduled_restart = Some(ScheduledRestart {
            at: WallTime(0),
            at_text: "2030-01-01T00:00:00+00:00".to_owned(),
            conditions: RestartConditions::default(),
            raw: sample::map(
                json!({"postmaster_start_time": "x", "schedule": "2030-01-01T00:00Z", "restart_pending": true}),
            ),
            postmaster_start_time: None,
        });
        let head = r#"{"state": "unknown", "role": "primary", "#;
        let schedule = r#""scheduled_restart": {"schedule": "2030-01-01T00:00:00+00:00", "restart_pending": true}"#;
        assert_eq!(text(&scheduled, None), format!("{head}{tail}0\"}}, {schedule}}}"));
    }

    #[test]
    fn what_is_unusual_is_told() {
        let mut view = sample::troubled();
        let mut running = view.running().expect("it runs").clone();
        // The answer of a probe alone does not know what waits for a restart.
        running.pending_restart.clear();
        let server = sample::answer(Some(&running));
        let status = Status::new(&view, true, &server, sample::NOW);
        let document = document(&status, QueueState { queued: 3, expected: 2, lost: 1 });
        for (key, value) in [
            ("pause", json!(true)),
            ("cluster_unlocked", json!(true)),
            ("failsafe_mode_is_active", json!(true)),
            ("watchdog_failed", json!(true)),
            ("quorum_standby", json!(true)),
            ("timeline", Value::Null),
            ("pending_restart", json!(true)),
            ("pending_restart_reason", json!({"max_connections": {"old_value": "100", "new_value": "101"}})),
            ("logger_queue_size", json!(3)),
            ("logger_records_lost", json!(1)),
        ] {
            assert_eq!(document.get(key), Some(&value), "{key}");
        }
        let job = json!({"title": "bootstrap from leader 'a'", "seconds": 7, "progress": "copied 12 MB from a"});
        assert_eq!(document.get("job"), Some(&job));
        // A snapshot that is too old is none.
        view.dcs_last_seen = Some(WallTime(sample::NOW.wall.0 - 30_000));
        assert!(Status::new(&view, true, &server, sample::NOW).cluster().is_none());
    }
}
