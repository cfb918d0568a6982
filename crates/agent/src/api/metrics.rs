//! `GET /metrics`: the metrics of Patroni, in its order and with its texts, and after them our own.

use jiff::Timestamp;
use patroni_core::COMPATIBLE_VERSION;
use patroni_core::health::Status;
use patroni_core::lsn::Lsn;
use patroni_core::python::float_text;
use patroni_core::server::{Role, Wal};
use patroni_core::settings::SynchronousMode;
use patroni_core::view::View;

use super::exposition::{Form, Page};
use crate::metrics::{Metrics, StoreCall};

/// The names of the states as the help text of `patroni_postgres_state` lists them.
const STATES: &str = "0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, 4=creating_replica, \
                      5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, 9=restarting, 10=restart_failed, \
                      11=stopping, 12=stopped, 13=stop_failed, 14=crashed";

/// The whole page, in this form.
pub(crate) fn page(status: &Status<'_>, metrics: &Metrics, form: Form) -> String {
    let settings = &status.view.settings;
    let labels = format!("scope=\"{}\",name=\"{}\"", settings.scope, settings.name);
    let mut page = Page::new(labels, form);
    page.server(status);
    page.positions(status);
    page.cluster(status);
    page.own(status);
    page.measured(metrics);
    page.end()
}

impl Page {
    fn server(&mut self, status: &Status<'_>) {
        self.gauge("patroni_version", "Patroni semver without periods.", version());
        self.flag("patroni_postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", status.is_running());
        let started = status.running().map(|running| running.start_time.as_str());
        self.gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", epoch_seconds(started));
        let role = status.role();
        self.flag("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", role == Role::Primary);
        let location = match status.running().map(|running| &running.wal) {
            Some(Wal::Primary { location }) => location.0,
            Some(Wal::Standby { .. }) | None => 0,
        };
        self.metric(
            "patroni_xlog_location",
            "counter",
            "Current location of the Postgres transaction log, 0 if this node is not the leader.",
            location,
        );
        self.flag(
            "patroni_standby_leader",
            "Value is 1 if this node is the standby_leader, 0 otherwise.",
            role == Role::StandbyLeader,
        );
        self.flag("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", role == Role::Replica);
        let synchronous = status.synchronous();
        self.flag(
            "patroni_sync_standby",
            "Value is 1 if this node is a sync standby, 0 otherwise.",
            synchronous == Some(SynchronousMode::On),
        );
        self.flag(
            "patroni_quorum_standby",
            "Value is 1 if this node is a quorum standby, 0 otherwise.",
            synchronous == Some(SynchronousMode::Quorum),
        );
    }

    fn positions(&mut self, status: &Status<'_>) {
        let (received, replayed, timestamp, paused) = match status.running().map(|running| &running.wal) {
            Some(Wal::Standby { received, replayed, replayed_timestamp, paused, .. }) => {
                (received.or(*replayed), *replayed, replayed_timestamp.as_deref(), *paused)
            }
            Some(Wal::Primary { .. }) | None => (None, None, None, false),
        };
        self.metric(
            "patroni_xlog_received_location",
            "counter",
            "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
            received.unwrap_or_default().0,
        );
        self.metric(
            "patroni_xlog_replayed_location",
            "counter",
            "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
            replayed.unwrap_or_default().0,
        );
        self.gauge(
            "patroni_xlog_replayed_timestamp",
            "Current timestamp of the replayed Postgres transaction log, 0 if null.",
            epoch_seconds(timestamp),
        );
        self.flag("patroni_xlog_paused", "Value is 1 if the Postgres xlog is paused, 0 otherwise.", paused);
        if status.running().is_some() {
            let state = status.replication_state();
            self.flag(
                "patroni_postgres_streaming",
                "Value is 1 if Postgres is streaming, 0 otherwise.",
                state == Some("streaming"),
            );
            self.flag(
                "patroni_postgres_in_archive_recovery",
                "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
                state == Some("in archive recovery"),
            );
        }
    }

