//! What members tell of trouble, by their keys and by their REST API.

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, Initialize, Member};
use patroni_core::disk::{DISK_KEY, size, troubles};
use patroni_core::name::MemberName;
use patroni_core::python::PythonText;
use patroni_core::view::FAILURE_KEY;
use serde_json::Value;

use super::{Finding, finding};
use crate::candidates::{contenders, maximum_lag, position};
use crate::statuses::{Silence, Status, Statuses};

/// All of it. `prefix`: how the keys begin.
pub(crate) fn of_members(cluster: &Cluster, statuses: &Statuses, scope: &str, prefix: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    for member in cluster.members.values() {
        let answer = statuses.get(&member.name);
        let status = answer.and_then(|answer| answer.as_ref().ok());
        found.extend(of_key(cluster, member, status, scope));
        match answer {
            Some(Ok(status)) => found.extend(of_status(cluster, member, status)),
            Some(Err(Silence::NoAnswer(reason))) => found.push(silent(member, reason, prefix)),
            Some(Err(Silence::NotTrusted(reason))) => found.push(finding(
                format!("{} could not be asked: {reason}", member.name),
                "name the authority of its certificate in ctl.cacert, or give -k to trust whoever answers",
            )),
            None => {}
        }
    }
    let contenders = contenders(cluster, statuses);
    if !cluster.members.is_empty() && contenders.iter().all(|one| !one.obstacles.is_empty()) {
        found.push(finding("no member could take over from the leader", format!("patronictl explain {scope}")));
    }
    found
}

fn silent(member: &Member, reason: &str, prefix: &str) -> Finding {
    let name = &member.name;
    // A key without a lease outlives the agent that wrote it.
    if member.session.is_none() {
        let what = format!("{name} does not answer, and its member key never expires: {reason}");
        return finding(what, format!("start its agent, or delete the key {prefix}members/{name} from the store"));
    }
    finding(
        format!("{name} does not answer: {reason}"),
        "start its agent, or open its REST port to this machine and the other members",
    )
}

fn of_key(cluster: &Cluster, member: &Member, status: Option<&Status>, scope: &str) -> Vec<Finding> {
    let (name, data) = (&member.name, &member.data);
    let is_leader = cluster.leader_name() == Some(name);
    let mut found = Vec::new();
    if !data.is_running() && data.state.as_deref() != Some("creating replica") {
        let state = data.state.as_deref().unwrap_or("unknown");
        let remedy = format!("look into the log of PostgreSQL and of the agent on {name}");
        let failure = data.extra.get(FAILURE_KEY).and_then(Value::as_str).map(str::to_owned);
        let why = status.and_then(Status::job).or(failure).map(|why| format!(": {why}")).unwrap_or_default();
        found.push(finding(format!("PostgreSQL of {name} is in state {state:?}{why}"), remedy));
    }
    if data.pending_restart {
        found.push(finding(
            format!("{name} has to be restarted for settings to take effect{}", reasons(&data.pending_restart_reason)),
            format!("patronictl restart {scope} {name} --pending"),
        ));
    }
    if data.is_kept_out() {
        found.push(finding(
            format!("{name} has other WAL than the primary on the same timeline: it neither follows nor leads"),
            format!("save what only {name} has, if it is worth it, then: patronictl reinit {scope} {name}"),
        ));
        return found;
    }
    let leader_timeline = cluster.leader_member().and_then(|leader| leader.data.timeline);
    let streams = data.replication_state.as_deref() == Some("streaming");
    if let (false, false, Some(own), Some(theirs)) = (is_leader, streams, data.timeline, leader_timeline)
        && own != theirs
    {
        found.push(finding(
            format!("{name} is on timeline {own}, the leader on {theirs}"),
            format!("patronictl reinit {scope} {name}, if it does not catch up"),
        ));
    }
    // Without a leader there is nobody to stream from.
    if !cluster.is_unlocked() && !is_leader && data.is_running() && !streams && !data.tags.nostream() {
        let state = data.replication_state.as_deref().unwrap_or("not connected");
        found.push(match status.and_then(Status::refusal) {
            Some(error) => {
                finding(format!("{name} does not stream ({state}): {error}"), remedy_of_refusal(error, name, scope))
            }
            None => finding(
                format!("{name} does not stream ({state})"),
                format!("look into the log of PostgreSQL on {name} for the error of its WAL receiver"),
            ),
        });
    }
    // Where it is not known, that has other reasons, which are found.
    let behind = position(member, status).map_or(0, |position| cluster.status.last_lsn.0.saturating_sub(position.0));
    if !is_leader && behind > maximum_lag(cluster) {
        found.push(finding(
            format!("{name} is {} behind: it would not take over", size(behind)),
            format!("look at pg_stat_replication of the leader and the log of {name}"),
        ));
    }
    found
}

