//! The forecast that patronictl shows, made from what store and peers tell, is what each node's own decision comes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::{
    Cluster, FailoverRequest, History, HistoryLine, Initialize, Leader, Member, MemberData, Status, SyncState, Version,
};
use patroni_core::decide::decide;
use patroni_core::disk::{Disks, Place, Room, Space};
use patroni_core::election::Election;
use patroni_core::facts::{Answer, Answers, Facts, JobFact, Op, Outcome, RewindCheck, UpstreamCheck, Watchdog};
use patroni_core::forecast::forecast;
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::member_key::MemberKey;
use patroni_core::memory::Memory;
use patroni_core::name::{MemberName, SystemId};
use patroni_core::peer::{Peer, PeerStatus};
use patroni_core::plan::Step;
use patroni_core::server::{DataDir, Postmaster, Running, Server, Wal};
use patroni_core::settings::Dynamic;
use patroni_core::tags::Tags;
use patroni_core::time::{Moment, Now, WallTime};
use patroni_core::view::{Addresses, View};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::scene::settings;

/// `a` leads, and then it does not any more.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
struct Node {
    is_primary: bool,
    answers: bool,
    received: Option<u64>,
    replayed: Option<u64>,
    timeline: Option<u32>,
    tags: Value,
    watchdog_failed: bool,
    space: Space,
}

#[derive(Clone, Debug)]
struct Situation {
    nodes: Vec<Node>,
    dynamic: Value,
    sync: Option<(&'static str, Vec<&'static str>, u32)>,
    last_lsn: u64,
    history: Option<u32>,
    failsafe: Option<Vec<&'static str>>,
    request: Option<(Option<&'static str>, Option<&'static str>)>,
}

