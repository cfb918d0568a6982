//! `GET /cluster` and `GET /history`: what the store says of the cluster.

use patroni_core::JsonMap;
use patroni_core::cluster::{Address, Cluster, Member, Schedule};
use patroni_core::disk::DISK_KEY;
use patroni_core::lsn::Lsn;
use patroni_core::settings::Dynamic;
use patroni_core::view::{FAILURE_KEY, JOB_KEY};
use serde_json::{Value, json};

/// The document of `GET /cluster`.
pub(crate) fn topology(cluster: &Cluster, scope: &str) -> JsonMap {
    let dynamic = Dynamic::of_cluster(cluster);
    let members = cluster.members.values().map(|member| Value::Object(member_entry(cluster, member, &dynamic)));
    let mut document = JsonMap::new();
    document.insert("members".to_owned(), members.collect());
    if dynamic.paused {
        document.insert("pause".to_owned(), true.into());
    }
    if let Some(switchover) = scheduled_switchover(cluster) {
        document.insert("scheduled_switchover".to_owned(), switchover);
    }
    document.insert("scope".to_owned(), scope.into());
    document
}

/// The document of `GET /history`.
pub(crate) fn history(cluster: &Cluster) -> Value {
    let lines = cluster.history.iter().flat_map(|history| &history.lines);
    lines.map(|line| Value::Array(line.0.clone())).collect()
}

fn member_entry(cluster: &Cluster, member: &Member, dynamic: &Dynamic) -> JsonMap {
    let data = &member.data;
    let is_leader = cluster.leader_name() == Some(&member.name);
    let role = cluster.role_of(member, dynamic);
    let replication_state = data.replication_state.as_deref().filter(|text| role != "leader" && !text.is_empty());
    let mut entry = JsonMap::new();
    entry.insert("name".to_owned(), member.name.as_str().into());
    entry.insert("role".to_owned(), role.into());
    entry.insert("state".to_owned(), replication_state.or(data.state.as_deref()).unwrap_or_default().into());
    entry.insert("api_url".to_owned(), data.api_url.as_deref().into());
    if let Some(Address { host, port }) = Address::of(data) {
        entry.insert("host".to_owned(), host.into());
        entry.insert("port".to_owned(), port.into());
    }
    if let Some(timeline) = data.timeline {
        entry.insert("timeline".to_owned(), timeline.0.into());
    }
    if data.pending_restart {
        entry.insert("pending_restart".to_owned(), true.into());
    }
    if !data.pending_restart_reason.is_empty() {
        entry.insert("pending_restart_reason".to_owned(), Value::Object(data.pending_restart_reason.clone()));
    }
    if let Some(restart) = &data.scheduled_restart {
        entry.insert("scheduled_restart".to_owned(), Value::Object(restart.clone()));
    }
    if let Some(job) = data.extra.get(JOB_KEY).filter(|job| job.is_object()) {
        entry.insert(JOB_KEY.to_owned(), job.clone());
    }
    if let Some(why) = data.extra.get(FAILURE_KEY).filter(|why| why.is_string()) {
        entry.insert(FAILURE_KEY.to_owned(), why.clone());
    }
    if let Some(disk) = data.extra.get(DISK_KEY).filter(|disk| disk.is_object()) {
        entry.insert(DISK_KEY.to_owned(), disk.clone());
    }
    if !data.tags.0.is_empty() {
        entry.insert("tags".to_owned(), Value::Object(data.tags.0.clone()));
    }
    if !data.slots_at_risk.is_empty() {
        entry.insert("slots_at_risk".to_owned(), json!(data.slots_at_risk));
    }
    if !is_leader {
        let last = cluster.status.last_lsn;
        add_position(&mut entry, ("receive_lsn", "receive_lag"), data.receive_lsn, last);
        add_position(&mut entry, ("replay_lsn", "replay_lag"), data.replay_lsn, last);
        add_position(&mut entry, ("lsn", "lag"), data.xlog_location, last);
    }
    entry
}

/// The order of the two keys depends on whether the position is known, in Patroni as here.
fn add_position(entry: &mut JsonMap, (lsn_key, lag_key): (&str, &str), lsn: Option<Lsn>, last: Lsn) {
    match lsn.filter(|lsn| lsn.0 > 0) {
        None => {
            entry.insert(lsn_key.to_owned(), "unknown".into());
            entry.insert(lag_key.to_owned(), "unknown".into());
        }
        Some(lsn) => {
            entry.insert(lag_key.to_owned(), last.0.saturating_sub(lsn.0).into());
            entry.insert(lsn_key.to_owned(), lsn.to_string().into());
        }
    }
}