    fn cluster(&mut self, status: &Status<'_>) {
        self.gauge(
            "patroni_postgres_server_version",
            "Version of Postgres (if running), 0 otherwise.",
            status.running().map_or(0, |running| running.server_version),
        );
        self.flag(
            "patroni_cluster_unlocked",
            "Value is 1 if the cluster is unlocked, 0 if locked.",
            status.is_unlocked(),
        );
        self.flag(
            "patroni_failsafe_mode_is_active",
            "Value is 1 if failsafe mode is active, 0 if inactive.",
            status.is_failsafe_active(),
        );
        let timeline = status.running().and_then(|running| running.timeline).map_or(0, |timeline| timeline.0);
        self.gauge("patroni_postgres_timeline", "Postgres timeline of this node (if running), 0 otherwise.", timeline);
        self.gauge(
            "patroni_dcs_last_seen",
            "Epoch timestamp when DCS was last contacted successfully by Patroni.",
            status.dcs_last_seen_s(),
        );
        self.flag(
            "patroni_pending_restart",
            "Value is 1 if the node needs a restart, 0 otherwise.",
            status.pending_restart().is_some(),
        );
        self.flag(
            "patroni_is_paused",
            "Value is 1 if auto failover is disabled, 0 otherwise.",
            status.view.settings.paused,
        );
        self.with_values(
            "patroni_postgres_state",
            "Numeric representation of Postgres state.",
            STATES,
            status.state().map_or(-1, |state| state as i32),
        );
    }

    /// What Patroni does not have.
    fn own(&mut self, status: &Status<'_>) {
        let view = status.view;
        let left = view.lease_until.map_or(0.0, |until| until.since(status.now.boot).as_secs_f64());
        self.gauge(
            "patroni_rs_lease_remaining_seconds",
            "Seconds until the leader lease of this node ends, 0 without one.",
            left,
        );
        let age = if left > 0.0 { view.settings.ttl.as_secs_f64() - left } else { 0.0 };
        self.gauge(
            "patroni_rs_lease_age_seconds",
            "Seconds since this node last renewed its lease, 0 without one.",
            age.max(0.0),
        );
        self.metric("patroni_rs_ticks_total", "counter", "Ticks of the HA loop since the agent started.", view.ticks);
        let age = status.now.boot.since(view.ticked_at).as_secs_f64();
        self.gauge("patroni_rs_last_tick_age_seconds", "Seconds since the HA loop last ended a tick.", age);
        self.flag(
            "patroni_rs_holding_clients",
            "Value is 1 while this former primary waits for its standbys to have all its WAL, 0 otherwise.",
            view.holding,
        );
        self.gauge(
            "patroni_rs_synchronous_commit_turned_down",
            "Settings of synchronous_commit (server, databases, roles) with which commits do not wait for standbys.",
            view.turned_down.len(),
        );
        self.disks(view);
        let Some(running) = status.running() else { return };
        if let Wal::Primary { location } = running.wal {
            self.head("patroni_rs_replication_lag_bytes", "gauge", "WAL a connected standby has not yet flushed.");
            for row in &running.replication {
                let lag = row.flush_lsn.map_or(0, |flushed| location.0.saturating_sub(flushed.0));
                self.labelled("patroni_rs_replication_lag_bytes", &[("application_name", &row.application_name)], lag);
            }
        }
        if let Wal::Standby { replayed, .. } = running.wal {
            let lag = status.leader_lsn().0.saturating_sub(replayed.unwrap_or_default().0);
            self.gauge("patroni_rs_replay_lag_bytes", "WAL of the leader that this standby has not yet replayed.", lag);
        }
        let name = "patroni_rs_slot_at_risk";
        self.head(name, "gauge", "1 for a logical slot that a failover from or to this node would lose.");
        for (slot, risk) in &view.slots_at_risk {
            self.labelled(name, &[("slot", slot), ("reason", &risk.to_string())], 1);
        }
        let end = running.wal.position();
        self.head("patroni_rs_slot_retained_bytes", "gauge", "WAL that a replication slot keeps from being removed.");
        for (name, slot) in &running.slots {
            let kept = slot.restart_lsn.map_or(0, |Lsn(start)| end.0.saturating_sub(start));
            self.labelled("patroni_rs_slot_retained_bytes", &[("slot", name)], kept);
        }
    }
}

