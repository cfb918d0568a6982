//! From types to the text of keys.

use std::collections::BTreeMap;

use patroni_core::JsonMap;
use patroni_core::cluster::{FailoverRequest, HistoryLine, MemberData, Schedule};
use patroni_core::json::compact;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use serde_json::{Value, json};

use crate::LeaderUpdate;

/// `/members/NAME`, in the order of the reference's `touch_member`.
pub fn member(data: &MemberData) -> String {
    let mut map = JsonMap::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    };
    let string = |text: &Option<String>| text.clone().map(Value::from);
    let lsn = |lsn: Option<Lsn>| lsn.map(|lsn| Value::from(lsn.0));
    put("conn_url", string(&data.conn_url));
    put("api_url", string(&data.api_url));
    put("state", string(&data.state));
    put("role", string(&data.role));
    put("version", string(&data.version));
    put("proxy_url", string(&data.proxy_url));
    put("checkpoint_after_promote", data.checkpoint_after_promote.map(Value::from));
    put("tags", (!data.tags.0.is_empty()).then(|| Value::Object(data.tags.0.clone())));
    put("pending_restart", data.pending_restart.then_some(Value::Bool(true)));
    let reason = &data.pending_restart_reason;
    put("pending_restart_reason", (!reason.is_empty()).then(|| Value::Object(reason.clone())));
    put("xlog_location", lsn(data.xlog_location));
    put("replay_lsn", lsn(data.replay_lsn));
    put("receive_lsn", lsn(data.receive_lsn));
    put("replication_state", string(&data.replication_state));
    put("timeline", data.timeline.map(|timeline| Value::from(timeline.0)));
    put("scheduled_restart", data.scheduled_restart.clone().map(Value::Object));
    put("pause", data.pause.then_some(Value::Bool(true)));
    let risks = (!data.slots_at_risk.is_empty()).then(|| json!(data.slots_at_risk));
    put("slots_at_risk", risks);
    for (key, value) in &data.extra {
        map.entry(key.clone()).or_insert_with(|| value.clone());
    }
    compact(&Value::Object(map))
}

/// `/failover`. The version of the request plays no part.
pub fn failover(request: &FailoverRequest) -> String {
    let mut map = JsonMap::new();
    if let Some(leader) = &request.leader {
        map.insert("leader".into(), leader.as_str().into());
    }
    if let Some(candidate) = &request.candidate {
        map.insert("member".into(), candidate.as_str().into());
    }
    if let Some(Schedule::At(_, at) | Schedule::Invalid(at)) = &request.scheduled_at {
        map.insert("scheduled_at".into(), at.as_str().into());
    }
    compact(&Value::Object(map))
}

/// `/sync`: standbys are sorted; without any, and without a leader, the value is `null`.
pub fn sync(leader: Option<&MemberName>, standbys: &[MemberName], quorum: u32) -> String {
    let mut names: Vec<&str> = standbys.iter().map(MemberName::as_str).collect();
    names.sort_unstable();
    let standbys = (!names.is_empty()).then(|| names.join(","));
    compact(&json!({"leader": leader.map(MemberName::as_str), "quorum": quorum, "sync_standby": standbys}))
}

/// `/status`; `None` where the position is not known.
pub fn status(update: &LeaderUpdate) -> Option<String> {
    let mut map = JsonMap::new();
    map.insert("optime".into(), update.last_lsn?.0.into());
    if !update.slots.is_empty() {
        let slots = update.slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
        map.insert("slots".into(), Value::Object(slots));
    }
    if !update.retain_slots.is_empty() {
        map.insert("retain_slots".into(), update.retain_slots.clone().into());
    }
    Some(compact(&Value::Object(map)))
}

/// `/status` with another position and the slots of its present text.
pub fn status_with_lsn(present: Option<&[u8]>, lsn: Lsn) -> String {
    let mut map = JsonMap::new();
    map.insert("optime".into(), lsn.0.into());
    if let Some(Value::Object(present)) = present.and_then(|bytes| serde_json::from_slice(bytes).ok()) {
        for key in ["slots", "retain_slots"] {
            if let Some(value) = present.get(key).filter(|value| patroni_core::tags::truthy(value)) {
                map.insert(key.into(), value.clone());
            }
        }
    }
    compact(&Value::Object(map))
}

/// `/failsafe`.
pub fn failsafe(members: &BTreeMap<MemberName, String>) -> String {
    let map = members.iter().map(|(name, url)| (name.as_str().to_owned(), url.as_str().into())).collect();
    compact(&Value::Object(map))
}

/// `/history`.
pub fn history(lines: &[HistoryLine]) -> String {
    compact(&Value::Array(lines.iter().map(|line| Value::Array(line.0.clone())).collect()))
}

/// `/config`.
pub fn config(data: &JsonMap) -> String {
    compact(&Value::Object(data.clone()))
}
