//! The words of the table language: a named baseline, differences from it, and answers of operations.
//!
//! The node that decides is always `a`; `b` and `c` are its peers. Time is one hour after boot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::{
    Cluster, ClusterConfig, FailoverRequest, History, HistoryLine, Initialize, Leader, Member, MemberData, Schedule,
    SyncState, Version,
};
use patroni_core::decide::{decide, title};
use patroni_core::disk::{Disks, Place, Room, Space};
use patroni_core::facts::{Answer, Answers, Facts, JobFact, Op, Outcome, RewindCheck, UpstreamCheck, Watchdog};
use patroni_core::hang::{Hung, Standstill};
use patroni_core::job::{
    CloneFrom, CloneSource, DemoteMode, Job, JobOutcome, JobView, RewindSource, Stage, Upstream, UpstreamMember,
};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::member_key::MemberKey;
use patroni_core::memory::{Handover, Holding, Memory, Rewind, RewindRefusal, Stalled, Starting, StepDown};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::peer::{DIVERGED, Peer, PeerStatus};
use patroni_core::plan::{JobOrder, Plan, Step};
use patroni_core::request::{Request, RequestId, RestartConditions, ScheduledRestart};
use patroni_core::server::{
    ControlData, ControlState, DataDir, Postmaster, Replication, Role, Running, Server, Slot, SlotKind, State, Wal,
};
use patroni_core::settings::{Dynamic, FullWalSwitchover, RewindSettings, Settings, StandbyCluster, SynchronousMode};
use patroni_core::slots::News;
use patroni_core::sync::{Enforcement, Inspection, Sender, candidates};
use patroni_core::tags::Tags;
use patroni_core::time::{Moment, Now, WallTime};
use patroni_core::view::{Addresses, View};
use serde_json::json;

/// The beginning of every scene.
pub(crate) const NOW: Moment = Moment(Duration::from_secs(3600));
/// The wall clock at that time.
pub(crate) const WALL: WallTime = WallTime(1_700_000_000_000);
/// The position of everybody, unless said otherwise.
pub(crate) const HERE: Lsn = Lsn(0x500_0000);
/// The system identifier of the cluster.
pub(crate) const SYSTEM: SystemId = SystemId(7);
/// When the server that runs was started.
const STARTED: &str = "2024-08-28 19:39:26.352526+00:00";

/// What peers answer when they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peers {
    Streaming,
    Idle,
    Behind,
    FarBehind,
    Ahead,
    Primary,
    Unreachable,
    Nofailover,
    /// `failover_priority` is 3; that of this node is 1.
    Preferred,
    NoWatchdog,
    OldTimeline,
    /// Further by numbers, with WAL of the timeline before.
    AheadOnOldTimeline,
    /// Behind by numbers, and this node does not have its WAL.
    BehindOnNewTimeline,
    NotRunning,
    KeptOut,
    /// A disk is full.
    Full,
    /// `Streaming`, of a node of Patroni, which says nothing of its disks.
    OfPatroni,
}

/// All that a tick depends on, and what its operations will answer.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub memory: Memory,
    pub facts: Facts,
    pub renew: Outcome<Moment>,
    pub acquire: Outcome<Moment>,
    pub release: Outcome<()>,
    pub initialize: Outcome<()>,
    pub config: Outcome<()>,
    pub failover: Outcome<()>,
    pub history: Outcome<()>,
    pub failsafe: Result<Moment, String>,
    pub rewind: RewindCheck,
    pub upstream: Result<UpstreamCheck, String>,
    pub watchdog: bool,
    pub peers: Peers,
    /// Those that answer otherwise.
    pub special_peers: BTreeMap<MemberName, Peers>,
    pub synchronous: Result<Inspection, String>,
    pub standby_names: Outcome<()>,
    pub sync: Outcome<()>,
}

/// The names of all baselines.
pub(crate) const BASELINES: [&str; 8] =
    ["leader", "replica", "candidate", "died", "stopped", "empty", "nothing", "handing over"];

impl Scene {
    /// A named baseline.
    pub(crate) fn baseline(name: &str) -> Option<Scene> {
        let words: &[&str] = match name {
            // The leader of a healthy cluster.
            "leader" => &["lock a", "running primary", "role primary", "state running"],
            // A standby of a healthy cluster that b leads.
            "replica" => &["lock b", "running standby", "role replica", "state running"],
            // The same, when nobody leads.
            "candidate" => &["unlocked", "running standby", "role replica", "state running"],
            // A leader whose PostgreSQL died.
            "died" => &["lock a", "stopped in-production", "role primary", "state running"],
            // A standby that does not run.
            "stopped" => &["lock b", "stopped shut-down-in-recovery", "role replica", "state stopped"],
            // A new node of a cluster.
            "empty" => &["lock b", "data-dir empty", "stopped", "role uninitialized", "state stopped", "not-started"],
            // A new node of a cluster that does not exist yet.
            "nothing" => &[
                "unlocked",
                "initialize absent",
                "config absent",
                "data-dir empty",
                "stopped",
                "role uninitialized",
                "state stopped",
                "not-started",
            ],
            // A leader that was stopped for a switchover to b.
            "handing over" => &[
                "lock a",
                "stopped shut-down",
                "role demoted",
                "state stopping",
                "switchover to b",
                "job demote graceful",
                "stage shut-down",
                "handover",
            ],
            _ => return None,
        };
        let mut scene = Scene::healthy();
        for word in words {
            scene.apply(word);
        }
        Some(scene)
    }