fn scheduled_switchover(cluster: &Cluster) -> Option<Value> {
    let request = cluster.failover.as_ref()?;
    let Schedule::At(_, text) = request.scheduled_at.as_ref()? else { return None };
    let mut switchover = JsonMap::new();
    switchover.insert("at".to_owned(), text.as_str().into());
    if let Some(leader) = &request.leader {
        switchover.insert("from".to_owned(), leader.as_str().into());
    }
    if let Some(candidate) = &request.candidate {
        switchover.insert("to".to_owned(), json!(candidate.as_str()));
    }
    Some(Value::Object(switchover))
}

#[cfg(test)]
mod tests {
    use patroni_core::cluster::{FailoverRequest, Version};
    use patroni_core::job::{Job, JobView, Stage};
    use patroni_core::name::MemberName;
    use patroni_core::server::State;
    use patroni_core::time::WallTime;
    use patroni_core::view::Addresses;

    use super::super::sample;
    use super::*;

    /// Ours, and only where there is something to tell.
    #[test]
    fn slots_at_risk_are_told_of_their_member() {
        let mut cluster = sample::cluster();
        let text = |cluster: &Cluster| patroni_core::json::spaced(&Value::Object(topology(cluster, "batman")));
        assert!(!text(&cluster).contains("slots_at_risk"));
        let member = cluster.members.get_mut("postgresql1").expect("a member");
        member.data.slots_at_risk.insert("cdc".to_owned(), "not copied from the primary yet".to_owned());
        let expected = r#""rack": 7}, "slots_at_risk": {"cdc": "not copied from the primary yet"}, "receive_lag": 10"#;
        assert!(text(&cluster).contains(expected), "{}", text(&cluster));
    }

    /// As Patroni 4.1.5 answered, with positions.
    #[test]
    fn topology_is_patronis() {
        let mut cluster = sample::cluster();
        cluster.failover = Some(FailoverRequest {
            version: Version(1),
            leader: Some(MemberName::from("postgresql0")),
            candidate: None,
            scheduled_at: Some(Schedule::At(WallTime(0), "2030-01-01T00:00:00+01:00".to_owned())),
        });
        let text = patroni_core::json::spaced(&Value::Object(topology(&cluster, "batman")));
        let expected = r#"{"members": [{"name": "postgresql0", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:33400/patroni", "host": "127.0.0.1", "port": 33450, "timeline": 1, "tags": {"clonefrom": true, "datacenter": "eu 1", "rack": 7}}, {"name": "postgresql1", "role": "replica", "state": "streaming", "api_url": "http://127.0.0.1:33401/patroni", "host": "127.0.0.1", "port": 33451, "timeline": 1, "tags": {"clonefrom": true, "datacenter": "eu 1", "rack": 7}, "receive_lag": 10, "receive_lsn": "0/4000056", "replay_lsn": "unknown", "replay_lag": "unknown", "lag": 10, "lsn": "0/4000056"}], "scheduled_switchover": {"at": "2030-01-01T00:00:00+01:00", "from": "postgresql0"}, "scope": "batman"}"#;
        assert_eq!(text, expected);
    }

    /// Members are listed with how they replicate in the place of their state: while something is done, with the state.
    #[test]
    fn a_member_at_work_is_not_listed_as_streaming() {
        let job = |job| JobView { job, title: String::new(), since: sample::NOW.boot, stage: Stage::Revocable };
        for (state, at_work, listed, lag) in [
            (State::Running, None, "streaming", json!(0)),
            (State::Running, Some(Job::Promote), "streaming", json!(0)),
            (State::Restarting, Some(Job::Restart { as_standby: false }), "restarting", json!(0)),
            (State::CreatingReplica, Some(Job::CrashRecovery), "creating replica", json!("unknown")),
            (State::Stopping, Some(Job::StopImmediate), "stopping", json!("unknown")),
        ] {
            let mut view = sample::view("postgresql1", sample::standby());
            (view.state, view.job) = (state, at_work.map(job));
            let mut cluster = sample::cluster();
            let member = cluster.members.get_mut("postgresql1").unwrap();
            member.data = view.member_data(&Addresses::default(), sample::NOW.boot);
            let document = Value::Object(topology(&cluster, "batman"));
            let shown = &document["members"][1];
            assert_eq!((&shown["state"], &shown["lag"]), (&json!(listed), &lag));
        }
    }
}
