//! From the bytes of keys to types. Whatever the bytes are, there is a result.

use std::collections::BTreeMap;

use patroni_core::JsonMap;
use patroni_core::cluster::{
    Cluster, ClusterConfig, FailoverRequest, History, HistoryLine, Initialize, Leader, Member, MemberData, Schedule,
    Status, SyncState, Version,
};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::tags::{Tags, truthy};
use patroni_core::time;
use serde_json::Value;

use super::{FAILSAFE, LEADER, LEGACY_STATUS, MEMBERS, STATUS, key_name};
use crate::Key;

/// One key as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawKey {
    /// Its content.
    pub value: Vec<u8>,
    /// Version of its last change.
    pub modified: u64,
    /// Version of its creation.
    pub created: u64,
    /// The lease or session it is attached to.
    pub session: Option<String>,
}

impl RawKey {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }

    fn version(&self) -> Version {
        Version(self.modified)
    }
}

/// The cluster from all its keys; names are without the prefix of the cluster.
pub fn cluster(keys: &BTreeMap<String, RawKey>) -> Cluster {
    let named = |key: Key| keys.get(key_name(key));
    Cluster {
        initialize: named(Key::Initialize).map_or(Initialize::Absent, initialize),
        config: named(Key::Config).map(config),
        leader: keys.get(LEADER).and_then(leader),
        members: keys.iter().filter_map(|(name, raw)| member(name, raw)).collect(),
        status: keys.get(STATUS).or_else(|| keys.get(LEGACY_STATUS)).map(status).unwrap_or_default(),
        failover: named(Key::Failover).and_then(failover),
        sync: named(Key::Sync).map(sync).unwrap_or_default(),
        history: named(Key::History).map(history),
        failsafe: keys.get(FAILSAFE).and_then(failsafe),
    }
}

/// initdb makes identifiers of the time: shorter ones are garbage.
const SYSTEM_ID_DIGITS: usize = 10;

fn initialize(raw: &RawKey) -> Initialize {
    let text = raw.text();
    if text.is_empty() {
        return Initialize::InProgress(raw.version());
    }
    let is_id = text.len() >= SYSTEM_ID_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(number) if is_id => Initialize::Done(SystemId(number)),
        Ok(_) | Err(_) => Initialize::Invalid(text, raw.version()),
    }
}

fn config(raw: &RawKey) -> ClusterConfig {
    ClusterConfig { version: raw.version(), data: object(&raw.value) }
}

/// An empty value is nobody, as for the reference.
fn leader(raw: &RawKey) -> Option<Leader> {
    let name = raw.text();
    let leader =
        || Leader { name: MemberName::new(name.as_str()), version: Version(raw.created), session: raw.session.clone() };
    (!name.is_empty()).then(leader)
}

fn member(key: &str, raw: &RawKey) -> Option<(MemberName, Member)> {
    let name = key.strip_prefix(MEMBERS).filter(|name| !name.is_empty() && !name.contains('/'))?;
    let name = MemberName::new(name);
    let data = member_data(&raw.value);
    Some((name.clone(), Member { name, version: raw.version(), session: raw.session.clone(), data }))
}

/// The content of a member's key: a JSON object, or a connection URL as the first versions wrote it.
pub fn member_data(value: &[u8]) -> MemberData {
    if value.starts_with(b"postgres") {
        return legacy_member(&String::from_utf8_lossy(value));
    }
    let mut map = object(value).unwrap_or_default();
    let conn_kwargs = map.get("conn_kwargs").and_then(conn_url_from_parts);
    MemberData {
        conn_url: string(&mut map, "conn_url").filter(|url| !url.is_empty()).or(conn_kwargs),
        api_url: string(&mut map, "api_url"),
        proxy_url: string(&mut map, "proxy_url"),
        state: string(&mut map, "state"),
        role: string(&mut map, "role"),
        version: string(&mut map, "version"),
        xlog_location: lsn(&mut map, "xlog_location"),
        receive_lsn: lsn(&mut map, "receive_lsn"),
        replay_lsn: lsn(&mut map, "replay_lsn"),
        replication_state: string(&mut map, "replication_state"),
        timeline: take(&mut map, "timeline")
            .as_ref()
            .and_then(integer)
            .and_then(|t| u32::try_from(t).ok())
            .map(Timeline),
        tags: Tags(nested(&mut map, "tags").unwrap_or_default()),
        pending_restart: flag(&mut map, "pending_restart").unwrap_or(false),
        pending_restart_reason: nested(&mut map, "pending_restart_reason").unwrap_or_default(),
        scheduled_restart: nested(&mut map, "scheduled_restart"),
        checkpoint_after_promote: flag(&mut map, "checkpoint_after_promote"),
        pause: flag(&mut map, "pause").unwrap_or(false),
        slots_at_risk: texts(nested(&mut map, "slots_at_risk").unwrap_or_default()),
        extra: map,
    }
}

/// `postgres://host/db?application_name=API_URL`
fn legacy_member(url: &str) -> MemberData {
    let (rest, fragment) = url.split_once('#').map_or((url, None), |(rest, fragment)| (rest, Some(fragment)));
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    let conn_url = fragment.filter(|f| !f.is_empty()).map_or(base.to_owned(), |f| format!("{base}#{f}"));
    let api_url = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, value)| *name == "application_name" && !value.is_empty())
        .map(|(_, value)| percent_decoded(value));
    MemberData { conn_url: Some(conn_url), api_url, ..MemberData::default() }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| first == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn conn_url_from_parts(kwargs: &Value) -> Option<String> {
    let host = kwargs.get("host")?.as_str().filter(|host| !host.is_empty())?;
    let port = kwargs.get("port").and_then(integer).unwrap_or(5432);
    let bracketed = host.contains(':') && !host.starts_with('[');
    Some(if bracketed { format!("postgresql://[{host}]:{port}") } else { format!("postgresql://{host}:{port}") })
}