    fn healthy() -> Scene {
        let settings = Arc::new(settings());
        let server = Arc::new(Server {
            data_dir: DataDir::Present(SYSTEM),
            postmaster: Postmaster::Stopped(None),
            other_wal: false,
        });
        let facts = Facts {
            now: Now { boot: NOW, wall: WALL },
            shown: Arc::new(View::initial(Arc::clone(&settings), Arc::clone(&server), NOW)),
            settings,
            cluster: Ok(Arc::new(cluster())),
            server,
            job: JobFact::Idle,
            requests: BTreeMap::new(),
            shutdown: false,
            watchdog: Watchdog { required: false, healthy: true },
            failsafe_leader: None,
            addresses: Addresses { api_url: "http://a:8008/patroni".into(), ..Addresses::default() },
            member_key: MemberKey::default(),
            slots: News::default(),
            standstill: None,
            disks: Disks::default(),
            answers: Answers::default(),
        };
        let mut memory = Memory::new();
        memory.known_members = Arc::new(cluster().members);
        memory.last_leader = Some("b".into());
        memory.timeline = Some(Timeline(1));
        memory.rewind = Rewind::NotNeeded;
        memory.compared_with = Some(("b".into(), Timeline(1)));
        memory.started = true;
        memory.knows_no_server = false;
        memory.began = Some(Moment(NOW.0 - Duration::from_secs(3000)));
        Scene {
            memory,
            facts,
            renew: Outcome::Done(NOW),
            acquire: Outcome::Done(NOW),
            release: Outcome::Done(()),
            initialize: Outcome::Done(()),
            config: Outcome::Done(()),
            failover: Outcome::Done(()),
            history: Outcome::Done(()),
            failsafe: Ok(NOW),
            rewind: RewindCheck::NotNeeded,
            upstream: Ok(UpstreamCheck::UpToDate),
            watchdog: true,
            peers: Peers::Streaming,
            special_peers: BTreeMap::new(),
            synchronous: Ok(Inspection { flushed: HERE, synchronous_commit: "on".into(), ..Inspection::default() }),
            standby_names: Outcome::Done(()),
            sync: Outcome::Done(()),
        }
    }

    /// Changes one thing. Panics on a word that does not exist: a row that says nothing proves nothing.
    pub(crate) fn apply(&mut self, word: &str) {
        let (name, value) = word.split_once(' ').unwrap_or((word, ""));
        let known = self.apply_cluster(name, value)
            || self.apply_server(name, value)
            || self.apply_memory(name, value)
            || self.apply_settings(name, value)
            || self.apply_job(name, value)
            || self.apply_request(name, value)
            || self.apply_synchronous(name, value)
            || self.apply_slots(name, value)
            || self.apply_disks(name, value)
            || self.apply_answer(name, value);
        assert!(known, "the table language has no words {word:?}");
    }

    fn apply_cluster(&mut self, name: &str, value: &str) -> bool {
        if name == "no-store" {
            self.facts.cluster = Err("timed out".into());
            return true;
        }
        let Ok(shared) = &mut self.facts.cluster else { return false };
        let cluster = Arc::make_mut(shared);
        match name {
            "member-nofailover" => {
                let Some(member) = cluster.members.get_mut(value) else { return false };
                member.data.tags = tags("nofailover");
            }
            // The key `/failsafe`, and the mode.
            "failsafe-key" => {
                let address = |name: &str| (name.into(), format!("http://{name}:8008/patroni"));
                cluster.failsafe = Some(value.split(' ').filter(|name| !name.is_empty()).map(address).collect());
                Arc::make_mut(&mut self.facts.settings).failsafe_mode = true;
            }
            "unlocked" => {
                cluster.leader = None;
                self.memory.lease_until = None;
            }
            "lock" => {
                cluster.leader = Some(Leader { name: value.into(), version: Version(9), session: None });
                let mine = value == "a";
                self.memory.lease_until = mine.then_some(NOW + Duration::from_secs(20));
            }
            "initialize" => {
                cluster.initialize = match value {
                    "absent" => Initialize::Absent,
                    "in-progress" => Initialize::InProgress(Version(3)),
                    "foreign" => Initialize::Done(SystemId(8)),
                    _ => return false,
                }
            }
            "config" if value == "empty" => {
                let config = cluster.config.as_mut().expect("a configuration");
                config.data = Some(serde_json::Map::new());
            }
            "config" => cluster.config = None,
            "timeline" => cluster.history = Some(history(value.parse().expect("a timeline"))),
            "last-lsn" => cluster.status.last_lsn = value.parse().expect("a position"),
            "without" => {
                cluster.members.remove(value);
            }
            "member-on-timeline" => {
                let (name, timeline) = value.split_once(' ').expect("a member and a timeline");
                let member = cluster.members.get_mut(name).expect("a member");
                member.data.timeline = Some(Timeline(timeline.parse().expect("a timeline")));
            }
            "kept-out-member" => {
                let member = cluster.members.get_mut(value).expect("a member");
                member.data.replication_state = Some(DIVERGED.into());
            }
            "clonefrom" => {
                let member = cluster.members.get_mut(value).expect("a member");
                member.data.tags = tags("clonefrom");
            }
            "bootstrapping-member" => {
                let member = cluster.members.get_mut(value).expect("a member");
                member.data.state = Some("initializing new cluster".into());
            }
            "leader-is-primary" => {
                cluster.members.get_mut("b").expect("a member").data.role = Some("primary".into());
            }
            "leader-on-timeline" => {
                let member = cluster.members.get_mut("b").expect("a member");
                member.data.timeline = Some(Timeline(value.parse().expect("a timeline")));
            }
            "switchover" | "switchover-from-b" | "failover" | "scheduled" => {
                return self.apply_failover_key(name, value);
            }
            _ => return false,
        }
        true
    }

    fn apply_failover_key(&mut self, name: &str, value: &str) -> bool {
        let Ok(shared) = &mut self.facts.cluster else { return false };
        let cluster = Arc::make_mut(shared);
        if name == "scheduled" {
            let request = cluster.failover.as_mut().expect("a request to be scheduled");
            request.scheduled_at = Some(match value.parse::<i64>() {
                Ok(seconds) => Schedule::At(WallTime(WALL.0 + seconds * 1000), "later".into()),
                Err(_) => Schedule::Invalid(value.into()),
            });
            return true;
        }
        let leader = match name {
            "switchover" => Some("a"),
            "switchover-from-b" => Some("b"),
            _ => None,
        };
        let candidate = value.strip_prefix("to ").map(MemberName::from);
        let leader = leader.map(MemberName::from);
        cluster.failover = Some(FailoverRequest { version: Version(20), leader, candidate, scheduled_at: None });
        true
    }