impl Page {
    fn disks(&mut self, view: &View) {
        let known = || view.disks.0.iter().filter_map(|(place, room)| Some((place.key(), room.as_ref().ok()?)));
        self.head(
            "patroni_rs_disk_free_bytes",
            "gauge",
            "Room that is left for PostgreSQL's user on the disk of a place.",
        );
        for (place, room) in known() {
            self.labelled("patroni_rs_disk_free_bytes", &[("place", &place)], room.free);
        }
        self.head("patroni_rs_disk_size_bytes", "gauge", "Size of the disk of a place.");
        for (place, room) in known() {
            self.labelled("patroni_rs_disk_size_bytes", &[("place", &place)], room.total);
        }
        let name = "patroni_rs_disk_state";
        self.head(name, "gauge", "How full a place is: 0=ok, 1=low (disk_free_warning), 2=full, 3=not known.");
        for (place, room) in &view.disks.0 {
            let state = room.as_ref().map_or(3, |room| room.fill(view.settings.disk.warning) as u8);
            self.labelled(name, &[("place", &place.key())], state);
        }
    }

    /// What the loop measured.
    fn measured(&mut self, metrics: &Metrics) {
        self.head("patroni_rs_tick_duration_seconds", "histogram", "How long a tick of the HA loop took.");
        self.histogram("patroni_rs_tick_duration_seconds", &[], &metrics.ticks);
        let name = "patroni_rs_store_request_duration_seconds";
        self.head(name, "histogram", "How long the store took to answer the HA loop.");
        for call in StoreCall::ALL {
            self.histogram(name, &[("operation", call.name())], metrics.store(call));
        }
        let failovers = metrics.failovers.read().1;
        self.metric(
            "patroni_rs_failovers_total",
            "counter",
            "How often this node took over as primary since the agent started, planned or not.",
            failovers,
        );
        let name = "patroni_rs_failover_duration_seconds";
        self.head(name, "histogram", "From when this node saw no leader until it was primary.");
        self.histogram(name, &[], &metrics.failovers);
    }
}

/// 4.1.5 is 040105.
fn version() -> String {
    COMPATIBLE_VERSION.split('.').map(|part| format!("{part:0>2}")).collect()
}

