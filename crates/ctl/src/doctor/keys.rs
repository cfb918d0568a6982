//! What the keys in the store tell of trouble.

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, FailoverRequest, Initialize, Schedule};
use patroni_core::disk::size;
use patroni_core::settings::{Adjustment, Dynamic};
use patroni_core::units::parse_bool;
use serde_json::Value;

use super::{Finding, finding};

/// A slot on the leader may hold back so much WAL, in bytes, before that is told.
const HELD_WAL: u64 = 1 << 30;
/// A schedule that has been over for so long was forgotten, in milliseconds.
const FORGOTTEN_MS: i64 = 60_000;

/// All of it. `prefix`: how the keys begin; `now_ms`: milliseconds since 1970.
pub(crate) fn of_cluster(cluster: &Cluster, scope: &str, prefix: &str, now_ms: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    if cluster.is_unlocked() {
        found.push(finding("the cluster has no leader", format!("patronictl explain {scope}")));
    }
    if let Some(leader) = cluster.leader_name().filter(|_| cluster.leader_member().is_none()) {
        found.push(finding(
            format!("the leader {leader} has no member key"),
            format!("look into the log of the agent of {leader}"),
        ));
    }
    if Dynamic::of_cluster(cluster).paused {
        found.push(finding("the cluster is paused: nobody fails over", format!("patronictl resume {scope}")));
    }
    if let Initialize::Invalid(text, _) = &cluster.initialize {
        let what = format!("the key initialize holds {text:?}, which is no system identifier");
        found.push(finding(what, "write the identifier that pg_controldata shows on the leader"));
    }
    found.extend(cluster.settings().into_iter().flat_map(|config| of_values(config, scope)));
    found.extend(cluster.settings().into_iter().flat_map(|config| of_names(config, scope)));
    found.extend(cluster.settings().and_then(|config| of_timing(config, scope)));
    found.extend(cluster.settings().and_then(|config| of_rewind(config, scope)));
    found.extend(cluster.failover.as_ref().and_then(|request| {
        let what = of_request(cluster, request, now_ms)?;
        Some(finding(what, remedy_of_request(request, scope, prefix)))
    }));
    found.extend(of_sync(cluster));
    found.extend(of_slots(cluster, scope));
    found
}

/// What is stored and cannot be used.
fn of_values(config: &JsonMap, scope: &str) -> Vec<Finding> {
    let not_in_force =
        |fault| finding(format!("{fault}; it is not in force"), format!("patronictl edit-config {scope}"));
    patroni_config::unusable(config).into_iter().map(not_in_force).collect()
}

/// What is stored and nobody reads.
fn of_names(config: &JsonMap, scope: &str) -> Vec<Finding> {
    let ignored = |text| finding(format!("in the store: {text}"), format!("patronictl edit-config {scope}"));
    patroni_config::unread(config).into_iter().map(ignored).collect()
}

/// The lease must not end while an operation is still being retried.
fn of_timing(config: &JsonMap, scope: &str) -> Option<Finding> {
    let adjusted = Dynamic::read(config).adjusted;
    adjusted.into_iter().find_map(|adjustment| match adjustment {
        Adjustment::BothTimeouts { ttl, loop_wait, retry_timeout, .. }
        | Adjustment::LoopWait { ttl, retry_timeout, loop_wait, .. } => {
            let needed = retry_timeout.saturating_mul(2).saturating_add(loop_wait);
            Some(finding(
                format!("loop_wait + 2 * retry_timeout is {needed} s, more than ttl ({ttl} s)"),
                format!("patronictl edit-config {scope} -s ttl={needed}"),
            ))
        }
        Adjustment::TooSmall { .. } => None,
    })
}

