//! Who could take over now, and what keeps the others from it: the rules of the decision, applied from outside.

use std::collections::BTreeMap;

use patroni_core::cluster::{Cluster, Member};
use patroni_core::disk::Space;
use patroni_core::election::{Election, Obstacle};
use patroni_core::forecast::forecast;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::{Peer, PeerStatus};
use patroni_core::settings::Dynamic;

use crate::statuses::{Silence, Status, Statuses};

/// A member that is not the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// Its name.
    pub(crate) name: MemberName,
    /// Where its WAL ends, where that is known.
    pub(crate) position: Option<Lsn>,
    /// `failover_priority`
    pub(crate) priority: i64,
    /// All that keeps it from being promoted; empty for a candidate.
    pub(crate) obstacles: Vec<String>,
    /// Why all this is from its key alone: it lives, and could not be asked from here.
    pub(crate) unasked: Option<String>,
    /// It would take the lease.
    pub(crate) takes: bool,
    /// What it would log instead, if it would not.
    pub(crate) leaves: Vec<String>,
}

/// All members but the leader, the one that would win first; candidates before the others.
pub(crate) fn contenders(cluster: &Cluster, statuses: &Statuses) -> Vec<Contender> {
    let dynamic = Dynamic::of_cluster(cluster);
    let others = || cluster.members.values().filter(|member| Some(&member.name) != cluster.leader_name());
    let peers: BTreeMap<MemberName, Peer> =
        others().map(|member| (member.name.clone(), peer(member, statuses.get(&member.name)))).collect();
    let mut forecast = forecast(cluster, &dynamic, &peers);
    let contender = |member: &Member| Contender {
        name: member.name.clone(),
        position: position(member, statuses.get(&member.name).and_then(|answer| answer.as_ref().ok())),
        priority: member.data.tags.failover_priority(),
        obstacles: obstacles(cluster, &dynamic, member, &peers[&member.name]),
        unasked: match statuses.get(&member.name) {
            Some(Err(Silence::NotTrusted(reason))) => Some(reason.clone()),
            Some(Err(Silence::NoAnswer(_)) | Ok(_)) | None => None,
        },
        takes: forecast.takers.contains(&member.name),
        leaves: forecast.others.remove(&member.name).unwrap_or_default(),
    };
    let mut all: Vec<Contender> = others().map(contender).collect();
    let rank =
        |one: &Contender| (!one.takes, !one.obstacles.is_empty(), std::cmp::Reverse((one.position, one.priority)));
    all.sort_by_key(rank);
    all
}

/// `maximum_lag_on_failover`, in bytes.
pub(crate) fn maximum_lag(cluster: &Cluster) -> u64 {
    Dynamic::of_cluster(cluster).maximum_lag_on_failover
}

/// Where the WAL of a member ends: by its own word now, or else by its key. `None` where neither says: a server that does not
/// run has no position, which is not one at the beginning.
pub(crate) fn position(member: &Member, status: Option<&Status>) -> Option<Lsn> {
    let data = &member.data;
    let stored = data.receive_lsn.max(data.replay_lsn).max(data.xlog_location);
    let told = |key: &str| status.and_then(|status| status.position(key)).map(Lsn);
    told("received_location").max(told("replayed_location")).or(stored).filter(|lsn| lsn.0 > 0)
}

/// What the other members would hear of it.
fn peer(member: &Member, answer: Option<&Result<Status, Silence>>) -> Peer {
    match answer {
        Some(Ok(status)) => match PeerStatus::of_document(&status.document) {
            Ok(status) => Peer::Status(status),
            Err(reason) => Peer::Unreachable(reason),
        },
        Some(Err(Silence::NoAnswer(reason))) => Peer::Unreachable(reason.clone()),
        Some(Err(Silence::NotTrusted(_))) => Peer::Status(by_key(member)),
        None => Peer::Unreachable("it has no REST API".to_owned()),
    }
}

fn by_key(member: &Member) -> PeerStatus {
    let data = &member.data;
    PeerStatus {
        in_recovery: !data.is_primary(),
        wal_position: position(member, None).filter(|_| data.is_running() && !data.is_primary()).unwrap_or_default(),
        location: data.xlog_location.filter(|_| data.is_primary()),
        timeline: data.timeline,
        replication_state: data.replication_state.clone(),
        tags: data.tags.clone(),
        watchdog_failed: false,
        // A key says only what is wrong.
        space: Space::Unknown,
    }
}

fn obstacles(cluster: &Cluster, dynamic: &Dynamic, member: &Member, peer: &Peer) -> Vec<String> {
    let found = Election::new(cluster, dynamic).obstacles(&member.name, peer);
    let text = |obstacle: &Obstacle| match obstacle {
        Obstacle::NotRunning => {
            format!("PostgreSQL is in state {:?}", member.data.state.as_deref().unwrap_or("unknown"))
        }
        other => other.to_string(),
    };
    found.iter().map(text).collect()
}