/// Seconds since 1970 of a time as PostgreSQL and Patroni print it, as Python prints such a number; 0 without one.
fn epoch_seconds(time: Option<&str>) -> String {
    match time.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(time) => float_text(time.as_microsecond() as f64 / 1e6),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use patroni_core::health::NO_ANSWER;
    use patroni_core::slots::Risk;
    use patroni_core::time::WallTime;

    use super::super::sample;
    use super::*;

    /// The pages of Patroni 4.1.5, recorded, are how ours begin.
    #[test]
    fn patronis_metrics_come_first() {
        let standby = sample::view("postgresql1", sample::standby());
        let primary = sample::view("postgresql0", sample::primary());
        let rows = [
            (primary, sample::primary(), 1_795_398_573_999, include_str!("golden/metrics_primary.txt")),
            (standby, sample::standby(), 1_795_398_574_000, include_str!("golden/metrics_standby.txt")),
        ];
        for (mut view, running, seen, golden) in rows {
            view.dcs_last_seen = Some(WallTime(seen));
            let server = sample::answer(Some(&running));
            let page = page(&Status::new(&view, true, &server, sample::NOW), &Metrics::default(), Form::Prometheus);
            let ours: Vec<_> = page.lines().take(golden.lines().count()).collect();
            assert_eq!(ours, golden.lines().collect::<Vec<_>>());
        }
    }

    #[test]
    fn our_metrics_are_documented() {
        let documentation = include_str!("../../../../docs/rest-api.md");
        for running in [sample::primary(), sample::standby()] {
            let view = sample::view("postgresql0", running.clone());
            let server = sample::answer(Some(&running));
            let page = page(&Status::new(&view, true, &server, sample::NOW), &Metrics::default(), Form::Prometheus);
            let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE patroni_rs_")?.split_once(' '));
            for (name, kind) in types {
                let row = documentation.lines().find(|line| {
                    let rest = line.strip_prefix("| `patroni_rs_").and_then(|rest| rest.strip_prefix(name));
                    rest.is_some_and(|rest| rest.starts_with(['`', '{']))
                });
                assert!(
                    row.is_some_and(|row| row.contains(&format!("| {kind} |"))),
                    "patroni_rs_{name} {kind}: {row:?}"
                );
            }
        }
    }

    /// What alerts and dashboard ask for is there. (A slot at risk and a standby's lag have rows of their own.)
    #[test]
    fn alerts_and_dashboard_name_metrics_that_exist() {
        let extras = [
            include_str!("../../../../extras/monitoring/rules.yml"),
            include_str!("../../../../extras/monitoring/dashboard.json"),
            include_str!("../../../../extras/monitoring/stories.yml"),
        ];
        let mut known = std::collections::BTreeSet::new();
        for running in [sample::primary(), sample::standby()] {
            let view = sample::view("postgresql0", running.clone());
            let server = sample::answer(Some(&running));
            let page = page(&Status::new(&view, true, &server, sample::NOW), &Metrics::default(), Form::Prometheus);
            // Heads and samples: those without a sample here have a head, and the parts of a histogram have samples.
            let heads = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
            known.extend(heads.map(|(name, _)| name.to_owned()));
            known.extend(page.lines().filter_map(|line| Some(line.split_once('{')?.0.to_owned())));
        }
        let is_part = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
        let mut asked = 0;
        for name in extras.iter().flat_map(|text| text.split(is_part)).filter(|word| word.starts_with("patroni_")) {
            assert!(known.contains(name), "{name}");
            asked += 1;
        }
        assert!(asked > 50, "{asked}");
    }

    #[test]
    fn a_slot_at_risk_is_counted() {
        let mut view = sample::view("postgresql1", sample::standby());
        let lines = |view: &View| {
            let server = sample::answer(Some(&sample::standby()));
            let page = page(&Status::new(view, true, &server, sample::NOW), &Metrics::default(), Form::Prometheus);
            page.lines()
                .filter(|line| line.starts_with("patroni_rs_slot_at_risk"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(&view), [""; 0]);
        view.slots_at_risk.insert("cdc".to_owned(), Risk::NotCopied);
        let labels = r#"{scope="batman",name="postgresql1",slot="cdc",reason="not copied from the primary yet"}"#;
        assert_eq!(lines(&view), [format!("patroni_rs_slot_at_risk{labels} 1")]);
    }

    #[test]
    fn a_silent_server_has_no_numbers() {
        let view = sample::view("postgresql0", sample::primary());
        let metrics = Metrics::default();
        metrics.store(StoreCall::Load).record(Duration::from_millis(20));
        metrics.failovers.record(Duration::from_secs(3));
        let page = page(&Status::new(&view, true, &NO_ANSWER, sample::NOW), &metrics, Form::Prometheus);
        let value = |name: &str| page.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        let labels = "{scope=\"batman\",name=\"postgresql0\"}";
        assert_eq!(value("patroni_postgres_state{"), format!("patroni_postgres_state{labels} -1"));
        assert_eq!(value("patroni_postmaster_start_time{"), format!("patroni_postmaster_start_time{labels} 0"));
        assert_eq!(value("patroni_postgres_streaming"), "");
        let last = |name: &str| value(name).rsplit_once(' ').map(|(_, value)| value.to_owned()).unwrap_or_default();
        assert_eq!(last("patroni_rs_failovers_total"), "1");
        assert_eq!(last("patroni_rs_failover_duration_seconds_sum"), "3");
        let bucket = r#"patroni_rs_store_request_duration_seconds_bucket{scope="batman",name="postgresql0",operation="load",le=""#;
        assert_eq!((last(&format!("{bucket}0.01\"")), last(&format!("{bucket}0.025\""))), ("0".into(), "1".into()));
        assert_eq!(last(&format!("{bucket}+Inf\"")), "1");
    }
}
