//! The rules of the health checks: which of them answers 200 in which state.
//!
//! As in Patroni a check is recognised by a word anywhere in the path (`/replica`, `/my/replica`), and any other path
//! is answered 503 with the status document.

use std::time::Duration;

use patroni_core::python::PythonText;
use patroni_core::server::{Role, State, Wal};
use patroni_core::settings::SynchronousMode;
use patroni_core::time::Now;
use patroni_core::units::parse_int;
use patroni_core::view::View;
use serde_json::Value;

use super::query::Query;
use super::status::Status;

/// Does the health check of this path pass?
pub(crate) fn passes(path: &str, query: &Query, status: &Status<'_>) -> bool {
    let path = if path == "/" { "/primary" } else { path };
    let has = |word: &str| path.contains(word);
    let leader = Leadership::of(status);
    if has("standby_leader") || has("standby-leader") {
        return leader.standby_leader;
    }
    if has("leader") {
        return leader.leader;
    }
    if has("master") || has("primary") || has("read-write") {
        return leader.primary;
    }
    let replica = leader.replica_allowed && is_replica(query, status);
    let writes = leader.primary || leader.standby_leader;
    let passed = if has("replica") {
        replica
    } else if has("read-only") && !has("sync") && !has("quorum") {
        writes || replica
    } else if has("health") {
        status.is_running()
    } else {
        status.cluster().is_some() && passes_synchronous(path, status.synchronous(), writes, replica)
    };
    passed && tags_match(query, status.view)
}

/// Does the status of this check depend on what PostgreSQL says now? That of the lease does not, as a rule: a load
/// balancer learns it in no time even where PostgreSQL hangs.
pub(crate) fn needs_server(path: &str, status: &Status<'_>) -> bool {
    let of_lease = path == "/" || ["leader", "master", "primary", "read-write"].iter().any(|word| path.contains(word));
    let by_role = status.is_standby_cluster() || status.view.settings.paused && status.cluster().is_none();
    !of_lease || by_role
}

/// Why a node is not ready (`/readiness`); `None` if it is.
pub(crate) fn readiness(query: &Query, status: &Status<'_>) -> Option<String> {
    let view = status.view;
    if view.is_leader(status.now.boot) {
        return None;
    }
    let Some(running) = status.running.filter(|_| view.state == State::Running) else {
        return Some("PostgreSQL is not running".to_owned());
    };
    if status.replication_state() != Some("streaming") {
        return Some("PostgreSQL replication state is not streaming".to_owned());
    }
    if status.cluster().is_none() && status.latest_end().is_none() {
        return (!status.is_failsafe_active()).then(|| "DCS is not accessible".to_owned());
    }
    let by_write = query.get("mode") == Some("write");
    let location = match &running.wal {
        Wal::Standby { received, replayed, .. } if by_write => received.or(*replayed),
        Wal::Standby { replayed, .. } => *replayed,
        Wal::Primary { .. } => None,
    };
    let lag = i128::from(status.leader_lsn().0) - i128::from(location.unwrap_or_default().0);
    let limit = query.get("lag").and_then(|lag| parse_int(lag, Some("B")));
    let limit = limit.map_or_else(|| i128::from(view.settings.maximum_lag_on_failover), i128::from);
    let mode = if by_write { "write" } else { "apply" };
    (lag > limit).then(|| format!("Replication {mode} lag {lag} exceeds maximum allowable {limit}"))
}

/// The loop still turns (`/liveness`): on a primary it may stand still for `ttl`, on others for twice that; in pause
/// for as long as it likes.
pub(crate) fn is_alive(view: &View, now: Now) -> bool {
    let settings = &view.settings;
    let is_primary = view.role == Role::Primary && view.state == State::Running;
    let patience = if is_primary { settings.ttl } else { settings.ttl * 2 };
    settings.paused || now.boot.since(view.ticked_at) < settings.loop_wait.max(Duration::from_secs(1)) + patience
}