/// A bare number (what `/optime/leader` holds) or an object. `slots` and `retain_slots` may be JSON inside a string.
fn status(raw: &RawKey) -> Status {
    match serde_json::from_slice(&raw.value) {
        Ok(Value::Object(map)) => Status {
            last_lsn: Lsn(map.get("optime").and_then(integer).unwrap_or(0)),
            slots: match map.get("slots").map(unwrapped) {
                Some(Value::Object(slots)) => {
                    slots.iter().map(|(name, value)| (name.clone(), Lsn(integer(value).unwrap_or(0)))).collect()
                }
                _ => BTreeMap::new(),
            },
            retain_slots: match map.get("retain_slots").map(unwrapped) {
                Some(Value::Array(names)) => names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
                _ => Vec::new(),
            },
        },
        Ok(Value::Number(number)) => Status { last_lsn: Lsn(number.as_u64().unwrap_or(0)), ..Status::default() },
        _ => Status::default(),
    }
}

fn unwrapped(value: &Value) -> Value {
    match value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        other => other.clone(),
    }
}

/// An object, or `leader:candidate` as older versions wrote it. A request that names nobody is none.
fn failover(raw: &RawKey) -> Option<FailoverRequest> {
    let (leader, candidate, scheduled_at) = match serde_json::from_slice(&raw.value) {
        Ok(Value::Object(mut map)) => {
            let at = take(&mut map, "scheduled_at").filter(truthy);
            (string(&mut map, "leader"), string(&mut map, "member"), at.as_ref().map(schedule))
        }
        Ok(_) => return None,
        Err(_) => {
            let text = raw.text();
            let mut names = text.split(':').map(|name| name.trim().to_owned());
            (names.next(), names.next(), None)
        }
    };
    let member = |name: Option<String>| name.filter(|name| !name.is_empty()).map(MemberName::new);
    let (leader, candidate) = (member(leader), member(candidate));
    (leader.is_some() || candidate.is_some()).then(|| FailoverRequest {
        version: raw.version(),
        leader,
        candidate,
        scheduled_at,
    })
}

fn schedule(value: &Value) -> Schedule {
    let Value::String(text) = value else {
        return Schedule::Invalid(patroni_core::json::compact(value));
    };
    match time::schedule::parse(text, None) {
        Some(written) if written.has_offset => Schedule::At(written.wall, written.iso_text),
        Some(written) => Schedule::Invalid(written.iso_text),
        None => Schedule::Invalid(text.clone()),
    }
}

/// Without a leader the rest counts for nothing; a quorum that is no number spoils the key.
fn sync(raw: &RawKey) -> SyncState {
    let empty = SyncState { version: Some(raw.version()), ..SyncState::default() };
    let Some(mut map) = object(&raw.value) else {
        return empty;
    };
    let Some(leader) = string(&mut map, "leader").filter(|leader| !leader.is_empty()) else {
        return empty;
    };
    let quorum = match map.get("quorum").filter(|quorum| truthy(quorum)) {
        None => 0,
        Some(quorum) => match integer(quorum).and_then(|quorum| u32::try_from(quorum).ok()) {
            Some(quorum) => quorum,
            None => return empty,
        },
    };
    let standbys = string(&mut map, "sync_standby").unwrap_or_default();
    let standbys = standbys.split(',').map(str::trim).filter(|name| !name.is_empty()).map(MemberName::new).collect();
    SyncState { leader: Some(MemberName::new(leader)), standbys, quorum, ..empty }
}

fn history(raw: &RawKey) -> History {
    let lines: Option<Vec<Vec<Value>>> = match serde_json::from_slice(&raw.value) {
        Ok(Value::Array(lines)) => lines
            .into_iter()
            .map(|line| match line {
                Value::Array(fields) => Some(fields),
                _ => None,
            })
            .collect(),
        _ => None,
    };
    let lines = lines.unwrap_or_default().into_iter().map(HistoryLine).collect();
    History { version: raw.version(), raw: raw.text(), lines }
}

fn failsafe(raw: &RawKey) -> Option<BTreeMap<MemberName, String>> {
    let entry = |(name, url): (String, Value)| Some((MemberName::new(name), url.as_str()?.to_owned()));
    object(&raw.value).map(|map| map.into_iter().filter_map(entry).collect())
}

fn object(value: &[u8]) -> Option<JsonMap> {
    serde_json::from_slice(value).ok()
}

fn take(map: &mut JsonMap, key: &str) -> Option<Value> {
    map.shift_remove(key)
}

fn string(map: &mut JsonMap, key: &str) -> Option<String> {
    match take(map, key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn flag(map: &mut JsonMap, key: &str) -> Option<bool> {
    take(map, key).as_ref().map(truthy)
}

fn nested(map: &mut JsonMap, key: &str) -> Option<JsonMap> {
    match take(map, key) {
        Some(Value::Object(nested)) => Some(nested),
        _ => None,
    }
}

/// The pairs whose value is a text.
fn texts(map: JsonMap) -> BTreeMap<String, String> {
    let text = |value: Value| if let Value::String(text) = value { Some(text) } else { None };
    map.into_iter().filter_map(|(key, value)| Some((key, text(value)?))).collect()
}

fn lsn(map: &mut JsonMap, key: &str) -> Option<Lsn> {
    take(map, key).as_ref().and_then(integer).map(Lsn)
}

/// A whole number that is not negative, possibly inside a string or with a fraction.
fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            let float = number.as_f64().filter(|float| *float >= 0.0 && *float < 1.8e19)?;
            Some(float.round_ties_even() as u64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
