//! Who could take over now, and what keeps the others from it: the rules of the leader race, applied from outside.

use patroni_core::cluster::{Cluster, Member, is_synchronous};
use patroni_core::lsn::Lsn;
use patroni_core::settings::{Dynamic, SynchronousMode};

use crate::statuses::{Silence, Status, Statuses};

/// A member that is not the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// Its name.
    pub(crate) name: String,
    /// Where its WAL ends.
    pub(crate) position: Lsn,
    /// `failover_priority`
    pub(crate) priority: i64,
    /// All that keeps it from being promoted; empty for a candidate.
    pub(crate) obstacles: Vec<String>,
    /// Why all this is from its key alone: it lives, and could not be asked from here.
    pub(crate) unasked: Option<String>,
}

/// All members but the leader, the one that would win first; candidates before the others.
pub(crate) fn contenders(cluster: &Cluster, statuses: &Statuses) -> Vec<Contender> {
    let dynamic = Dynamic::of_cluster(cluster);
    let others = cluster.members.values().filter(|member| Some(&member.name) != cluster.leader_name());
    let contender = |member: &Member| {
        let answer = statuses.get(&member.name);
        let position = position(member, answer.and_then(|answer| answer.as_ref().ok()));
        Contender {
            name: member.name.to_string(),
            position,
            priority: member.data.tags.failover_priority(),
            obstacles: obstacles(cluster, &dynamic, member, answer, position),
            unasked: match answer {
                Some(Err(Silence::NotTrusted(reason))) => Some(reason.clone()),
                Some(Err(Silence::NoAnswer(_)) | Ok(_)) | None => None,
            },
        }
    };
    let mut all: Vec<Contender> = others.map(contender).collect();
    all.sort_by_key(|one| (!one.obstacles.is_empty(), std::cmp::Reverse((one.position, one.priority))));
    all
}

/// `maximum_lag_on_failover`, in bytes.
pub(crate) fn maximum_lag(cluster: &Cluster) -> u64 {
    Dynamic::of_cluster(cluster).maximum_lag_on_failover
}

/// Where the WAL of a member ends: by its own word now, or else by its key.
pub(crate) fn position(member: &Member, status: Option<&Status>) -> Lsn {
    let data = &member.data;
    let stored = data.receive_lsn.max(data.replay_lsn).max(data.xlog_location);
    let told = |key: &str| status.and_then(|status| status.position(key)).map(Lsn);
    told("received_location").max(told("replayed_location")).or(stored).unwrap_or_default()
}

fn obstacles(
    cluster: &Cluster,
    dynamic: &Dynamic,
    member: &Member,
    answer: Option<&Result<Status, Silence>>,
    position: Lsn,
) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(Err(Silence::NoAnswer(reason))) = answer {
        found.push(format!("its REST API does not answer ({reason})"));
    }
    if member.data.tags.nofailover() {
        found.push("it has the tag nofailover (or failover_priority 0)".to_owned());
    }
    if !member.data.is_running() {
        found.push(format!("PostgreSQL is in state {:?}", member.data.state.as_deref().unwrap_or("unknown")));
    }
    let synchronous = dynamic.synchronous.mode != SynchronousMode::Off && cluster.sync.leader.is_some();
    if synchronous && !is_synchronous(&cluster.sync, member.name.as_str()) {
        found.push("synchronous_mode is on and it is not a synchronous standby".to_owned());
    }
    let lag = cluster.status.last_lsn.0.saturating_sub(position.0);
    let maximum = maximum_lag(cluster);
    if lag > maximum {
        found.push(format!("it is {lag} bytes behind, more than maximum_lag_on_failover ({maximum})"));
    }
    let leader = cluster.leader_member().and_then(|leader| leader.data.timeline);
    if let (true, Some(theirs), Some(own)) = (dynamic.check_timeline, leader, member.data.timeline)
        && own < theirs
    {
        found.push(format!("check_timeline is on and it is on timeline {own}, the leader on {theirs}"));
    }
    if answer.and_then(|answer| answer.as_ref().ok()).is_some_and(|status| status.flag("watchdog_failed")) {
        found.push("its watchdog is required and does not work".to_owned());
    }
    found
}