/// Without pg_rewind a former leader that went on too long has to be copied anew, by hand.
fn of_rewind(config: &JsonMap, scope: &str) -> Option<Finding> {
    let postgresql = config.get("postgresql").and_then(Value::as_object)?;
    let is_on = |name: &str| postgresql.get(name).and_then(parse_bool) == Some(true);
    let removes = is_on("remove_data_directory_on_diverged_timelines");
    (!is_on("use_pg_rewind") && !removes).then(|| {
        finding(
            "use_pg_rewind is off: a former leader with WAL of its own will have to be copied anew",
            format!("patronictl edit-config {scope} -s postgresql.use_pg_rewind=true"),
        )
    })
}

fn of_request(cluster: &Cluster, request: &FailoverRequest, now_ms: i64) -> Option<String> {
    let unknown = request.candidate.as_ref().filter(|name| !cluster.members.contains_key(*name));
    if let Some(candidate) = unknown {
        return Some(format!("a switchover to {candidate} is requested, which is no member"));
    }
    if let Some(leader) = request.leader.as_ref().filter(|leader| cluster.leader_name() != Some(*leader)) {
        return Some(format!("a switchover from {leader} is requested, which is not the leader"));
    }
    match &request.scheduled_at {
        Some(Schedule::At(at, text)) if now_ms - at.0 > FORGOTTEN_MS => {
            Some(format!("the switchover that was scheduled at {text} is over and still stored"))
        }
        Some(Schedule::Invalid(text)) => Some(format!("a switchover is scheduled at {text:?}, which is no time")),
        Some(Schedule::At(..)) | None => None,
    }
}

/// `flush` and `DELETE /switchover` are for scheduled ones only, with 4.1.5 too.
fn remedy_of_request(request: &FailoverRequest, scope: &str, prefix: &str) -> String {
    match request.scheduled_at {
        Some(_) => format!("patronictl flush {scope} switchover"),
        None => format!(
            "the agent of the leader deletes it within loop_wait; where it does not, delete the key {prefix}failover \
             from the store"
        ),
    }
}

fn of_sync(cluster: &Cluster) -> Vec<Finding> {
    let sync = &cluster.sync;
    let gone = sync.standbys.iter().filter(|name| !cluster.members.contains_key(*name));
    let away = |name: &patroni_core::name::MemberName| {
        finding(
            format!("the synchronous standby {name} is away; commits may wait for it"),
            format!("start the agent of {name}; the leader replaces it within loop_wait otherwise"),
        )
    };
    gone.map(away).collect()
}

/// What helps where the slot is that of a member: to drop it would cost the member its copy.
pub(crate) fn remedy_of_member(cluster: &Cluster, slot: &str) -> Option<String> {
    let member = cluster.members.values().find(|member| member.name.slot_name() == slot)?;
    let name = &member.name;
    let streams = member.data.replication_state.as_deref() == Some("streaming");
    Some(if streams {
        format!("{name} streams and is behind: look at its load and its network; do not drop its slot")
    } else {
        format!(
            "{name} does not stream: see what is said of {name} here, and bring it back; do not drop its slot, or it has to be copied anew"
        )
    })
}