    fn apply_server(&mut self, name: &str, value: &str) -> bool {
        let server = Arc::make_mut(&mut self.facts.server);
        match (name, value) {
            ("running", "primary") => {
                server.postmaster = Postmaster::Running(running(Wal::Primary { location: HERE }));
            }
            ("running", "standby") => {
                server.postmaster = Postmaster::Running(running(standby_at(HERE)));
            }
            ("stopped", "") => server.postmaster = Postmaster::Stopped(None),
            ("stopped", state) => server.postmaster = Postmaster::Stopped(Some(control(state))),
            ("backup-label", "") => {
                if let Postmaster::Stopped(Some(control)) = &mut server.postmaster {
                    control.backup_label = true;
                }
            }
            ("standby-signal", "") => {
                if let Postmaster::Stopped(Some(control)) = &mut server.postmaster {
                    control.standby_signal = true;
                }
            }
            ("torn", "") => {
                server.postmaster = Postmaster::Stopped(Some(ControlData { torn: true, ..control("shut-down") }))
            }
            ("not-streaming", "") => {
                if let Postmaster::Running(Running { wal: Wal::Standby { replication_state, .. }, .. }) =
                    &mut server.postmaster
                {
                    *replication_state = None;
                }
            }
            ("other-wal", "") => server.other_wal = true,
            ("starting", "") => server.postmaster = Postmaster::Starting,
            ("stopping", "") => server.postmaster = Postmaster::Stopping,
            ("unreachable", "") => server.postmaster = Postmaster::Unreachable("timed out".into()),
            ("data-dir", "empty") => server.data_dir = DataDir::Empty,
            ("data-dir", "inaccessible") => server.data_dir = DataDir::Inaccessible("Input/output error".into()),
            ("hangs" | "storage-hangs", seconds) => {
                let what = if name == "hangs" { Hung::Server } else { Hung::Storage };
                let lasted = Duration::from_secs(seconds.parse().expect("seconds"));
                self.facts.standstill = Some(Standstill { what, lasted });
            }
            ("data-dir", "unknown") => server.data_dir = DataDir::Unknown("no answer in time".into()),
            ("data-dir", "invalid") => server.data_dir = DataDir::Invalid("no pg_control".into()),
            ("data-dir", "foreign") => server.data_dir = DataDir::Present(SystemId(8)),
            ("my-timeline", number) => {
                let timeline = Timeline(number.parse().expect("a timeline"));
                self.memory.timeline = Some(timeline);
                if let Postmaster::Running(running) = &mut server.postmaster {
                    running.timeline = Some(timeline);
                    running.control_timeline = Some(timeline);
                }
            }
            ("replay-paused", "") => {
                if let Postmaster::Running(Running { wal: Wal::Standby { paused, .. }, .. }) = &mut server.postmaster {
                    *paused = true;
                }
            }
            ("cut-off", "") => {
                if let Postmaster::Running(Running { wal: Wal::Standby { replication_state, .. }, .. }) =
                    &mut server.postmaster
                {
                    *replication_state = None;
                }
            }
            ("my-lsn", text) => {
                let lsn: Lsn = text.parse().expect("a position");
                if let Postmaster::Running(running) = &mut server.postmaster {
                    running.wal = standby_at(lsn);
                }
            }
            _ => return false,
        }
        true
    }

    /// A permanent logical slot `l`, whose position the leader publishes.
    fn apply_slots(&mut self, name: &str, value: &str) -> bool {
        let Ok(cluster) = &mut self.facts.cluster else { return false };
        let server = Arc::make_mut(&mut self.facts.server);
        match (name, value) {
            ("wants-slot", "l") => {
                let permanent = json!({"type": "logical", "database": "d", "plugin": "p"});
                Arc::make_mut(&mut self.facts.settings).slots.permanent.insert("l".into(), permanent);
                Arc::make_mut(cluster).status.slots.insert("l".into(), HERE);
            }
            ("unpublished-slot", "l") => drop(Arc::make_mut(cluster).status.slots.remove("l")),
            ("has-slot", "l" | "l by-postgresql") => {
                let Postmaster::Running(running) = &mut server.postmaster else { return false };
                running.slots.insert("l".into(), logical_slot(value != "l"));
                self.memory.readiness.update(running, &News::default());
            }
            ("unusable-slot", "l") => self.facts.slots.unusable = BTreeSet::from(["l".into()]),
            ("not-streaming", "") => {
                let Postmaster::Running(running) = &mut server.postmaster else { return false };
                if let Wal::Standby { replication_state, .. } = &mut running.wal {
                    *replication_state = None;
                }
            }
            ("copied-slots", seconds) => {
                let ago = Duration::from_secs(seconds.parse().expect("seconds"));
                self.memory.copy_slots_after = Some(Moment(NOW.0 - ago) + self.facts.settings.loop_wait);
            }
            _ => return false,
        }
        true
    }