/// What leadership says about the checks that look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leadership {
    leader: bool,
    primary: bool,
    standby_leader: bool,
    /// The leader of a standby cluster is no replica, though PostgreSQL takes it for one; nor is a former primary whose
    /// clients are held back.
    replica_allowed: bool,
}

impl Leadership {
    fn of(status: &Status<'_>) -> Self {
        let role = status.role();
        let nobody = Leadership { leader: false, primary: false, standby_leader: false, replica_allowed: true };
        if status.cluster().is_none() && status.view.settings.paused {
            let (primary, standby_leader) = (role == Role::Primary, role == Role::StandbyLeader);
            return Leadership { leader: primary || standby_leader, primary, standby_leader, ..nobody };
        }
        if !status.view.is_leader(status.now.boot) {
            return nobody;
        }
        if status.view.holding {
            return Leadership { replica_allowed: false, ..nobody };
        }
        if status.is_standby_cluster() {
            let standby_leader = matches!(role, Role::Replica | Role::StandbyLeader);
            return Leadership { leader: true, standby_leader, replica_allowed: false, ..nobody };
        }
        Leadership { leader: true, primary: true, ..nobody }
    }
}

fn is_replica(query: &Query, status: &Status<'_>) -> bool {
    let view = status.view;
    !view.settings.tags.noloadbalance()
        && status.is_running()
        && status.role() == Role::Replica
        && !is_lagging(query, status)
}

fn is_lagging(query: &Query, status: &Status<'_>) -> bool {
    // A limit that cannot be read is none.
    let Some(limit) = query.get("lag").and_then(|lag| parse_int(lag, Some("B"))) else { return false };
    let replayed = match status.running.map(|running| &running.wal) {
        Some(Wal::Standby { replayed, .. }) => replayed.unwrap_or_default().0,
        Some(Wal::Primary { .. }) | None => 0,
    };
    let leader = status.leader_lsn().0;
    leader > 0 && i128::from(leader) > i128::from(replayed) + i128::from(limit)
}

fn passes_synchronous(path: &str, mode: Option<SynchronousMode>, writes: bool, replica: bool) -> bool {
    let synchronous = mode == Some(SynchronousMode::On);
    let quorum = mode == Some(SynchronousMode::Quorum);
    match path {
        "/sync" | "/synchronous" => synchronous && replica,
        "/quorum" => quorum && replica,
        "/async" | "/asynchronous" => !synchronous && !quorum && replica,
        "/read-only-quorum" => writes || quorum && replica,
        "/read-only-sync" | "/read-only-synchronous" => writes || synchronous && replica,
        _ => false,
    }
}

