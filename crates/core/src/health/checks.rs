//! The rules of the health checks: which of them answers 200 in which state.
//!
//! As in Patroni a check is recognised by a word anywhere in the path (`/replica`, `/my/replica`), and any other path
//! is answered 503 with the status document.

use std::time::Duration;

use serde_json::Value;

use super::{Query, Status};
use crate::python::PythonText;
use crate::server::{Role, State, Wal};
use crate::settings::SynchronousMode;
use crate::time::Now;
use crate::units::parse_int;
use crate::view::View;

/// Does the health check of this path pass?
pub fn passes(path: &str, query: &Query, status: &Status<'_>) -> bool {
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

/// Is this check one of the lease? Then the server is not waited for long: a load balancer learns in no time who leads, even
/// where PostgreSQL hangs. What was known of it goes on counting.
pub fn is_of_lease(path: &str) -> bool {
    path == "/" || ["leader", "master", "primary", "read-write"].iter().any(|word| path.contains(word))
}

/// Why a node is not ready (`/readiness`); `None` if it is.
pub fn readiness(query: &Query, status: &Status<'_>) -> Option<String> {
    let view = status.view;
    if view.is_leader(status.now.boot) {
        return None;
    }
    let Some(running) = status.running().filter(|_| status.is_running()) else {
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
pub fn is_alive(view: &View, now: Now) -> bool {
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
        let nobody = Leadership { leader: false, primary: false, standby_leader: false, replica_allowed: true };
        // Whoever holds the lease is the leader; the other words are for one whose server can be used as such.
        let is = |roles: &[Role]| status.is_up() && roles.contains(&status.role());
        if status.cluster().is_none() && status.view.settings.paused {
            let (primary, standby_leader) = (is(&[Role::Primary]), is(&[Role::StandbyLeader]));
            return Leadership { leader: primary || standby_leader, primary, standby_leader, ..nobody };
        }
        if !status.view.is_leader(status.now.boot) {
            return nobody;
        }
        if status.view.holding {
            return Leadership { replica_allowed: false, ..nobody };
        }
        if status.is_standby_cluster() {
            let standby_leader = is(&[Role::Replica, Role::StandbyLeader]);
            return Leadership { leader: true, standby_leader, replica_allowed: false, ..nobody };
        }
        Leadership { leader: true, primary: is(&[Role::Primary]), ..nobody }
    }
}

fn is_replica(query: &Query, status: &Status<'_>) -> bool {
    let view = status.view;
    !view.settings.tags.noloadbalance()
        && !view.kept_out
        && status.is_running()
        && status.role() == Role::Replica
        && !is_lagging(query, status)
}

fn is_lagging(query: &Query, status: &Status<'_>) -> bool {
    // A limit that cannot be read is none.
    let Some(limit) = query.get("lag").and_then(|lag| parse_int(lag, Some("B"))) else { return false };
    let replayed = match status.running().map(|running| &running.wal) {
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