/// By the positions that the leader publishes: needs no connection to PostgreSQL.
fn of_slots(cluster: &Cluster, scope: &str) -> Vec<Finding> {
    let last = cluster.status.last_lsn.0;
    let held = |lsn: u64| last.saturating_sub(lsn);
    let slots = cluster.status.slots.iter().filter(|(_, lsn)| lsn.0 > 0 && held(lsn.0) > HELD_WAL);
    slots
        .map(|(slot, lsn)| {
            let drop = format!(
                "bring its consumer back (patronictl list {scope}), or drop it on the leader: SELECT \
                 pg_drop_replication_slot('{slot}')"
            );
            finding(
                format!("the slot {slot} holds back {} of WAL", size(held(lsn.0))),
                remedy_of_member(cluster, slot).unwrap_or(drop),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_dcs::wire::{self, RawKey};
    use serde_json::json;

    use super::*;

    fn found(keys: &[(&str, Value)]) -> Vec<Finding> {
        let raw = |value: &Value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            RawKey { value: text.into_bytes(), ..RawKey::default() }
        };
        let mut all = BTreeMap::from([
            ("members/a".to_owned(), raw(&json!({"state": "running", "role": "primary"}))),
            ("members/b".to_owned(), raw(&json!({"state": "running", "role": "replica"}))),
            ("initialize".to_owned(), raw(&json!("7711195368901249874"))),
            ("leader".to_owned(), raw(&json!("a"))),
            ("config".to_owned(), raw(&json!({"ttl": 30, "postgresql": {"use_pg_rewind": true}}))),
        ]);
        all.extend(keys.iter().map(|(name, value)| ((*name).to_owned(), raw(value))));
        of_cluster(&wire::cluster(&all), "batman", "/service/batman/", 1_800_000_000_000)
    }

    #[test]
    fn a_healthy_cluster_has_none() {
        let request = json!({"leader": "a", "member": "b", "scheduled_at": "2099-01-01T00:00:00+00:00"});
        assert_eq!(found(&[("failover", request)]), []);
    }

    #[test]
    fn each_trouble_and_its_remedy() {
        let flush = "patronictl flush batman switchover";
        let delete = "the agent of the leader deletes it within loop_wait; where it does not, delete the key \
                      /service/batman/failover from the store";
        let rows = [
            (
                ("config", json!({"ttl": 20, "postgresql": {"use_pg_rewind": true}})),
                "loop_wait + 2 * retry_timeout is 30 s, more than ttl (20 s)",
                "patronictl edit-config batman -s ttl=30",
            ),
            (
                ("config", json!({"ttl": "abc", "postgresql": {"use_pg_rewind": true}})),
                "ttl is \"abc\", but must be a whole number of seconds; it is not in force",
                "patronictl edit-config batman",
            ),
            (
                ("config", json!({"tttl": 20, "postgresql": {"use_pg_rewind": true, "callbacks": {"on_start": "x"}}})),
                "in the store: unknown setting tttl (did you mean ttl?)",
                "patronictl edit-config batman",
            ),
            (
                ("config", json!({"pause": true})),
                "the cluster is paused: nobody fails over",
                "patronictl resume batman",
            ),
            (
                ("config", json!({"postgresql": {}})),
                "use_pg_rewind is off: a former leader with WAL of its own will have to be copied anew",
                "patronictl edit-config batman -s postgresql.use_pg_rewind=true",
            ),
            (("leader", json!("z")), "the leader z has no member key", "look into the log of the agent of z"),
            (
                ("failover", json!({"leader": "a", "member": "z"})),
                "a switchover to z is requested, which is no member",
                delete,
            ),
            (
                ("failover", json!({"leader": "b", "member": "a"})),
                "a switchover from b is requested, which is not the leader",
                delete,
            ),
            (
                ("failover", json!({"leader": "b", "scheduled_at": "2099-01-01T00:00:00+00:00"})),
                "a switchover from b is requested, which is not the leader",
                flush,
            ),
            (
                ("failover", json!({"leader": "a", "member": "b", "scheduled_at": "2020-01-01T00:00:00+00:00"})),
                "the switchover that was scheduled at 2020-01-01T00:00:00+00:00 is over and still stored",
                flush,
            ),
            (
                ("sync", json!({"leader": "a", "sync_standby": "z"})),
                "the synchronous standby z is away; commits may wait for it",
                "start the agent of z; the leader replaces it within loop_wait otherwise",
            ),
            (
                ("status", json!({"optime": 3_000_000_000_u64, "slots": {"lazy": 1_000_000, "b": 2_999_999_999_u64}})),
                "the slot lazy holds back 2.8 GB of WAL",
                "bring its consumer back (patronictl list batman), or drop it on the leader: SELECT \
                 pg_drop_replication_slot('lazy')",
            ),
        ];
        for (key, what, remedy) in rows {
            assert_eq!(found(std::slice::from_ref(&key)), [finding(what, remedy)], "{key:?}");
        }
    }
}