    /// The WAL directory, and failures for lack of room there, the last one `failed` seconds ago.
    fn apply_disks(&mut self, name: &str, value: &str) -> bool {
        let disk = &mut self.memory.disk;
        match name {
            "wal-disk" => {
                const MIB: u64 = 1 << 20;
                let free = match value {
                    "full" => 3 * MIB,
                    "low" => 20 * MIB,
                    "enough" => 900 * MIB,
                    _ => return false,
                };
                let room = |free| Ok(Room { total: 1000 * MIB, free, needed: 16 * MIB });
                self.facts.disks = Disks(BTreeMap::from([(Place::Data, room(900 * MIB)), (Place::Wal, room(free))]));
            }
            "disks-silent" => self.facts.disks = Disks(BTreeMap::from([(Place::Wal, Err("no answer".into()))])),
            "wal-was-scarce" => {
                disk.wal_scarce_at = Some(Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds"))));
            }
            // The server that runs is seen to have recovered from a crash since.
            "crashed" => disk.statistics_reset = Some((STARTED.into(), "before".into())),
            "failures" => {
                disk.failures = value.parse().expect("a number");
                disk.failed_at = Some(Moment(NOW.0 - Duration::from_secs(20)));
            }
            "failed" => disk.failed_at = Some(Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds")))),
            "handed-over" => {
                disk.handed_over_at = Some(Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds"))));
            }
            "full-wal-switchover" => {
                Arc::make_mut(&mut self.facts.settings).disk.switchover = match value {
                    "off" => FullWalSwitchover::Off,
                    "crash" => FullWalSwitchover::Crash,
                    "on" => FullWalSwitchover::On,
                    _ => return false,
                };
            }
            _ => return false,
        }
        true
    }

    fn apply_memory(&mut self, name: &str, value: &str) -> bool {
        let memory = &mut self.memory;
        let ago = || Moment(NOW.0.saturating_sub(Duration::from_secs(value.parse().expect("seconds"))));
        match name {
            "role" => {
                let all = [
                    Role::Uninitialized,
                    Role::Replica,
                    Role::Primary,
                    Role::Promoted,
                    Role::Demoted,
                    Role::StandbyLeader,
                ];
                memory.role = all.into_iter().find(|role| role.to_string() == value).expect("a role");
            }
            "state" => {
                memory.state = match value {
                    "running" => State::Running,
                    "stopped" => State::Stopped,
                    "stopping" => State::Stopping,
                    "starting" => State::Starting,
                    "crashed" => State::Crashed,
                    "start-failed" => State::StartFailed,
                    _ => return false,
                }
            }
            "stalled" => {
                let since = Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds")));
                memory.stalled =
                    Some(Stalled { at: Some(HERE), since, suspect: false, told: false, told_of_standstill: false });
            }
            // The agent's first tick was so many seconds ago.
            "began" => memory.began = Some(Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds")))),
            // The mode is on, and these would be asked.
            "failsafe" => {
                let address = |name: &str| (name.into(), format!("http://{name}:8008/patroni"));
                memory.failsafe_members = Arc::new(value.split(' ').map(address).collect());
                Arc::make_mut(&mut self.facts.settings).failsafe_mode = true;
            }
            "failsafe-leader" => {
                self.facts.failsafe_leader = Some((value.into(), NOW + Duration::from_secs(30)));
                Arc::make_mut(&mut self.facts.settings).failsafe_mode = true;
            }
            "not-started" => {
                memory.started = false;
                memory.rewind = Rewind::Unknown;
                memory.timeline = None;
            }
            "first-tick" => memory.knows_no_server = true,
            "uncompared" => memory.compared_with = None,
            "divergence" => {
                memory.rewind = match value {
                    "unknown" => Rewind::Unknown,
                    "check" => Rewind::Check,
                    "needed" => Rewind::Needed,
                    "other-wal" => Rewind::OtherWal,
                    "failed" => Rewind::Failed(NOW, 1),
                    "failed-often" => Rewind::Failed(NOW, 5),
                    "given-up" => Rewind::GivenUp,
                    "refused" | "refused-before" => {
                        memory.rewind_refusal = Some(RewindRefusal { why: "root owns PG_VERSION".into(), times: 1 });
                        let since = Duration::from_secs(if value == "refused" { 0 } else { 60 });
                        Rewind::Refused(Moment(NOW.0.saturating_sub(since)))
                    }
                    _ => return false,
                }
            }
            "answering" => memory.answering = Some(RequestId(0)),
            "bootstrapping" => memory.bootstrapping = true,
            "stale-initialize" => memory.initialize_stale_since = Some((Version(3), ago())),
            "stale-earlier-initialize" => memory.initialize_stale_since = Some((Version(2), ago())),
            "creation-failed" => memory.creation_failed_at = Some(ago()),
            "pre-promote-refused" => memory.promotion_refused_at = Some(ago()),
            "starting-since" => memory.starting = Some(Starting { since: ago(), timeout: None }),
            "remote-asked" => memory.remote_asked_at = Some(ago()),
            "outsider" => memory.stopped_by_outsider = Some(ago()),
            "comparison-awaited" => memory.comparison_awaited_since = Some(ago()),
            "crash-recovery-since" => memory.crash_recovery_since = Some(ago()),
            "led-last" => memory.last_leader = Some(value.into()),
            "request-awaited" => memory.request_awaited_since = Some(ago()),
            "stepped-down" => {
                memory.stepped_down = Some(StepDown { at: ago(), last_lsn: None, unanswered: false });
            }
            "release-unanswered" => {
                memory.stepped_down = Some(StepDown { at: NOW, last_lsn: Some(HERE), unanswered: true });
            }
            "handover" => memory.handover = Some(Handover { since: NOW, stopped_at: Some(NOW) }),
            "handover-waits" => memory.handover = Some(Handover { since: ago(), stopped_at: None }),
            "handover-stopped" => memory.handover = Some(Handover { since: ago(), stopped_at: Some(ago()) }),
            "was-paused" => memory.was_paused = true,
            "lease-left" => {
                memory.lease_until = Some(NOW + Duration::from_secs(value.parse().expect("seconds")));
            }
            "lease-of-before" => memory.lease_until = None,
            "restart-scheduled" => {
                let at = WallTime(WALL.0 + value.parse::<i64>().expect("seconds") * 1000);
                memory.scheduled_restart = Some(scheduled_restart(at));
            }
            _ => return false,
        }
        true
    }

    fn apply_settings(&mut self, name: &str, value: &str) -> bool {
        let settings = Arc::make_mut(&mut self.facts.settings);
        match name {
            "paused" => {
                settings.paused = true;
                self.memory.was_paused = true;
            }
            "nofailover" | "nostream" => settings.tags = tags(name),
            "standby-cluster" => {
                settings.standby_cluster = Some(StandbyCluster { host: Some("remote".into()), ..Default::default() });
            }
            "archive-only" => {
                settings.standby_cluster =
                    Some(StandbyCluster { restore_command: Some("cp".into()), ..Default::default() });
            }
            "use-pg-rewind" => settings.rewind.use_pg_rewind = true,
            "reinit-diverged" => settings.rewind.remove_data_directory_on_diverged_timelines = true,
            "reinit-missing-wal" => settings.rewind.remove_data_directory_on_missing_wal = true,
            "reinit-failed-rewind" => settings.rewind.remove_data_directory_on_rewind_failure = true,
            "primary-start-timeout" => {
                settings.primary_start_timeout = Duration::from_secs(value.parse().expect("seconds"));
            }
            "primary-hang-timeout" => {
                settings.primary_hang_timeout = Duration::from_secs(value.parse().expect("seconds"));
            }
            "check-timeline" => settings.check_timeline = true,
            "cannot-bootstrap" => settings.can_bootstrap = false,
            "clone-without-leader" => settings.can_clone_without_leader = true,
            "shutdown" => self.facts.shutdown = true,
            "watchdog-required" => self.facts.watchdog = Watchdog { required: true, healthy: false },
            _ => return false,
        }
        true
    }

    fn apply_job(&mut self, name: &str, value: &str) -> bool {
        match name {
            "job" => {
                let Some(job) = job(value) else { return false };
                let title = title(&job);
                let stage = Stage::Committed("working".into());
                self.facts.job = JobFact::Running(JobView { job, title, since: NOW, stage });
            }
            "stage" => {
                let JobFact::Running(view) = &mut self.facts.job else { return false };
                view.stage = match value {
                    "revocable" => Stage::Revocable,
                    "shut-down" | "exited" => {
                        let previous = Lsn(HERE.0 - 0x100);
                        Stage::ShutDown { checkpoint: HERE, previous, exited: value == "exited" }
                    }
                    _ => return false,
                };
            }
            "ended" => {
                let Some((name, outcome)) = value.rsplit_once(' ') else { return false };
                let outcome = match outcome {
                    "done" => JobOutcome::Done,
                    "cancelled" => JobOutcome::Cancelled,
                    "failed" => JobOutcome::Failed("no space left on device".into()),
                    "rewound" => JobOutcome::Rewound(Some(Timeline(1))),
                    "refused" => JobOutcome::Refused("root owns PG_VERSION".into()),
                    "still-starting" => JobOutcome::StillStarting,
                    "pre-promote-failed" => JobOutcome::PrePromoteFailed,
                    _ => return false,
                };
                let Some(job) = job(name) else { return false };
                self.facts.job = JobFact::Ended(job, outcome);
            }
            _ => return false,
        }
        true
    }

    fn apply_request(&mut self, name: &str, value: &str) -> bool {
        if name == "not-asked" {
            self.facts.requests.clear();
            return true;
        }
        if name != "asked" {
            return false;
        }
        let request = match value {
            "restart" => Request::Restart(RestartConditions::default()),
            "restart-pending" => {
                Request::Restart(RestartConditions { only_pending: true, ..RestartConditions::default() })
            }
            "restart-later" => Request::ScheduleRestart(scheduled_restart(WallTime(WALL.0 + 60_000))),
            "cancel-restart" => Request::CancelRestart,
            "reinitialize" => Request::Reinitialize { force: false, from_leader: false },
            "reinitialize-force" => Request::Reinitialize { force: true, from_leader: true },
            _ => return false,
        };
        let id = RequestId(self.facts.requests.len() as u64);
        self.facts.requests.insert(id, request);
        true
    }

    /// The mode, the key `/sync` as `sync LEADER QUORUM VOTER...`, and what PostgreSQL shows.
    fn apply_synchronous(&mut self, name: &str, value: &str) -> bool {
        let settings = Arc::make_mut(&mut self.facts.settings);
        let mut words = value.split(' ');
        match name {
            "mode" => {
                settings.synchronous.mode = match value {
                    "quorum" => SynchronousMode::Quorum,
                    "on" => SynchronousMode::On,
                    "off" => SynchronousMode::Off,
                    _ => return false,
                };
                settings.synchronous.node_count = 1;
            }
            "strict" => settings.synchronous.strict = true,
            "hold" => settings.synchronous.hold = true,
            "nosync" => settings.tags = tags(name),
            "sync" => {
                let Ok(shared) = &mut self.facts.cluster else { return false };
                Arc::make_mut(shared).sync = SyncState {
                    version: Some(Version(30)),
                    leader: words.next().map(MemberName::from),
                    quorum: words.next().expect("a quorum").parse().expect("a number"),
                    standbys: words.map(MemberName::from).collect(),
                };
            }
            "sync-absent" => {
                let Ok(shared) = &mut self.facts.cluster else { return false };
                Arc::make_mut(shared).sync = SyncState::default();
            }
            "sync-written-by" => {
                self.memory.wrote_sync = Some(value.into());
            }
            "sync-write" => self.sync = outcome(value, ()),
            "names-write" => self.standby_names = outcome(value, ()),
            "sync-unclear" => self.synchronous = Err("it does not answer".into()),
            "shows" => self.shown().standby_names = value.into(),
            "checkpointer-busy" => self.shown().checkpointer_busy = true,
            "commits-wait" => self.shown().synchronous_commit = value.into(),
            "turned-down" => self.shown().turned_down.push(value.into()),
            "sender" => {
                let (Some(name), Some(sync_state)) = (words.next(), words.next()) else { return false };
                let sender = Sender {
                    name: name.into(),
                    state: "streaming".into(),
                    sync_state: sync_state.into(),
                    sync_priority: i64::from(sync_state != "async"),
                    flushed: Some(words.next().map_or(HERE, |_behind| Lsn(1))),
                    ..Sender::default()
                };
                self.shown().senders.push(sender);
            }
            // PostgreSQL was promoted or started so many seconds ago, as `settled` has seen.
            "begun" => {
                let Some(enforcement) = &mut self.memory.enforcement else { return false };
                enforcement.begun = Some(Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds"))));
            }
            "settled" => {
                let inspection = self.shown().clone();
                let Ok(cluster) = &self.facts.cluster else { return false };
                let names = inspection.standby_names.parse().expect("names");
                let mut enforcement = Enforcement::new(Moment(NOW.0 - Duration::from_secs(60)), false);
                for ago in [60, 30] {
                    let then = Moment(NOW.0 - Duration::from_secs(ago));
                    let standbys = candidates(&"a".into(), cluster, &inspection);
                    enforcement.observe(&inspection, &names, &standbys, then);
                }
                assert!(enforcement.is_settled());
                self.memory.enforcement = Some(enforcement);
            }
            "row" => {
                // A standby that streams from this server, with everything or behind.
                let (Some(name), Some(position)) = (words.next(), words.next()) else { return false };
                let position = if position == "here" { HERE } else { Lsn(HERE.0 - 1000) };
                let server = Arc::make_mut(&mut self.facts.server);
                let Postmaster::Running(running) = &mut server.postmaster else { return false };
                running.replication.push(Replication {
                    user: "replicator".into(),
                    application_name: name.into(),
                    client_addr: None,
                    state: "streaming".into(),
                    sync_state: "async".into(),
                    sync_priority: 0,
                    flush_lsn: Some(position),
                });
            }
            "holding" => {
                let ago = Moment(NOW.0 - Duration::from_secs(value.parse().expect("seconds")));
                self.memory.holding = Some(Holding { since: ago, position: HERE, at_rest_since: ago });
            }
            "leaving-sync" => {
                let ago = Duration::from_secs(value.parse().expect("seconds"));
                self.memory.leaving_sync = Some(Moment(NOW.0 - ago));
            }
            _ => return false,
        }
        true
    }

    fn shown(&mut self) -> &mut Inspection {
        self.synchronous.as_mut().expect("a server that answers")
    }

    fn apply_answer(&mut self, name: &str, value: &str) -> bool {
        match name {
            "renew" => self.renew = outcome(value, NOW),
            "acquire" => self.acquire = outcome(value, NOW),
            "release" => self.release = outcome(value, ()),
            "initialize-write" => self.initialize = outcome(value, ()),
            "config-write" => self.config = outcome(value, ()),
            "failover-write" => self.failover = outcome(value, ()),
            "history-write" => self.history = outcome(value, ()),
            "comparison" => {
                self.rewind = match value {
                    "same" => RewindCheck::NotNeeded,
                    "diverged" => RewindCheck::Needed(Ok(())),
                    "diverged-no-rewind" => RewindCheck::Needed(Err("wal_log_hints is off".into())),
                    "unclear" => RewindCheck::Unclear("it does not answer".into()),
                    "impossible" => RewindCheck::Impossible("it wants a password".into()),
                    "other-wal" => RewindCheck::OtherWal("other WAL before 0/5000000".into()),
                    "wal-gone" | "wal-gone-with-archive" => {
                        RewindCheck::WalGone { file: "00000001000000000000000A".into(), archive: value != "wal-gone" }
                    }
                    _ => return false,
                }
            }
            "upstream" => {
                self.upstream = match value {
                    "right" => Ok(UpstreamCheck::UpToDate),
                    "reload" => Ok(UpstreamCheck::Reload),
                    "restart" => Ok(UpstreamCheck::Restart),
                    "unclear" => Err("it does not answer".into()),
                    _ => return false,
                }
            }
            "no-watchdog" => self.watchdog = false,
            "failsafe-answer" => {
                self.failsafe = match value {
                    "agreed" => Ok(NOW),
                    "refused" => Err("c did not agree".into()),
                    _ => return false,
                }
            }
            "peers" => {
                let Some(peers) = Peers::named(value) else { return false };
                self.peers = peers;
            }
            "peer" => {
                let Some((name, peers)) = value.split_once(' ') else { return false };
                let Some(peers) = Peers::named(peers) else { return false };
                self.special_peers.insert(name.into(), peers);
            }
            _ => return false,
        }
        true
    }

    /// What the world of this scene answers.
    pub(crate) fn answer(&self, op: &Op) -> Answer {
        match op {
            Op::RenewLease => Answer::Renew(self.renew.clone()),
            Op::AcquireLease => Answer::Acquire(self.acquire.clone()),
            Op::ReleaseLease(_) => Answer::Release(self.release.clone()),
            Op::PollPeers(names) => {
                let answer = |name| self.special_peers.get(name).unwrap_or(&self.peers).answer();
                Answer::Peers(names.keys().map(|name| (name.clone(), answer(name))).collect())
            }
            Op::AskFailsafe(_) => Answer::Failsafe(self.failsafe.clone()),
            Op::Initialize(_) => Answer::Initialize(self.initialize.clone()),
            Op::WriteConfig(_) => Answer::Config(self.config.clone()),
            Op::WriteFailover(..) => Answer::Failover(self.failover.clone()),
            Op::WriteHistory => Answer::History(self.history.clone()),
            Op::CheckRewind(_) => Answer::Rewind(self.rewind.clone()),
            Op::CheckUpstream(_) => Answer::Upstream(self.upstream.clone()),
            Op::ActivateWatchdog => Answer::Watchdog(self.watchdog),
            Op::InspectSynchronous => Answer::Synchronous(self.synchronous.clone()),
            Op::SetSynchronousStandbyNames(_) => Answer::StandbyNames(self.standby_names.clone()),
            Op::WriteSync(..) => Answer::Sync(self.sync.clone()),
        }
    }

    /// Plays the tick: the operations in order, and the plan.
    pub(crate) fn play(&self) -> (Vec<Op>, Plan) {
        let mut facts = self.facts.clone();
        let mut ops = Vec::new();
        loop {
            match decide(&self.memory, &facts) {
                Step::Finish(plan) => return (ops, *plan),
                Step::Run(op) => {
                    assert!(ops.len() < 12, "the tick does not end: {ops:?}");
                    facts.answers.record(self.answer(&op));
                    ops.push(op);
                }
            }
        }
    }
}

impl Peers {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "streaming" => Peers::Streaming,
            "idle" => Peers::Idle,
            "behind" => Peers::Behind,
            "far-behind" => Peers::FarBehind,
            "ahead" => Peers::Ahead,
            "primary" => Peers::Primary,
            "unreachable" => Peers::Unreachable,
            "nofailover" => Peers::Nofailover,
            "preferred" => Peers::Preferred,
            "no-watchdog" => Peers::NoWatchdog,
            "old-timeline" => Peers::OldTimeline,
            "ahead-on-old-timeline" => Peers::AheadOnOldTimeline,
            "behind-on-new-timeline" => Peers::BehindOnNewTimeline,
            "not-running" => Peers::NotRunning,
            "kept-out" => Peers::KeptOut,
            "full" => Peers::Full,
            "of-patroni" => Peers::OfPatroni,
            _ => return None,
        })
    }

    /// The answer of each peer.
    pub(crate) fn answer(self) -> Peer {
        let mut status = PeerStatus {
            in_recovery: true,
            wal_position: Lsn(HERE.0 + 1),
            location: None,
            timeline: Some(Timeline(1)),
            replication_state: Some("streaming".into()),
            tags: Tags::default(),
            watchdog_failed: false,
            space: Space::Enough,
        };
        match self {
            Peers::Streaming => status.wal_position = HERE,
            Peers::Full => (status.wal_position, status.space) = (HERE, Space::Full),
            Peers::OfPatroni => (status.wal_position, status.space) = (HERE, Space::Unknown),
            Peers::Idle => status.replication_state = None,
            Peers::Behind => status.wal_position = Lsn(HERE.0 - 1000),
            Peers::FarBehind => status.wal_position = Lsn(1),
            Peers::Ahead => status.wal_position = Lsn(HERE.0 + 1000),
            Peers::Primary => status.in_recovery = false,
            Peers::Unreachable => return Peer::Unreachable("timed out".into()),
            Peers::Nofailover => status.tags = tags("nofailover"),
            Peers::Preferred => {
                status.wal_position = HERE;
                status.tags = Tags(JsonMap::from_iter([("failover_priority".to_owned(), json!(3))]));
            }
            Peers::KeptOut => {
                status.wal_position = Lsn(HERE.0 + 1000);
                status.replication_state = Some(DIVERGED.into());
            }
            Peers::NoWatchdog => status.watchdog_failed = true,
            Peers::OldTimeline => status.timeline = Some(Timeline(0)),
            Peers::AheadOnOldTimeline => {
                status.wal_position = Lsn(HERE.0 + 1000);
                status.timeline = Some(Timeline(0));
            }
            Peers::BehindOnNewTimeline => {
                status.wal_position = Lsn(HERE.0 - 1000);
                status.timeline = Some(Timeline(2));
            }
            Peers::NotRunning => {
                status.wal_position = Lsn(0);
                status.timeline = None;
            }
        }
        Peer::Status(status)
    }
}

/// The operation in the words of the table.
pub(crate) fn op_word(op: &Op) -> String {
    match op {
        Op::RenewLease => "renew".into(),
        Op::AcquireLease => "acquire".into(),
        Op::ReleaseLease(_) => "release".into(),
        Op::PollPeers(names) => {
            let names: Vec<&str> = names.keys().map(MemberName::as_str).collect();
            format!("peers {}", names.join(" "))
        }
        Op::AskFailsafe(names) => {
            let names: Vec<&str> = names.keys().map(MemberName::as_str).collect();
            format!("failsafe {}", names.join(" "))
        }
        Op::Initialize(write) => format!("initialize {write:?}").to_lowercase(),
        Op::WriteConfig(_) => "config".into(),
        Op::WriteFailover(_, None) => "remove-failover".into(),
        Op::WriteFailover(_, Some(_)) => "rewrite-failover".into(),
        Op::WriteHistory => "history".into(),
        Op::CheckRewind(source) => format!("compare {}", rewind_words(source)),
        Op::CheckUpstream(_) => "upstream".into(),
        Op::ActivateWatchdog => "watchdog".into(),
        Op::InspectSynchronous => "inspect-sync".into(),
        Op::SetSynchronousStandbyNames(SynchronousStandbyNames::Configured) => "names as configured".into(),
        Op::SetSynchronousStandbyNames(SynchronousStandbyNames::Managed(names)) => {
            format!("names '{}'", names.as_deref().unwrap_or(""))
        }
        Op::WriteSync(_, None) => "remove-sync".into(),
        Op::WriteSync(_, Some(electorate)) => {
            let voters: Vec<&str> = electorate.voters.iter().map(MemberName::as_str).collect();
            format!("sync {} of '{}'", electorate.quorum, voters.join(" "))
        }
    }
}

/// The order for the job in the words of the table.
pub(crate) fn order_words(order: &JobOrder) -> String {
    match order {
        JobOrder::Keep => "-".into(),
        JobOrder::Start(job) => format!("start {}", job_words(job)),
        JobOrder::Cancel => "cancel".into(),
        JobOrder::Replace(job) => format!("replace by {}", job_words(job)),
    }
}

fn job_words(job: &Job) -> String {
    let whom = |upstream: &Upstream| match upstream {
        Upstream::None => "nobody".to_owned(),
        Upstream::Isolated => "nobody and no archive".to_owned(),
        Upstream::Member(member) => member.name.to_string(),
        Upstream::Remote => "remote".to_owned(),
    };
    match job {
        Job::Bootstrap => "bootstrap".into(),
        Job::Clone { source, .. } => format!("clone {}", clone_words(source)),
        Job::Reinitialize { source, .. } => format!("reinitialize {}", clone_words(source)),
        Job::Start { role, follow, .. } => format!("postgres as {role} following {}", whom(follow)),
        Job::Restart { as_standby: false } => "restart".into(),
        Job::Restart { as_standby: true } => "restart as standby".into(),
        Job::Follow { upstream, role, restart } => {
            let role = if *role == Role::Replica { String::new() } else { format!(" as {role}") };
            format!("follow {}{role}{}", whom(upstream), if *restart { " restarting" } else { "" })
        }
        Job::Promote => "promote".into(),
        Job::Demote(mode) => format!("demote {mode}"),
        Job::CrashRecovery => "crash-recovery".into(),
        Job::Rewind { source } => format!("rewind {}", rewind_words(source)),
        Job::CopySlots { source, slots } => {
            let names: Vec<&str> = slots.keys().map(String::as_str).collect();
            format!("copy-slots {} from {}", names.join(" "), source.name)
        }
        Job::Shutdown => "shutdown".into(),
        Job::StopImmediate => "stop-immediate".into(),
    }
}

fn clone_words(source: &CloneFrom) -> &str {
    match source {
        CloneFrom::Member(source) => source.name.as_str(),
        CloneFrom::Remote => "remote",
        CloneFrom::Backup => "without leader",
    }
}

fn rewind_words(source: &RewindSource) -> &str {
    match source {
        RewindSource::Leader(member) => member.name.as_str(),
        RewindSource::Remote => "remote",
    }
}

fn job(words: &str) -> Option<Job> {
    let follow = Upstream::Member(upstream_b());
    let b = CloneSource { name: "b".into(), conn_url: "postgres://b:5432/postgres".into(), is_leader: true };
    let source = CloneFrom::Member(b);
    Some(match words {
        "promote" => Job::Promote,
        "bootstrap" => Job::Bootstrap,
        "restart" => Job::Restart { as_standby: false },
        "crash-recovery" => Job::CrashRecovery,
        "shutdown" => Job::Shutdown,
        "stop-immediate" => Job::StopImmediate,
        "rewind" => Job::Rewind { source: RewindSource::Leader(upstream_b()) },
        "copy-slots" => {
            Job::CopySlots { source: upstream_b(), slots: BTreeMap::from([("l".into(), logical_slot(false).kind)]) }
        }
        "clone" => Job::Clone { source, follow },
        "clone remote" => Job::Clone { source: CloneFrom::Remote, follow: Upstream::Remote },
        "reinitialize" => Job::Reinitialize { source, follow },
        "follow" => Job::Follow { upstream: follow, role: Role::Replica, restart: true },
        "start primary" => Job::Start { role: Role::Primary, follow: Upstream::None, after_failure: true },
        "start replica" => Job::Start { role: Role::Replica, follow, after_failure: true },
        "start replica-of-nobody" => Job::Start { role: Role::Replica, follow: Upstream::None, after_failure: true },
        "demote graceful" => Job::Demote(DemoteMode::Graceful),
        "demote offline" => Job::Demote(DemoteMode::Offline),
        "demote immediate" => Job::Demote(DemoteMode::Immediate),
        "demote immediate-nolock" => Job::Demote(DemoteMode::ImmediateNolock),
        "demote hung" => Job::Demote(DemoteMode::Hung),
        "demote demote-cluster" => Job::Demote(DemoteMode::DemoteCluster),
        _ => return None,
    })
}

/// The words of all jobs.
pub(crate) const JOBS: [&str; 21] = [
    "demote hung",
    "promote",
    "copy-slots",
    "bootstrap",
    "restart",
    "crash-recovery",
    "shutdown",
    "stop-immediate",
    "rewind",
    "clone",
    "reinitialize",
    "follow",
    "start primary",
    "start replica",
    "start replica-of-nobody",
    "demote graceful",
    "demote offline",
    "demote immediate",
    "demote immediate-nolock",
    "demote demote-cluster",
    "clone remote",
];

fn outcome<T>(word: &str, done: T) -> Outcome<T> {
    match word {
        "done" => Outcome::Done(done),
        "refused" => Outcome::Refused,
        "failed" => Outcome::Failed("connection refused".into()),
        "unknown" => Outcome::Unknown("timed out".into()),
        other => panic!("no outcome {other:?}"),
    }
}

fn tags(name: &str) -> Tags {
    Tags(JsonMap::from_iter([(name.to_owned(), json!(true))]))
}

fn upstream_b() -> UpstreamMember {
    UpstreamMember { name: "b".into(), conn_url: "postgres://b:5432/postgres".into(), slot: Some("a".into()) }
}

fn scheduled_restart(at: WallTime) -> ScheduledRestart {
    ScheduledRestart {
        at,
        at_text: "later".into(),
        conditions: RestartConditions::default(),
        raw: JsonMap::new(),
        postmaster_start_time: None,
    }
}

fn standby_at(lsn: Lsn) -> Wal {
    Wal::Standby {
        received: Some(lsn),
        replayed: Some(lsn),
        replayed_timestamp: None,
        paused: false,
        latest_end: None,
        replication_state: Some("streaming".into()),
    }
}

fn logical_slot(failover: bool) -> Slot {
    Slot {
        kind: SlotKind::Logical { plugin: "p".into(), database: "d".into() },
        active: false,
        restart_lsn: Some(HERE),
        confirmed_flush_lsn: Some(HERE),
        holds_xmin: false,
        catalog_xmin: None,
        lost: false,
        failover,
        synced: false,
        inactive_since: None,
    }
}

fn running(wal: Wal) -> Running {
    Running {
        start_time: STARTED.into(),
        statistics_reset: Some("then".into()),
        server_version: 150_018,
        wal,
        timeline: Some(Timeline(1)),
        control_timeline: Some(Timeline(1)),
        replication: Vec::new(),
        slots: BTreeMap::new(),
        pending_restart: JsonMap::new(),
    }
}

fn control(state: &str) -> ControlData {
    let state = match state {
        "in-production" => ControlState::InProduction,
        "shut-down" => ControlState::ShutDown,
        "shut-down-in-recovery" => ControlState::ShutDownInRecovery,
        "shutting-down" => ControlState::ShuttingDown,
        "in-archive-recovery" => ControlState::InArchiveRecovery,
        "in-crash-recovery" => ControlState::InCrashRecovery,
        other => panic!("no control state {other:?}"),
    };
    ControlData {
        state,
        checkpoint: HERE,
        checkpoint_timeline: Timeline(1),
        min_recovery_end: HERE,
        min_recovery_timeline: Timeline(1),
        standby_signal: matches!(state, ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery),
        backup_label: false,
        torn: false,
    }
}

fn cluster() -> Cluster {
    let members = ["a", "b", "c"].map(|name| (MemberName::from(name), member(name)));
    let data = JsonMap::from_iter([("ttl".to_owned(), json!(30))]);
    let mut cluster = Cluster {
        initialize: Initialize::Done(SYSTEM),
        config: Some(ClusterConfig { version: Version(1), data: Some(data) }),
        members: BTreeMap::from(members),
        history: Some(history(1)),
        ..Cluster::default()
    };
    cluster.status.last_lsn = HERE;
    cluster
}

fn history(timeline: u32) -> History {
    let line = |tli: u32| HistoryLine(vec![json!(tli), json!(100), json!("no recovery target"), json!(""), json!("b")]);
    let lines: Vec<HistoryLine> = (1..timeline).map(line).collect();
    let raw = if lines.is_empty() { "[]" } else { "[...]" };
    History { version: Version(3), raw: raw.into(), lines }
}

fn member(name: &str) -> Member {
    let data = MemberData {
        conn_url: Some(format!("postgres://{name}:5432/postgres")),
        api_url: Some(format!("http://{name}:8008/patroni")),
        state: Some("running".into()),
        role: Some("replica".into()),
        timeline: Some(Timeline(1)),
        ..MemberData::default()
    };
    Member { name: name.into(), version: Version(5), session: None, data }
}

/// The settings of `a`.
pub(crate) fn settings() -> Settings {
    Settings {
        scope: "demo".into(),
        name: "a".into(),
        config_version: Some(Version(1)),
        dynamic: Dynamic::default(),
        unusable: Vec::new(),
        tags: Tags::default(),
        can_bootstrap: true,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}