/// Every `tag_KEY=VALUE` of the query is a tag of this node. Texts are compared as they are, other values as Python
/// prints them, in lower case.
fn tags_match(query: &Query, view: &View) -> bool {
    let wanted = query.iter().filter_map(|(name, value)| Some((name.strip_prefix("tag_")?, value)));
    wanted.into_iter().all(|(name, value)| match view.settings.tags.0.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => text == value,
        Some(other) => other.python_text().to_lowercase() == value,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use patroni_core::cluster::SyncState;
    use patroni_core::lsn::Lsn;
    use patroni_core::name::MemberName;
    use patroni_core::server::Running;
    use patroni_core::settings::{Settings, StandbyCluster};
    use serde_json::json;

    use super::super::sample;
    use super::*;

    /// A node in some state, and which of these checks pass there.
    struct Row {
        node: &'static str,
        view: View,
        running: Option<Running>,
        passing: &'static str,
    }

    const CHECKS: [&str; 20] = [
        "/",
        "/primary",
        "/master",
        "/read-write",
        "/leader",
        "/standby-leader",
        "/standby_leader",
        "/replica",
        "/read-only",
        "/synchronous",
        "/sync",
        "/read-only-sync",
        "/quorum",
        "/read-only-quorum",
        "/asynchronous",
        "/async",
        "/health",
        "/patroni-of-old",
        "/my/replica",
        "/sync/x",
    ];

    fn with(view: &View, change: impl FnOnce(&mut Settings)) -> View {
        let mut view = view.clone();
        change(Arc::make_mut(&mut view.settings));
        view
    }

    fn sync(mut view: View) -> View {
        let mut cluster = sample::cluster();
        let (leader, standby) = (MemberName::from("postgresql0"), MemberName::from("postgresql1"));
        cluster.sync = SyncState { leader: Some(leader), standbys: vec![standby], ..SyncState::default() };
        view.cluster = Some(Arc::new(cluster));
        view
    }

    fn rows() -> Vec<Row> {
        let primary = sample::view("postgresql0", sample::primary());
        let standby = sample::view("postgresql1", sample::standby());
        let writes = "/ /primary /master /read-write /leader /read-only /read-only-sync /read-only-quorum /health";
        let reads = "/replica /read-only /asynchronous /async /health /my/replica";
        let row = |node, view: View, running, passing| Row { node, view, running, passing };
        let (up, follows) = (Some(sample::primary()), Some(sample::standby()));
        let on = with(&standby, |s| s.synchronous.mode = SynchronousMode::On);
        let quorum = with(&standby, |s| s.synchronous.mode = SynchronousMode::Quorum);
        let paused = with(&primary, |s| s.paused = true);
        let remote = |view: &View| with(view, |s| s.standby_cluster = Some(StandbyCluster::default()));
        let standby_leader = View { lease_until: primary.lease_until, role: Role::StandbyLeader, ..remote(&standby) };
        let dark = |view: &View| View { dcs_last_seen: None, ..view.clone() };
        vec![
            row("primary", primary.clone(), up.clone(), writes),
            row("replica", standby.clone(), follows.clone(), reads),
            row("primary, silent", primary.clone(), None, &writes[..writes.len() - 8]),
            row("primary without lock", View { lease_until: None, ..primary.clone() }, up.clone(), "/health"),
            row("lease over", View { lease_until: Some(sample::NOW.boot), ..primary.clone() }, up.clone(), "/health"),
            row("replica, silent", standby.clone(), None, ""),
            row("starting", View { state: State::Starting, ..standby.clone() }, follows.clone(), ""),
            row("stopped", View { state: State::Stopped, ..standby.clone() }, follows.clone(), ""),
            row(
                "noloadbalance",
                with(&standby, |s| s.tags.0 = sample::map(json!({"noloadbalance": true}))),
                follows.clone(),
                "/health",
            ),
            row(
                "synchronous",
                sync(on.clone()),
                follows.clone(),
                "/replica /read-only /synchronous /sync /read-only-sync /health /my/replica",
            ),
            row("not synchronous", on, follows.clone(), reads),
            row(
                "quorum",
                sync(quorum),
                follows.clone(),
                "/replica /read-only /quorum /read-only-quorum /health /my/replica",
            ),
            row("sync key without mode", sync(standby.clone()), follows.clone(), reads),
            row(
                "standby leader",
                standby_leader.clone(),
                follows.clone(),
                "/leader /standby-leader /standby_leader /read-only /read-only-sync /read-only-quorum /health",
            ),
            row("replica of a standby cluster", remote(&standby), follows.clone(), reads),
            row(
                "paused, no store",
                dark(&paused),
                up.clone(),
                "/ /primary /master /read-write /leader /read-only /health",
            ),
            row(
                "paused, no store, no lock",
                View { lease_until: None, ..dark(&paused) },
                up,
                "/ /primary /master /read-write /leader /read-only /health",
            ),
            row("replica, no store", dark(&standby), follows, "/replica /read-only /health /my/replica"),
        ]
    }

    #[test]
    fn each_check_in_each_state() {
        for row in rows() {
            let status = Status::new(&row.view, row.running.as_ref(), sample::NOW);
            let passing: Vec<_> = CHECKS.into_iter().filter(|path| passes(path, &Query::default(), &status)).collect();
            assert_eq!(passing.join(" "), row.passing, "{}", row.node);
            let silent = Status::new(&row.view, None, sample::NOW);
            for path in CHECKS.into_iter().filter(|path| !needs_server(path, &silent)) {
                let passed = passing.contains(&path);
                assert_eq!(passes(path, &Query::default(), &silent), passed, "{} {path}, not asked", row.node);
            }
        }
    }

    #[test]
    fn lag_and_tags() {
        let standby = sample::view("postgresql1", sample::standby());
        let mut behind = sample::standby();
        if let Wal::Standby { replayed, latest_end, .. } = &mut behind.wal {
            (*replayed, *latest_end) = (Some(Lsn(67_108_960 - 16 * 1024)), Some(Lsn(67_108_961)));
        }
        let rows = [
            ("lag=16385", true),
            ("lag=16384", false),
            ("lag=16kB", false),
            ("lag=17kB", true),
            ("lag=1MB", true),
            ("lag=1GB", true),
            ("lag=1TB", true),
            ("lag=0.5MB", true),
            ("lag=16KB", true),
            ("lag=nonsense", true),
            ("lag=", true),
            ("lag=-1", false),
            ("tag_rack=7", true),
            ("tag_rack=8", false),
            ("tag_rack=7.0", false),
            ("tag_clonefrom=true", true),
            ("tag_clonefrom=True", false),
            ("tag_datacenter=eu+1", true),
            ("tag_datacenter=eu+1&tag_rack=7", true),
            ("tag_datacenter=eu+1&tag_rack=8", false),
            ("tag_x=1", false),
            ("tag_x=", true),
            ("other=1", true),
        ];
        for (text, expected) in rows {
            let query = Query::parse(text);
            let status = Status::new(&standby, Some(&behind), sample::NOW);
            assert_eq!(passes("/replica", &query, &status), expected, "{text}");
            let primary = sample::view("postgresql0", sample::primary());
            let running = sample::primary();
            assert!(passes("/primary", &query, &Status::new(&primary, Some(&running), sample::NOW)), "{text}");
        }
    }

    #[test]
    fn readiness_tells_why_not() {
        let standby = sample::view("postgresql1", sample::standby());
        let dark = View { dcs_last_seen: None, ..standby.clone() };
        let change = |change: fn(&mut Wal)| {
            let mut running = sample::standby();
            change(&mut running.wal);
            running
        };
        let behind = change(|wal| {
            if let Wal::Standby { replayed, .. } = wal {
                *replayed = Some(Lsn(60_000_000))
            }
        });
        let archive = change(|wal| {
            if let Wal::Standby { replication_state, .. } = wal {
                *replication_state = None
            }
        });
        let good = sample::standby();
        let rows = [
            (&standby, Some(&good), "", ""),
            (&standby, None, "", "PostgreSQL is not running"),
            (&standby, Some(&archive), "", "PostgreSQL replication state is not streaming"),
            (&dark, Some(&good), "", "DCS is not accessible"),
            (&standby, Some(&behind), "", "Replication apply lag 7108960 exceeds maximum allowable 1048576"),
            (&standby, Some(&behind), "lag=8000000", ""),
            (&standby, Some(&behind), "mode=write", ""),
            (
                &standby,
                Some(&behind),
                "mode=apply&lag=1kB",
                "Replication apply lag 7108960 exceeds maximum allowable 1024",
            ),
        ];
        for (view, running, query, reason) in rows {
            let found = readiness(&Query::parse(query), &Status::new(view, running, sample::NOW));
            assert_eq!(found.unwrap_or_default(), reason, "{query}");
        }
        let leader = sample::view("postgresql0", sample::primary());
        assert_eq!(readiness(&Query::default(), &Status::new(&leader, None, sample::NOW)), None);
    }

    #[test]
    fn a_loop_that_stands_still_is_not_alive() {
        let later = |seconds| Now { boot: sample::NOW.boot + Duration::from_secs(seconds), ..sample::NOW };
        let primary = sample::view("postgresql0", sample::primary());
        let standby = sample::view("postgresql1", sample::standby());
        assert!(is_alive(&primary, later(31)) && !is_alive(&primary, later(32)));
        assert!(is_alive(&standby, later(61)) && !is_alive(&standby, later(62)));
        assert!(is_alive(&with(&primary, |s| s.paused = true), later(9999)));
    }
}
