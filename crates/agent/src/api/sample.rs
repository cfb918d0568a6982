//! Nodes for tests: the two of a cluster of Patroni 4.1.5 whose answers were recorded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::{
    Cluster, ClusterConfig, Leader, Member, MemberData, Status as StoredStatus, SyncState, Version,
};
use patroni_core::health::NO_ANSWER;
use patroni_core::job::{Job, JobView, Stage};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::server::{DataDir, Postmaster, Replication, Role, Running, Server, State, Wal};
use patroni_core::settings::{Dynamic, RewindSettings, Settings, SynchronousMode};
use patroni_core::tags::Tags;
use patroni_core::time::{Moment, Now, WallTime};
use patroni_core::view::View;
use serde_json::{Value, json};

pub(crate) const NOW: Now = Now { boot: Moment(Duration::from_secs(1000)), wall: WallTime(1_795_398_573_000) };

pub(crate) fn map(value: Value) -> patroni_core::JsonMap {
    value.as_object().expect("an object").clone()
}

pub(crate) fn settings(name: &str) -> Settings {
    Settings {
        scope: "batman".to_owned(),
        name: MemberName::from(name),
        config_version: None,
        dynamic: Dynamic::of(&map(json!({"loop_wait": 2, "retry_timeout": 5}))),
        unusable: Vec::new(),
        tags: Tags(map(json!({"clonefrom": true, "datacenter": "eu 1", "rack": 7}))),
        can_bootstrap: true,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}

pub(crate) fn cluster() -> Cluster {
    let member = |number: u16, state: &str, replication_state: Option<&str>, lsn: u64| {
        let name = MemberName::new(format!("postgresql{number}"));
        let data = MemberData {
            conn_url: Some(format!("postgres://127.0.0.1:3345{number}/postgres")),
            api_url: Some(format!("http://127.0.0.1:3340{number}/patroni")),
            state: Some(state.to_owned()),
            replication_state: replication_state.map(str::to_owned),
            xlog_location: Some(Lsn(lsn)),
            receive_lsn: Some(Lsn(lsn)),
            replay_lsn: None,
            timeline: Some(Timeline(1)),
            tags: settings("").tags,
            ..MemberData::default()
        };
        (name.clone(), Member { name, version: Version(1), session: None, data })
    };
    Cluster {
        config: Some(ClusterConfig { version: Version(1), data: Some(map(json!({"ttl": 30, "loop_wait": 2}))) }),
        leader: Some(Leader { name: MemberName::from("postgresql0"), version: Version(2), session: None }),
        members: BTreeMap::from([
            member(0, "running", None, 67_108_960),
            member(1, "running", Some("streaming"), 67_108_950),
        ]),
        status: StoredStatus { last_lsn: Lsn(67_108_960), ..StoredStatus::default() },
        sync: SyncState::default(),
        ..Cluster::default()
    }
}

pub(crate) fn primary() -> Running {
    Running {
        start_time: "2026-11-23 01:48:43.649964+00:00".to_owned(),
        statistics_reset: None,
        server_version: 150_018,
        wal: Wal::Primary { location: Lsn(67_108_960) },
        timeline: Some(Timeline(1)),
        control_timeline: Some(Timeline(1)),
        replication: vec![Replication {
            user: "replicator".to_owned(),
            application_name: "postgresql1".to_owned(),
            client_addr: Some("127.0.0.1".to_owned()),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sync_priority: 0,
            flush_lsn: Some(Lsn(67_108_900)),
        }],
        slots: BTreeMap::new(),
        pending_restart: patroni_core::JsonMap::new(),
    }
}

pub(crate) fn standby() -> Running {
    let wal = Wal::Standby {
        received: Some(Lsn(67_108_960)),
        replayed: Some(Lsn(67_108_960)),
        replayed_timestamp: None,
        paused: false,
        latest_end: None,
        replication_state: Some("streaming".to_owned()),
    };
    let start_time = "2026-11-23 01:49:27.907407+00:00".to_owned();
    Running { start_time, wal, replication: Vec::new(), ..primary() }
}

/// What the server does: it says this, or does not answer.
pub(crate) fn answer(running: Option<&Running>) -> Postmaster {
    running.map_or_else(|| NO_ANSWER.clone(), |running| Postmaster::Running(running.clone()))
}

pub(crate) fn view(name: &str, running: Running) -> View {
    let is_standby = running.wal.is_standby();
    View {
        settings: Arc::new(settings(name)),
        cluster: Some(Arc::new(cluster())),
        dcs_answers: true,
        dcs_last_seen: Some(WallTime(1_795_398_572_400)),
        server: Arc::new(Server {
            other_wal: false,
            data_dir: DataDir::Present(SystemId(7_711_177_507_295_976_209)),
            postmaster: Postmaster::Running(running),
        }),
        role: if is_standby { Role::Replica } else { Role::Primary },
        state: State::Running,
        lease_until: (!is_standby).then_some(NOW.boot + Duration::from_secs(20)),
        failsafe_until: None,
        job: None,
        scheduled_restart: None,
        watchdog_failed: false,
        checkpoint_pending: false,
        leaving_sync: false,
        kept_out: false,
        holding: false,
        turned_down: Vec::new(),
        slots_at_risk: std::collections::BTreeMap::new(),
        failure: None,
        disks: Default::default(),
        verdict: String::new(),
        ticked_at: NOW.boot,
        ticks: 1,
    }
}

/// A standby in all sorts of trouble, of which its document tells.
pub(crate) fn troubled() -> View {
    let mut running = standby();
    running.timeline = None;
    running.pending_restart = map(json!({"max_connections": {"old_value": "100", "new_value": "101"}}));
    let mut view = view("postgresql1", running);
    let settings = Arc::make_mut(&mut view.settings);
    settings.paused = true;
    settings.synchronous.mode = SynchronousMode::Quorum;
    view.failsafe_until = Some(Moment(NOW.boot.0 * 2));
    view.watchdog_failed = true;
    let mut cluster = cluster();
    cluster.leader = None;
    cluster.sync = SyncState {
        leader: Some(MemberName::from("postgresql0")),
        standbys: vec![MemberName::from("PostgreSQL1")],
        ..SyncState::default()
    };
    view.cluster = Some(Arc::new(cluster));
    view.job = Some(JobView {
        job: Job::Restart { as_standby: false },
        title: "bootstrap from leader 'a'".to_owned(),
        since: Moment(NOW.boot.0 - Duration::from_secs(7)),
        stage: Stage::Committed("copied 12 MB from a".to_owned()),
    });
    view
}
