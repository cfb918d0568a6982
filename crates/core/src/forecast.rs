//! Who would take the lease if nobody held it: each member's own decision, made from what is known of all of them.
//!
//! There is no second set of rules: [`decide`] is asked for every member that answers, with the facts that it would see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, Initialize};
use crate::decide::decide;
use crate::disk::{Disks, Fill, Place, Room, Threshold};
use crate::facts::{Answer, Answers, Facts, JobFact, Op, Outcome, Watchdog};
use crate::member_key::MemberKey;
use crate::memory::{DiskMemory, Memory, Rewind};
use crate::name::{MemberName, SystemId};
use crate::peer::{Peer, PeerStatus};
use crate::plan::Step;
use crate::server::{DataDir, Postmaster, Role, Running, Server, State, Wal};
use crate::settings::{Dynamic, RewindSettings, Settings};
use crate::time::{Moment, Now, WallTime};
use crate::view::{Addresses, View};

/// What members do in the moment in which nobody leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Those that take the lease. With several, the first.
    pub takers: Vec<MemberName>,
    /// Why the others that answered leave it, in the words of their logs.
    pub others: BTreeMap<MemberName, Vec<String>>,
}

/// The agents have been running for so long that what they were asked before plays no part.
const NOW: Now = Now { boot: Moment(Duration::from_secs(1_000_000)), wall: WallTime(0) };

/// The members of this cluster, the leader excepted, that would take the lease if it ended now. A member that does not answer is
/// taken for one that is gone. What only a node itself knows is not seen: that its last promotion was refused, or that it has
/// just agreed to a primary that goes on in failsafe mode.
pub fn forecast(cluster: &Cluster, dynamic: &Dynamic, peers: &BTreeMap<MemberName, Peer>) -> Forecast {
    let mut left = cluster.clone();
    let former = left.leader.take().map(|leader| leader.name);
    let mut peers = peers.clone();
    if let Some(former) = &former {
        peers.insert(former.clone(), Peer::Unreachable("it is gone".to_owned()));
    }
    let left = Arc::new(left);
    let mut forecast = Forecast::default();
    for (name, peer) in &peers {
        let Peer::Status(status) = peer else { continue };
        if !status.is_running() || !left.members.contains_key(name) {
            continue;
        }
        let memory = memory(&left, former.as_ref().or(last_leader(&left).as_ref()), status);
        let facts = facts(&left, dynamic, name, status);
        match decided(&memory, facts, &peers) {
            Decided::Takes => forecast.takers.push(name.clone()),
            Decided::Leaves(why) => {
                forecast.others.insert(name.clone(), why);
            }
        }
    }
    forecast
}

/// Whom the history names last.
fn last_leader(cluster: &Cluster) -> Option<MemberName> {
    let line = cluster.history.as_ref()?.lines.last()?;
    line.0.get(4)?.as_str().map(MemberName::new)
}

enum Decided {
    Takes,
    Leaves(Vec<String>),
}

/// Runs one tick up to where it takes the lease or ends.
fn decided(memory: &Memory, mut facts: Facts, peers: &BTreeMap<MemberName, Peer>) -> Decided {
    loop {
        let answer = match decide(memory, &facts) {
            Step::Run(Op::AcquireLease) => return Decided::Takes,
            Step::Run(Op::PollPeers(asked)) => {
                let silent = || Peer::Unreachable("no answer".to_owned());
                let answer = |name: &MemberName| peers.get(name).cloned().unwrap_or_else(silent);
                Answer::Peers(asked.keys().map(|name| (name.clone(), answer(name))).collect())
            }
            Step::Run(Op::Initialize(_)) => Answer::Initialize(Outcome::Done(())),
            Step::Run(Op::WriteFailover(..)) => Answer::Failover(Outcome::Done(())),
            // Whatever else a node does, it does not take the lease in this tick.
            Step::Run(_) => return Decided::Leaves(Vec::new()),
            Step::Finish(plan) => return Decided::Leaves(plan.notes.into_iter().map(|note| note.text).collect()),
        };
        facts.answers.record(answer);
    }
}

fn memory(cluster: &Cluster, former: Option<&MemberName>, status: &PeerStatus) -> Memory {
    Memory {
        role: if status.in_recovery { Role::Replica } else { Role::Primary },
        state: State::Running,
        began: Some(Moment(Duration::ZERO)),
        started: true,
        rewind: Rewind::NotNeeded,
        known_members: Arc::new(cluster.members.clone()),
        last_leader: former.cloned(),
        timeline: status.timeline,
        disk: DiskMemory { logged: logged(&Disks::of_space(status.space)), ..DiskMemory::default() },
        ..Memory::new()
    }
}

/// How full its disks are was logged before.
fn logged(disks: &Disks) -> BTreeMap<Place, Option<Fill>> {
    let fill = |room: &Result<Room, String>| room.as_ref().ok().map(|room| room.fill(Threshold::default()));
    disks.0.iter().map(|(place, room)| (place.clone(), fill(room))).collect()
}

fn facts(cluster: &Arc<Cluster>, dynamic: &Dynamic, name: &MemberName, status: &PeerStatus) -> Facts {
    let id = match &cluster.initialize {
        Initialize::Done(id) => *id,
        Initialize::Absent | Initialize::InProgress(_) | Initialize::Invalid(..) => SystemId(1),
    };
    let address = cluster.members.get(name).and_then(|member| member.data.api_url.clone());
    let settings = Arc::new(settings(dynamic, name, status));
    let server = Arc::new(Server {
        data_dir: DataDir::Present(id),
        postmaster: Postmaster::Running(running(status)),
        other_wal: status.is_kept_out(),
    });
    Facts {
        now: NOW,
        shown: Arc::new(View::initial(Arc::clone(&settings), Arc::clone(&server), NOW.boot)),
        settings,
        cluster: Ok(Arc::clone(cluster)),
        server,
        job: JobFact::Idle,
        requests: BTreeMap::new(),
        shutdown: false,
        watchdog: Watchdog { required: status.watchdog_failed, healthy: !status.watchdog_failed },
        failsafe_leader: None,
        addresses: Addresses { api_url: address.unwrap_or_default(), ..Addresses::default() },
        member_key: MemberKey::default(),
        slots: Default::default(),
        standstill: None,
        disks: Disks::of_space(status.space),
        answers: Answers::default(),
    }
}

fn settings(dynamic: &Dynamic, name: &MemberName, status: &PeerStatus) -> Settings {
    Settings {
        scope: String::new(),
        name: name.clone(),
        config_version: None,
        dynamic: dynamic.clone(),
        unusable: Vec::new(),
        tags: status.tags.clone(),
        can_bootstrap: false,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}

fn running(status: &PeerStatus) -> Running {
    let position = status.wal_position;
    let wal = match status.in_recovery {
        false => Wal::Primary { location: status.location.unwrap_or(position) },
        true => Wal::Standby {
            received: Some(position),
            replayed: Some(position),
            replayed_timestamp: None,
            paused: false,
            latest_end: None,
            replication_state: status.replication_state.clone(),
        },
    };
    Running {
        start_time: String::new(),
        server_version: 0,
        statistics_reset: None,
        wal,
        timeline: status.timeline,
        control_timeline: status.timeline,
        replication: Vec::new(),
        slots: BTreeMap::new(),
        pending_restart: Default::default(),
    }
}
