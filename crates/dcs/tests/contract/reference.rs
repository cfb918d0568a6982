//! Living together with Patroni 4.1: what one writes, the other reads, byte for byte. Needs the reference
//! (`target/reference`, which `./test` makes, `/opt/ref/venv`, or `PATRONI_REFERENCE_PYTHON`); without it only the recorded rows of `wire` speak for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use patroni_core::cluster::{FailoverRequest, HistoryLine, MemberData, Schedule, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::tags::Tags;
use patroni_core::time::WallTime;
use patroni_dcs::{Expected, Key, LeaderUpdate, Timing, wire};
use serde_json::{Value, json};

use crate::consul::Consul;
use crate::etcd::Etcd;
use crate::etcd_v2::EtcdV2;
use crate::zookeeper::ZooKeeper;
use crate::{TIMING, World, leader_of, load};

pub(crate) const LONG: Timing = Timing { ttl: std::time::Duration::from_secs(60), ..TIMING };
const KEYS: [&str; 8] = ["config", "failover", "failsafe", "history", "initialize", "members/a", "status", "sync"];

/// The class of the reference, driven by lines of JSON: a name of a method and its arguments.
const SCRIPT: &str = r#"
import datetime, importlib, json, sys
from patroni.postgresql.mpp import get_mpp

module, kind, section, name = sys.argv[1:]
dcs = getattr(importlib.import_module('patroni.dcs.' + module), kind)(
    {'namespace': 'service', **json.loads(section), 'scope': 'contract', 'name': name, 'ttl': 60, 'loop_wait': 1,
     'retry_timeout': 6}, get_mpp({}))
for line in sys.stdin:
    method, arguments = json.loads(line)
    cluster = dcs.get_cluster()
    if method == 'show':
        print(json.dumps({
            'initialize': cluster.initialize, 'config': cluster.config and cluster.config.data,
            'leader': cluster.leader_name, 'status': cluster.status,
            'members': {m.name: m.data for m in cluster.members},
            'one_lease': kind == 'Etcd' or bool(cluster.leader) and cluster.leader.session in [m.session for m in cluster.members],
            'failover': cluster.failover and [cluster.failover.leader, cluster.failover.candidate,
                                              cluster.failover.scheduled_at.isoformat()],
            'sync': [cluster.sync.leader, cluster.sync.sync_standby, cluster.sync.quorum],
            'history': cluster.history and cluster.history.lines, 'failsafe': cluster.failsafe}))
    else:
        if method in ('update_leader', 'delete_leader'):
            arguments.insert(0, cluster if method == 'update_leader' else cluster.leader)
        if method == 'manual_failover':
            arguments[2] = datetime.datetime.fromisoformat(arguments[2])
        print(json.dumps(bool(getattr(dcs, method)(*arguments))))
    sys.stdout.flush()
"#;

pub(crate) fn python() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/reference/bin/python");
    let given = std::env::var_os("PATRONI_REFERENCE_PYTHON").map(PathBuf::from);
    let candidates = given.into_iter().chain([installed.into(), "/opt/ref/venv/bin/python".into()]);
    candidates.into_iter().find(|python| python.exists())
}

pub(crate) struct Reference {
    child: tokio::process::Child,
    input: tokio::process::ChildStdin,
    output: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

impl Reference {
    fn start(python: PathBuf, world: &impl World, name: &str) -> Self {
        Self::start_of(python, world.reference(), name, &[])
    }

    /// Of this module, class and section; with these variables.
    pub(crate) fn start_of(
        python: PathBuf,
        (module, class, section): (&str, &str, Value),
        name: &str,
        variables: &[(&str, String)],
    ) -> Self {
        use tokio::io::AsyncBufReadExt;
        let mut child = tokio::process::Command::new(python)
            .args(["-c", SCRIPT, module, class, &section.to_string(), name])
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the reference does not start");
        let input = child.stdin.take().unwrap();
        let output = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Reference { child, input, output }
    }