/// Which settings wait for a restart: ` (max_connections: 100 -> 200)`.
fn reasons(waiting: &JsonMap) -> String {
    let one = |(name, reason): (&String, &Value)| {
        let value = |key| reason.get(key).map(PythonText::python_text).unwrap_or_default();
        format!("{name}: {} -> {}", value("old_value"), value("new_value"))
    };
    let all: Vec<String> = waiting.iter().map(one).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) }
}

/// What helps against an error of PostgreSQL at a replication connection.
fn remedy_of_refusal(error: &str, name: &MemberName, scope: &str) -> String {
    if error.contains("pg_hba.conf") {
        format!("let it in by postgresql.pg_hba of the primary, then patronictl reload {scope}")
    } else if error.contains("password") || error.contains("role \"") {
        format!(
            "correct postgresql.authentication.replication on {name}, then patronictl reload {scope} {name}; or the role on the primary"
        )
    } else {
        format!("look after the way from {name} to the primary")
    }
}

fn of_status(cluster: &Cluster, member: &Member, status: &Status) -> Vec<Finding> {
    let name = &member.name;
    let mut found = Vec::new();
    if let (Initialize::Done(id), Some(own)) = (&cluster.initialize, status.text("database_system_identifier"))
        && id.to_string() != own
    {
        found.push(finding(
            format!("{name} has system identifier {own}, the cluster has {id}"),
            format!("{name} is a member of another cluster: give it another scope or an empty data directory"),
        ));
    }
    let full = status.document.get(DISK_KEY).and_then(Value::as_object).map(troubles).unwrap_or_default();
    found.extend(full.into_iter().map(|trouble| {
        let remedy = format!(
            "make room on {name}, or make the disk larger; WAL is held back by slots and by an archive_command that fails"
        );
        finding(format!("{name}: {trouble}"), remedy)
    }));
    if status.flag("watchdog_failed") {
        found.push(finding(
            format!("the watchdog of {name} is required and does not work"),
            "make the device writable for the user of the agent",
        ));
    }
    if let Some(ahead) = status.clock_ahead_s.filter(|ahead| *ahead != 0) {
        let direction = if ahead > 0 { "ahead of" } else { "behind" };
        found.push(finding(
            format!("the clock of {name} is {} s {direction} the clock here", ahead.abs()),
            format!("on {name} (or here): timedatectl set-ntp true, or chronyc makestep"),
        ));
    }
    if status.document.get("xlog").and_then(|xlog| xlog.get("paused")) == Some(&Value::Bool(true)) {
        found.push(finding(
            format!("the replay of WAL is paused on {name}: it shows old data, and would have to catch up to take over"),
            format!("SELECT pg_wal_replay_resume() on {name}; where recovery_min_apply_delay or a recovery target is set, it is meant so"),
        ));
    }
    if status.flag("failsafe_mode_is_active") {
        found.push(finding(format!("failsafe mode is on: {name} cannot reach the store"), "look after the store"));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use patroni_dcs::wire::{self, RawKey};
    use serde_json::json;

    use super::*;

    /// What is found where member b, or what it answers, differs from health by these keys.
    fn found(key: &Value, answer: &Value) -> Vec<Finding> {
        let merged = |base: Value, change: &Value| {
            let mut map = base.as_object().cloned().expect("an object");
            map.extend(change.as_object().cloned().unwrap_or_default());
            map
        };
        let raw = |text: String, lease| RawKey { value: text.into_bytes(), session: lease, ..RawKey::default() };
        let running = json!({"state": "running", "timeline": 2, "xlog_location": 90_000_000});
        let replica = merged(running.clone(), &json!({"replication_state": "streaming"}));
        let lease = Some("1".to_owned());
        let keys = BTreeMap::from([
            ("members/a".to_owned(), raw(running.to_string(), lease.clone())),
            (
                "members/b".to_owned(),
                raw(Value::Object(merged(Value::Object(replica), key)).to_string(), lease.clone()),
            ),
            ("initialize".to_owned(), raw("7000000000000000077".to_owned(), None)),
            ("leader".to_owned(), raw("a".to_owned(), lease)),
            ("status".to_owned(), raw(r#"{"optime": 90000000}"#.to_owned(), None)),
        ]);
        let ahead = answer.get("ahead").and_then(Value::as_i64);
        let position = key.get("xlog_location").and_then(Value::as_u64).unwrap_or(90_000_000);
        let tags = key.get("tags").cloned().unwrap_or_default();
        let healthy = json!({
            "database_system_identifier": "7000000000000000077", "xlog": {"received_location": position}, "timeline": 2,
            "tags": tags,
        });
        let document = merged(healthy, answer);
        let of_b = match answer.get("silent") {
            Some(Value::Bool(true)) => Err(Silence::NoAnswer("no connection".to_owned())),
            Some(_) => Err(Silence::NotTrusted("not trusted".to_owned())),
            None => Ok(Status { document, clock_ahead_s: ahead }),
        };
        let statuses = BTreeMap::from([(MemberName::from("a"), Ok(Status::default())), (MemberName::from("b"), of_b)]);
        of_members(&wire::cluster(&keys), &statuses, "batman", "/service/batman/")
    }

    #[test]
    fn nobody_streams_from_nobody() {
        let key = json!({"state": "running", "role": "replica", "xlog_location": 1}).to_string();
        let lease = Some("1".to_owned());
        let raw = RawKey { value: key.into_bytes(), session: lease, ..RawKey::default() };
        let cluster = wire::cluster(&BTreeMap::from([("members/b".to_owned(), raw)]));
        let document = json!({"xlog": {"received_location": 1}}).as_object().cloned().expect("an object");
        let statuses = BTreeMap::from([(MemberName::from("b"), Ok(Status { document, clock_ahead_s: None }))]);
        assert_eq!(of_members(&cluster, &statuses, "batman", "/service/batman/"), []);
    }

    #[test]
    fn each_trouble_and_its_remedy() {
        let none = json!({});
        assert_eq!(found(&none, &none), []);
        let cannot = finding("no member could take over from the leader", "patronictl explain batman");
        let rows = [
            (json!({"pending_restart": true}), json!({}), "b has to be restarted for settings to take effect", false),
            (
                json!({"pending_restart": true, "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": 200}}}),
                json!({}),
                "b has to be restarted for settings to take effect (max_connections: 100 -> 200)",
                false,
            ),
            (json!({"xlog_location": 80_000_000}), json!({}), "b is 9.5 MB behind: it would not take over", true),
            (json!({"tags": {"nofailover": true}}), json!({}), "no member could take over from the leader", false),
            (json!({}), json!({"silent": true}), "b does not answer: no connection", true),
            (json!({}), json!({"silent": "not trusted"}), "b could not be asked: not trusted", false),
            (json!({}), json!({"ahead": -7}), "the clock of b is 7 s behind the clock here", false),
            (json!({}), json!({"watchdog_failed": true}), "the watchdog of b is required and does not work", true),
            (
                json!({}),
                json!({"database_system_identifier": "7000000000000000078"}),
                "b has system identifier 7000000000000000078, the cluster has 7000000000000000077",
                false,
            ),
            (json!({"replication_state": null}), json!({}), "b does not stream (not connected)", false),
            (
                json!({"replication_state": null}),
                json!({"error of the upstream": "FATAL:  password authentication failed"}),
                "b does not stream (not connected): FATAL:  password authentication failed",
                false,
            ),
            (
                json!({"replication_state": "diverged", "tags": {"nofailover": true, "nostream": true}}),
                json!({}),
                "b has other WAL than the primary on the same timeline: it neither follows nor leads",
                true,
            ),
            (
                json!({}),
                json!({"xlog": {"received_location": 90_000_000, "paused": true}}),
                "the replay of WAL is paused on b: it shows old data, and would have to catch up to take over",
                false,
            ),
            (
                json!({"xlog_location": null, "replication_state": null, "state": "starting"}),
                json!({"xlog": {}}),
                "PostgreSQL of b is in state \"starting\"",
                true,
            ),
            (
                json!({"xlog_location": null, "replication_state": null, "state": "stopping"}),
                json!({"xlog": {}, "job": {"title": "demote", "progress": "it waits for process 7 (archiver)"}}),
                "PostgreSQL of b is in state \"stopping\": demote: it waits for process 7 (archiver)",
                true,
            ),
            (
                json!({}),
                json!({"disk": {"data": {"state": "ok"}, "wal": {"state": "full", "free": 3 << 20, "total": 64 << 20}}}),
                "b: the WAL directory is full (3.0 MB of 64.0 MB free)",
                false,
            ),
        ];
        for (key, answer, what, unable) in rows {
            let found = found(&key, &answer);
            assert_eq!(found[0].what, what, "{found:?}");
            assert_eq!(found.contains(&cannot), unable || found[0] == cannot, "{found:?}");
            assert_eq!(found.len(), 1 + usize::from(unable), "{found:?}");
        }
    }
}
