use std::collections::BTreeMap;

use patroni_core::cluster::{
    Cluster, FailoverRequest, HistoryLine, Initialize, MemberData, Schedule, SyncState, Version,
};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::tags::Tags;
use patroni_core::time::{WallTime, schedule};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::LeaderUpdate;

fn object(value: Value) -> patroni_core::JsonMap {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn load(name: &str, value: &[u8]) -> Cluster {
    let raw = RawKey { value: value.to_vec(), modified: 7, created: 3, session: Some("9".into()) };
    cluster(&BTreeMap::from([(name.to_owned(), raw)]))
}

/// A member with all keys; the text is one that the reference's `touch_member` wrote, extended by the rarer keys in
/// the order of its code.
const MEMBER: &str = concat!(
    r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8008/patroni","state":"running","#,
    r#""role":"replica","version":"4.1.5","proxy_url":"postgres://p:1/postgres","checkpoint_after_promote":false,"#,
    r#""tags":{"clonefrom":true,"z":"\u00e4"},"pending_restart":true,"#,
    r#""pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"101"}},"#,
    r#""xlog_location":67108960,"replay_lsn":67108960,"receive_lsn":67108961,"replication_state":"streaming","#,
    r#""timeline":2,"scheduled_restart":{"schedule":"2026-01-01T00:00:00+00:00"},"pause":true,"#,
    r#""slots_at_risk":{"cdc":"not created yet"},"future":[1]}"#
);

#[test]
fn a_member_is_read_and_written_byte_for_byte() {
    let data = member_data(MEMBER.as_bytes());
    let expected = MemberData {
        conn_url: Some("postgres://127.0.0.1:5433/postgres".into()),
        api_url: Some("http://127.0.0.1:8008/patroni".into()),
        proxy_url: Some("postgres://p:1/postgres".into()),
        state: Some("running".into()),
        role: Some("replica".into()),
        version: Some("4.1.5".into()),
        xlog_location: Some(Lsn(67_108_960)),
        receive_lsn: Some(Lsn(67_108_961)),
        replay_lsn: Some(Lsn(67_108_960)),
        replication_state: Some("streaming".into()),
        timeline: Some(Timeline(2)),
        tags: Tags(object(json!({"clonefrom": true, "z": "ä"}))),
        pending_restart: true,
        pending_restart_reason: object(json!({"max_connections": {"old_value": "100", "new_value": "101"}})),
        scheduled_restart: Some(object(json!({"schedule": "2026-01-01T00:00:00+00:00"}))),
        checkpoint_after_promote: Some(false),
        pause: true,
        slots_at_risk: BTreeMap::from([("cdc".to_owned(), "not created yet".to_owned())]),
        extra: object(json!({"future": [1]})),
    };
    assert_eq!(data, expected);
    assert_eq!(member(&data), MEMBER);
    assert_eq!(member(&MemberData::default()), "{}");
}

#[test]
fn members_of_other_versions_are_read() {
    let legacy = member_data(b"postgres://u:p@h:5432/postgres?application_name=http://h:8008/patroni%3Fa+b");
    assert_eq!(legacy.conn_url.as_deref(), Some("postgres://u:p@h:5432/postgres"));
    assert_eq!(legacy.api_url.as_deref(), Some("http://h:8008/patroni?a b"));
    let odd =
        member_data(br#"{"xlog_location":"51","receive_lsn":1.5,"replay_lsn":"x","timeline":"3","state":5,"tags":[]}"#);
    assert_eq!((odd.xlog_location, odd.receive_lsn, odd.replay_lsn), (Some(Lsn(51)), Some(Lsn(2)), None));
    assert_eq!((odd.timeline, odd.state, odd.tags), (Some(Timeline(3)), None, Tags::default()));
    let parts = member_data(br#"{"conn_kwargs":{"host":"::1"}}"#);
    assert_eq!(parts.conn_url.as_deref(), Some("postgresql://[::1]:5432"));
}

#[test]
fn requests_for_failover() {
    let request = |text: &str| load("failover", text.as_bytes()).failover;
    let wanted = |leader: Option<&str>, candidate: Option<&str>, scheduled_at| {
        let name = |name: Option<&str>| name.map(MemberName::from);
        Some(FailoverRequest { version: Version(7), leader: name(leader), candidate: name(candidate), scheduled_at })
    };
    let at = Some(Schedule::At(WallTime(1_452_766_197_139), "2016-01-14T10:09:57.139400+00:00".into()));
    let full = r#"{"leader":"a","member":"b","scheduled_at":"2016-01-14T10:09:57.1394Z"}"#;
    assert_eq!(request(full), wanted(Some("a"), Some("b"), at));
    assert_eq!(request("abc : def:x"), wanted(Some("abc"), Some("def"), None));
    assert_eq!(request("abc"), wanted(Some("abc"), None, None));
    assert_eq!(request(r#"{"member":"b"}"#), wanted(None, Some("b"), None));
    let naive = Some(Schedule::Invalid("2026-01-01T00:00:00".into()));
    assert_eq!(request(r#"{"leader":"a","scheduled_at":"2026-01-01"}"#), wanted(Some("a"), None, naive));
    let garbage = Some(Schedule::Invalid("soon".into()));
    assert_eq!(request(r#"{"leader":"a","scheduled_at":"soon"}"#), wanted(Some("a"), None, garbage));
    for nobody in ["", "{}", "null", "[]", "5", r#"{"leader":"","member":null}"#, ":"] {
        assert_eq!(request(nobody), None, "{nobody:?}");
    }
    let written = request(full).map(|request| failover(&request));
    let expected = r#"{"leader":"a","member":"b","scheduled_at":"2016-01-14T10:09:57.139400+00:00"}"#;
    assert_eq!(written.as_deref(), Some(expected));
}

#[test]
fn the_sync_state() {
    let state = |text: &str| load("sync", text.as_bytes()).sync;
    let empty = SyncState { version: Some(Version(7)), ..SyncState::default() };
    let full =
        SyncState { leader: Some("a".into()), standbys: vec!["c".into(), "b".into()], quorum: 1, ..empty.clone() };
    assert_eq!(state(r#"{"leader":"a","quorum":"1","sync_standby":"c, ,b,"}"#), full);
    for garbage in ["", "{", "[]", "{}", r#"{"leader":"","sync_standby":"b"}"#, r#"{"leader":"a","quorum":"x"}"#] {
        assert_eq!(state(garbage), empty, "{garbage:?}");
    }
    assert_eq!(Cluster::default().sync.version, None);
    let names = ["c".into(), "b".into()];
    assert_eq!(sync(Some(&"a".into()), &names, 1), r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#);
    assert_eq!(sync(Some(&"a".into()), &[], 0), r#"{"leader":"a","quorum":0,"sync_standby":null}"#);
    assert_eq!(sync(None, &[], 0), r#"{"leader":null,"quorum":0,"sync_standby":null}"#);
}

#[test]
fn the_status() {
    let read = |text: &str| load("status", text.as_bytes()).status;
    let full = r#"{"optime":67108960,"slots":{"b":67108960},"retain_slots":["b"]}"#;
    let update = LeaderUpdate {
        last_lsn: Some(Lsn(67_108_960)),
        slots: BTreeMap::from([("b".into(), Lsn(67_108_960))]),
        retain_slots: vec!["b".into()],
        failsafe: None,
    };
    assert_eq!(status(&update).as_deref(), Some(full));
    assert_eq!(read(full).slots, update.slots);
    assert_eq!(read(full).retain_slots, update.retain_slots);
    let bare = LeaderUpdate { last_lsn: Some(Lsn(5)), ..LeaderUpdate::default() };
    assert_eq!(status(&bare).as_deref(), Some(r#"{"optime":5}"#));
    assert_eq!(status(&LeaderUpdate::default()), None);
    let kept = r#"{"optime":6,"slots":{"b":67108960},"retain_slots":["b"]}"#;
    assert_eq!(status_with_lsn(Some(full.as_bytes()), Lsn(6)), kept);
    assert_eq!(status_with_lsn(Some(b"garbage"), Lsn(6)), r#"{"optime":6}"#);
    assert_eq!(read("123").last_lsn, Lsn(123));
    assert_eq!(load("optime/leader", b"123").status.last_lsn, Lsn(123));
    assert_eq!(read(r#"{"optime":"12","slots":"{\"a\": \"x\"}","retain_slots":"[\"a\"]"}"#).slots["a"], Lsn(0));
    assert_eq!(read("{").last_lsn, Lsn(0));
}

#[test]
fn the_other_keys() {
    assert!(matches!(load("initialize", b"").initialize, Initialize::InProgress(_)));
    assert_eq!(
        load("initialize", b"7000000000000000001").initialize,
        Initialize::Done(SystemId(7_000_000_000_000_000_001))
    );
    for garbage in ["+7000000000000000001", "42", "700000000"] {
        let read = load("initialize", garbage.as_bytes()).initialize;
        assert!(matches!(&read, Initialize::Invalid(text, _) if text == garbage), "{read:?}");
    }
    assert_eq!(load("x", b"").initialize, Initialize::Absent);
    let leader = load("leader", b"a").leader.expect("there is a leader");
    assert_eq!((leader.name.as_str(), leader.version, leader.session.as_deref()), ("a", Version(3), Some("9")));
    assert_eq!(load("leader", b"").leader, None);
    assert_eq!(load("config", b"[]").config.map(|config| config.data), Some(None));
    let config_text = r#"{"ttl":30,"postgresql":{"parameters":{"a":1.0}}}"#;
    let data = load("config", config_text.as_bytes()).config.and_then(|config| config.data);
    assert_eq!(data.map(|data| config(&data)).as_deref(), Some(config_text));
    let lines = r#"[[1,25623960,"no recovery target specified","2019-09-05T15:52:09+02:00","a"]]"#;
    let parsed = load("history", lines.as_bytes()).history.expect("there is a history");
    assert_eq!(parsed.lines[0].timeline(), Some(Timeline(1)));
    assert_eq!((history(&parsed.lines).as_str(), parsed.raw.as_str()), (lines, lines));
    assert_eq!(load("history", b"[1]").history.map(|history| history.lines), Some(Vec::<HistoryLine>::new()));
    let names = BTreeMap::from([("a".into(), "http://h:8008/patroni".to_owned())]);
    assert_eq!(failsafe(&names), r#"{"a":"http://h:8008/patroni"}"#);
    assert_eq!(load("failsafe", failsafe(&names).as_bytes()).failsafe, Some(names));
    assert_eq!(load("failsafe", b"garbage").failsafe, None);
    assert!(load("members/a/b", b"{}").members.is_empty());
    assert!(load("members/", b"{}").members.is_empty());
    assert!(load("0/leader", b"a").leader.is_none());
}

#[test]
fn paths() {
    let prefix = |namespace: &str| ClusterPath { namespace: namespace.into(), scope: "batman".into() }.prefix();
    assert_eq!(prefix("service"), "/service/batman/");
    assert_eq!(prefix("/service/"), "/service/batman/");
    assert_eq!(prefix("//a//b"), "/a/b/batman/");
    assert_eq!(prefix(""), "/batman/");
}

#[test]
fn positions_are_not_lasting() {
    let before = br#"{"state":"running","xlog_location":1,"receive_lsn":1,"replay_lsn":1}"#;
    let after = br#"{"state":"running","xlog_location":2,"receive_lsn":3,"replay_lsn":4}"#;
    assert_eq!(lasting_content(before), lasting_content(after));
    assert_ne!(lasting_content(before), lasting_content(br#"{"state":"stopped","xlog_location":1}"#));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    let names = prop_oneof![
        ".{0,3}",
        prop::sample::select(vec![
            "leader",
            "member",
            "scheduled_at",
            "optime",
            "slots",
            "retain_slots",
            "quorum",
            "sync_standby",
            "timeline",
            "tags",
            "xlog_location",
            "conn_kwargs",
            "conn_url",
            "host",
            "port",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((names.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

const KEYS: [&str; 10] = [
    "initialize",
    "config",
    "leader",
    "members/a",
    "status",
    "failover",
    "sync",
    "history",
    "failsafe",
    "optime/leader",
];

proptest! {
    /// The promise is that reading ends with a result, whatever is stored.
    #[test]
    fn no_content_fails_a_load(name in prop::sample::select(KEYS.to_vec()), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let cluster = load(name, &bytes);
        prop_assert_eq!(cluster.members.len(), usize::from(name == "members/a"));
    }

    #[test]
    fn no_json_fails_a_load(name in prop::sample::select(KEYS.to_vec()), value in any_json()) {
        let cluster = load(name, patroni_core::json::compact(&value).as_bytes());
        prop_assert_eq!(cluster.config.is_some(), name == "config");
    }

    #[test]
    fn what_is_written_is_read_back(value in any_json()) {
        let text = patroni_core::json::compact(&value);
        prop_assert!(text.is_ascii());
        let data = member_data(text.as_bytes());
        prop_assert_eq!(member_data(member(&data).as_bytes()), data);
    }

    #[test]
    fn times_never_panic(text in "[0-9TZ:+., amp-]{0,30}|\\PC{0,20}") {
        if let Some(written) = schedule::parse(&text, None) {
            let again = schedule::parse(&written.iso_text, None);
            prop_assert_eq!(again, Some(written));
        }
    }
}