    pub(crate) async fn call(&mut self, method: &str, arguments: Value) -> Value {
        use tokio::io::AsyncWriteExt;
        let line = format!("{}\n", json!([method, arguments]));
        self.input.write_all(line.as_bytes()).await.expect("the reference is gone");
        let answer = tokio::time::timeout(std::time::Duration::from_secs(30), self.output.next_line()).await;
        let answer = answer.expect("the reference does not answer").unwrap().expect("the reference ended");
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) async fn stop(mut self) {
        self.child.kill().await.expect("cannot kill");
    }
}

pub(crate) fn object(value: Value) -> patroni_core::JsonMap {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

pub(crate) fn member() -> MemberData {
    MemberData {
        conn_url: Some("postgres://127.0.0.1:5432/postgres".into()),
        api_url: Some("http://127.0.0.1:8008/patroni".into()),
        state: Some("running".into()),
        role: Some("primary".into()),
        version: Some("4.1.5".into()),
        checkpoint_after_promote: Some(false),
        tags: Tags(object(json!({"clonefrom": true, "name": "Zoë \u{1d11e}"}))),
        xlog_location: Some(Lsn(67_108_960)),
        timeline: Some(Timeline(2)),
        pause: true,
        ..MemberData::default()
    }
}

pub(crate) fn update() -> LeaderUpdate {
    LeaderUpdate {
        last_lsn: Some(Lsn(67_108_960)),
        slots: BTreeMap::from([("b".to_owned(), Lsn(67_108_960))]),
        retain_slots: Vec::new(),
        failsafe: Some(BTreeMap::from([("a".into(), "http://127.0.0.1:8008/patroni".to_owned())])),
    }
}

pub(crate) fn request() -> FailoverRequest {
    let at = Schedule::At(WallTime(1_767_262_210_500), "2026-01-01T10:10:10.500000+00:00".into());
    FailoverRequest {
        version: Version(0),
        leader: Some("a".into()),
        candidate: Some("b".into()),
        scheduled_at: Some(at),
    }
}

pub(crate) fn history() -> Vec<HistoryLine> {
    vec![HistoryLine(vec![
        json!(1),
        json!(25_623_960),
        json!("no recovery target specified"),
        json!("2019-09-05T15:52:09+02:00"),
        json!("a"),
    ])]
}

/// Everything but the keys of members and of the leader.
pub(crate) async fn write_documents(a: &dyn patroni_dcs::Dcs) {
    for (key, value) in [
        (Key::Initialize, "7000000000000000001".to_owned()),
        (Key::Config, wire::config(&object(json!({"ttl": 30, "postgresql": {"parameters": {"x": 1.5}}})))),
        (Key::Failover, wire::failover(&request())),
        (Key::Sync, wire::sync(Some(&"a".into()), &["c".into(), "b".into()], 1)),
        (Key::History, wire::history(&history())),
    ] {
        assert!(a.write(key, &value, Expected::Anything).await.is_done());
    }
}

async fn write_ours(world: &impl World) -> std::sync::Arc<dyn patroni_dcs::Dcs> {
    let a = world.member("a", LONG);
    write_documents(&*a).await;
    assert!(a.touch_member(&member()).await.is_done());
    assert!(a.acquire().await.is_done());
    assert!(a.renew(&update()).await.is_done());
    a
}

async fn raw(world: &impl World) -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    for key in KEYS {
        let value = world.get_raw(key).await.unwrap_or_else(|| panic!("{key} is absent"));
        all.insert(key, String::from_utf8(value).unwrap());
    }
    all
}

#[tokio::test]
async fn on_etcd() {
    the_reference_reads_what_we_write_and_the_reverse(&Etcd::start(1).await).await;
}

#[tokio::test]
async fn on_etcd_v2() {
    the_reference_reads_what_we_write_and_the_reverse(&EtcdV2::start(1).await).await;
}

#[tokio::test]
async fn on_consul() {
    if let Some(consul) = Consul::start().await {
        the_reference_reads_what_we_write_and_the_reverse(&consul).await;
    }
}

#[tokio::test]
async fn on_zookeeper() {
    if let Some(zookeeper) = ZooKeeper::start(1).await {
        the_reference_reads_what_we_write_and_the_reverse(&zookeeper).await;
    }
}

async fn the_reference_reads_what_we_write_and_the_reverse(world: &impl World) {
    let Some(python) = python() else {
        eprintln!("Patroni itself is not installed here: not compared");
        return;
    };
    let a = write_ours(world).await;
    let ours = raw(world).await;
    let mut b = Reference::start(python.clone(), world, "b");
    let shown = b.call("show", json!([])).await;
    let expected = json!({
        "initialize": "7000000000000000001",
        "config": {"ttl": 30, "postgresql": {"parameters": {"x": 1.5}}},
        "leader": "a",
        "status": [67_108_960, {"b": 67_108_960}, []],
        "members": {"a": {
            "conn_url": "postgres://127.0.0.1:5432/postgres", "api_url": "http://127.0.0.1:8008/patroni",
            "state": "running", "role": "primary", "version": "4.1.5", "checkpoint_after_promote": false,
            "tags": {"clonefrom": true, "name": "Zoë \u{1d11e}"}, "xlog_location": 67_108_960, "timeline": 2, "pause": true
        }},
        "one_lease": true,
        "failover": ["a", "b", "2026-01-01T10:10:10.500000+00:00"],
        "sync": ["a", "b,c", 1],
        "history": [[1, 25_623_960, "no recovery target specified", "2019-09-05T15:52:09+02:00", "a"]],
        "failsafe": {"a": "http://127.0.0.1:8008/patroni"}
    });
    assert_eq!(shown, expected);
    let cluster = load(&a).await;

    // Either takes the lead from the other.
    assert_eq!(b.call("attempt_to_acquire_leader", json!([])).await, json!(false));
    assert_eq!(a.release(None).await, Outcome::Done(()));
    assert_eq!(b.call("attempt_to_acquire_leader", json!([])).await, json!(true));
    assert_eq!(a.acquire().await, Outcome::Refused);
    assert_eq!(a.renew(&update()).await, Outcome::Refused);
    assert_eq!(leader_of(&load(&a).await), Some("b"));
    assert_eq!(b.call("delete_leader", json!([])).await, json!(true));
    assert!(a.acquire().await.is_done());
    assert_eq!(a.release(None).await, Outcome::Done(()));
    assert_eq!(a.delete_cluster().await, Outcome::Done(()));
    drop(a);
    b.stop().await;

    // The same content, written by the reference under our name.
    let mut a = Reference::start(python, world, "a");
    let data: Value = serde_json::from_str(&ours["members/a"]).unwrap();
    for (method, arguments) in [
        ("initialize", json!([true, "7000000000000000001"])),
        ("set_config_value", json!([ours["config"]])),
        ("manual_failover", json!(["a", "b", "2026-01-01T10:10:10.500000+00:00"])),
        ("write_sync_state", json!(["a", ["c", "b"], 1])),
        ("set_history_value", json!([ours["history"]])),
        ("touch_member", json!([data])),
        ("attempt_to_acquire_leader", json!([])),
        ("write_status", json!([{"optime": 67_108_960, "slots": {"b": 67_108_960}}])),
        ("write_failsafe", json!([{"a": "http://127.0.0.1:8008/patroni"}])),
    ] {
        a.call(method, arguments).await;
    }
    assert_eq!(raw(world).await, ours, "byte for byte");
    let theirs = load(&world.member("patronictl", LONG)).await;
    assert_eq!(theirs.members["a"].data, cluster.members["a"].data);
    assert_eq!(theirs.leader_name(), cluster.leader_name());
    assert_eq!(
        (theirs.status, theirs.initialize, theirs.failsafe),
        (cluster.status, cluster.initialize, cluster.failsafe)
    );
    assert_eq!(
        theirs.failover.map(|f| (f.leader, f.candidate, f.scheduled_at)),
        cluster.failover.map(|f| (f.leader, f.candidate, f.scheduled_at))
    );
    assert_eq!(
        (theirs.sync.leader, theirs.sync.standbys, theirs.sync.quorum),
        (cluster.sync.leader, cluster.sync.standbys, cluster.sync.quorum)
    );
    assert_eq!(theirs.history.map(|h| h.lines), cluster.history.map(|h| h.lines));
    assert_eq!(theirs.config.map(|c| c.data), cluster.config.map(|c| c.data));

    // Our agent, started in place of the reference's, goes on with its lease.
    let successor = world.member("a", LONG);
    assert!(successor.renew(&update()).await.is_done());
    a.stop().await;
}