fn node() -> impl Strategy<Value = Node> {
    let position = || option::weighted(0.9, select(vec![0, 1, 5, 5, 5, 6, 9]));
    let tags = prop_oneof![
        6 => Just(json!({})),
        1 => Just(json!({"nofailover": true})),
        3 => (0..3_i64).prop_map(|priority| json!({"failover_priority": priority})),
    ];
    let flags = (prop::bool::weighted(0.05), prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    let space = select(vec![Space::Unknown, Space::Enough, Space::Full]);
    (flags, position(), position(), option::weighted(0.9, 1..3_u32), tags, space).prop_map(
        |((is_primary, answers, watchdog_failed), received, replayed, timeline, tags, space)| Node {
            is_primary,
            answers,
            received,
            replayed,
            timeline,
            tags,
            watchdog_failed,
            space,
        },
    )
}

fn situation() -> impl Strategy<Value = Situation> {
    let dynamic = (
        select(vec![json!("off"), json!("on"), json!("quorum")]),
        any::<bool>(),
        select(vec![0, 3, 1_000_000]),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
    );
    let dynamic = dynamic.prop_map(|(mode, check_timeline, lag, pause, standby, failsafe)| {
        let standby = standby.then(|| json!({"host": "remote"}));
        json!({"synchronous_mode": mode, "check_timeline": check_timeline, "maximum_lag_on_failover": lag, "pause": pause,
               "standby_cluster": standby, "failsafe_mode": failsafe})
    });
    let sync = option::weighted(0.6, (select(vec!["a", "a", "b"]), subsequence(NAMES.to_vec(), 0..4), 0..3_u32));
    let named = || option::of(select(vec!["a", "b", "c", "z"]));
    (
        vec(node(), 1..5),
        dynamic,
        sync,
        select(vec![0, 5, 6, 9]),
        option::weighted(0.7, 0..3_u32),
        option::weighted(0.5, subsequence(NAMES.to_vec(), 1..5)),
        option::weighted(0.15, (named(), named())),
    )
        .prop_map(|(nodes, dynamic, sync, last_lsn, history, failsafe, request)| Situation {
            nodes,
            dynamic,
            sync,
            last_lsn,
            history,
            failsafe,
            request,
        })
}

impl Situation {
    /// All but the leader, which is the first name.
    fn named(&self) -> impl Iterator<Item = (MemberName, &Node)> {
        NAMES[1..].iter().map(|name| MemberName::from(*name)).zip(&self.nodes)
    }

    fn cluster(&self) -> Cluster {
        let leader = Node { is_primary: true, ..self.nodes[0].clone() };
        let everybody = std::iter::once((MemberName::from("a"), &leader)).chain(self.named());
        let address = |name: &str| format!("http://{name}:8008/patroni");
        let history = self.history.map(|timeline| {
            let lines: Vec<Value> =
                (1..=timeline).map(|number| json!([number, 1, "reason", "2026-01-01T00:00:00+00:00", "a"])).collect();
            let raw = Value::Array(lines.clone()).to_string();
            let lines = lines.iter().map(|line| HistoryLine(line.as_array().cloned().unwrap_or_default())).collect();
            History { version: Version(1), raw, lines }
        });
        Cluster {
            initialize: Initialize::Done(SystemId(7)),
            leader: Some(Leader { name: "a".into(), version: Version(9), session: None }),
            members: everybody
                .map(|(name, node)| {
                    let data = MemberData {
                        api_url: Some(address(name.as_str())),
                        conn_url: Some(format!("postgres://{name}:5432/postgres")),
                        state: Some("running".into()),
                        timeline: node.timeline.map(Timeline),
                        tags: node.tags(),
                        ..MemberData::default()
                    };
                    (name.clone(), Member { name, version: Version(5), session: None, data })
                })
                .collect(),
            status: Status { last_lsn: Lsn(self.last_lsn), ..Status::default() },
            sync: self.sync.as_ref().map_or_else(SyncState::default, |(leader, standbys, quorum)| SyncState {
                version: Some(Version(3)),
                leader: Some((*leader).into()),
                standbys: standbys.iter().filter(|name| *name != leader).map(|name| (*name).into()).collect(),
                quorum: *quorum,
            }),
            failover: self.request.map(|(leader, candidate)| FailoverRequest {
                version: Version(4),
                leader: leader.map(MemberName::from),
                candidate: candidate.map(MemberName::from),
                scheduled_at: None,
            }),
            history,
            failsafe: self.failsafe.as_ref().map(|names| names.iter().map(|n| ((*n).into(), address(n))).collect()),
            config: None,
        }
    }

    fn dynamic(&self) -> Dynamic {
        Dynamic::of(self.dynamic.as_object().expect("a mapping"))
    }

    /// What the nodes say when they are asked.
    fn peers(&self) -> BTreeMap<MemberName, Peer> {
        self.named().map(|(name, node)| (name, node.peer())).collect()
    }
}

impl Node {
    fn tags(&self) -> Tags {
        Tags(self.tags.as_object().cloned().expect("a mapping"))
    }

    fn peer(&self) -> Peer {
        if !self.answers {
            return Peer::Unreachable("no answer".into());
        }
        let position = if self.is_primary { None } else { self.received.max(self.replayed) };
        Peer::Status(PeerStatus {
            in_recovery: !self.is_primary,
            wal_position: Lsn(position.unwrap_or(0)),
            location: self.is_primary.then(|| self.location()),
            timeline: self.timeline.map(Timeline),
            replication_state: None,
            tags: self.tags(),
            watchdog_failed: self.watchdog_failed,
            space: self.disks().space(),
        })
    }

    /// How far it has written, as a primary.
    fn location(&self) -> Lsn {
        Lsn(self.received.max(self.replayed).unwrap_or(1))
    }

    /// As the node itself sees them.
    fn disks(&self) -> Disks {
        let room = |free| Ok(Room { total: 1000, free, needed: 16 });
        let wal = match self.space {
            Space::Unknown => Err("it does not answer".to_owned()),
            Space::Enough => room(900),
            Space::Full => room(3),
        };
        Disks(BTreeMap::from([(Place::Data, room(900)), (Place::Wal, wal)]))
    }

    fn server(&self) -> Server {
        let wal = match self.is_primary {
            true => Wal::Primary { location: self.location() },
            false => Wal::Standby {
                received: self.received.map(Lsn),
                replayed: self.replayed.map(Lsn),
                replayed_timestamp: None,
                paused: false,
                latest_end: None,
                replication_state: None,
            },
        };
        let running = Running {
            start_time: "2026-01-01 00:00:00+00:00".into(),
            server_version: 150_000,
            statistics_reset: None,
            wal,
            timeline: self.timeline.map(Timeline),
            control_timeline: self.timeline.map(Timeline),
            replication: Vec::new(),
            slots: BTreeMap::new(),
            pending_restart: Default::default(),
        };
        Server { data_dir: DataDir::Present(SystemId(7)), postmaster: Postmaster::Running(running), other_wal: false }
    }

    fn facts(&self, name: &MemberName, cluster: &Cluster, dynamic: &Dynamic, seconds: u64) -> Facts {
        let mut settings = settings();
        settings.name = name.clone();
        settings.dynamic = dynamic.clone();
        settings.tags = self.tags();
        let (settings, server) = (Arc::new(settings), Arc::new(self.server()));
        let now = Now { boot: Moment(Duration::from_secs(seconds)), wall: WallTime(0) };
        Facts {
            now,
            shown: Arc::new(View::initial(Arc::clone(&settings), Arc::clone(&server), now.boot)),
            settings,
            cluster: Ok(Arc::new(cluster.clone())),
            server,
            job: JobFact::Idle,
            requests: BTreeMap::new(),
            shutdown: false,
            watchdog: Watchdog { required: self.watchdog_failed, healthy: !self.watchdog_failed },
            failsafe_leader: None,
            addresses: Addresses { api_url: format!("http://{name}:8008/patroni"), ..Addresses::default() },
            member_key: MemberKey::default(),
            slots: Default::default(),
            standstill: None,
            disks: self.disks(),
            answers: Answers::default(),
        }
    }
}

/// Runs a tick; tells whether it wants the lease, and what is remembered.
fn tick(memory: &Memory, mut facts: Facts, peers: &BTreeMap<MemberName, Peer>) -> (bool, Memory) {
    loop {
        let answer = match decide(memory, &facts) {
            Step::Finish(plan) => return (false, plan.memory),
            Step::Run(Op::AcquireLease) => return (true, memory.clone()),
            Step::Run(Op::PollPeers(asked)) => {
                let silent = || Peer::Unreachable("no answer".into());
                Answer::Peers(
                    asked.into_keys().map(|n| (n.clone(), peers.get(&n).cloned().unwrap_or_else(silent))).collect(),
                )
            }
            Step::Run(Op::CheckRewind(_)) => Answer::Rewind(RewindCheck::NotNeeded),
            Step::Run(Op::CheckUpstream(_)) => Answer::Upstream(Ok(UpstreamCheck::UpToDate)),
            Step::Run(Op::WriteFailover(..)) => Answer::Failover(Outcome::Done(())),
            Step::Run(Op::Initialize(_)) => Answer::Initialize(Outcome::Done(())),
            Step::Run(other) => panic!("a node that does not lead asks for {other:?}"),
        };
        facts.answers.record(answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each node sees the leader lead, and then no more. Those whose own decision asks for the lease are those that the forecast
    /// names, whether it is made before or after; and nothing was said against them.
    #[test]
    fn the_forecast_is_what_the_nodes_decide(situation in situation()) {
        let (before, dynamic, peers) = (situation.cluster(), situation.dynamic(), situation.peers());
        let mut after = before.clone();
        after.leader = None;
        let mut takers = Vec::new();
        for (name, node) in situation.named().filter(|(_, node)| node.answers) {
            let Peer::Status(status) = node.peer() else { continue };
            if !status.is_running() {
                continue;
            }
            let (_, memory) = tick(&Memory::new(), node.facts(&name, &before, &dynamic, 1000), &peers);
            if tick(&memory, node.facts(&name, &after, &dynamic, 2000), &peers).0 {
                takers.push(name);
            }
        }
        let forecast_before = forecast(&before, &dynamic, &peers);
        prop_assert_eq!(&forecast_before.takers, &takers, "{:?}", forecast_before);
        if situation.history.is_some_and(|lines| lines > 0) {
            prop_assert_eq!(&forecast(&after, &dynamic, &peers).takers, &takers);
        }
        if situation.request.is_none() {
            let election = Election::new(&after, &dynamic);
            for name in &takers {
                prop_assert_eq!(election.obstacles(name, &peers[name]), vec![], "{}", name);
            }
        }
    }
}
