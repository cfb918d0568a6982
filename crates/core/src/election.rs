//! Who may take the lease, and why not: the rules that the decision, the REST API and patronictl share.
//!
//! What a node does with them is decided in [`crate::decide`]; [`crate::forecast`] says what all nodes together would do.

use std::fmt;

use crate::cluster::{Cluster, is_synchronous};
use crate::disk::size;
use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::peer::{Peer, PeerStatus};
use crate::settings::{Dynamic, SynchronousMode};

/// The rules for one cluster under one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Election<'a> {
    cluster: &'a Cluster,
    dynamic: &'a Dynamic,
}

/// What keeps a member from taking the lease. Displayed for people: `it is ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It does not answer; the text says why.
    NoAnswer(String),
    /// It has the tag `nofailover`, or `failover_priority: 0`.
    NoFailover,
    /// Its PostgreSQL does not run.
    NotRunning,
    /// `/sync` names others.
    NotSynchronous,
    /// More than `maximum_lag_on_failover` behind the last position of the leader, both in bytes.
    Lagging {
        /// How far behind it is.
        lag: u64,
        /// How far behind it may be.
        maximum: u64,
    },
    /// With `check_timeline`: it is on an older timeline than the cluster.
    OldTimeline {
        /// Its timeline, where known.
        own: Option<Timeline>,
        /// That of the cluster.
        cluster: Timeline,
    },
    /// A watchdog is required there and does not work.
    Watchdog,
}

impl<'a> Election<'a> {
    /// The rules for this cluster.
    pub fn new(cluster: &'a Cluster, dynamic: &'a Dynamic) -> Self {
        Election { cluster, dynamic }
    }

    /// Synchronous replication is wanted, and `/sync` says for whom.
    pub fn is_synchronous(self) -> bool {
        let sync = &self.cluster.sync;
        // While /sync names standbys it goes, even if the mode has just been turned off: only the leader may delete it.
        let wanted = self.dynamic.synchronous.mode != SynchronousMode::Off || !sync.standbys.is_empty();
        wanted && sync.leader.is_some() && self.dynamic.standby_cluster.is_none()
    }

    /// The same, with quorum commit.
    pub fn is_quorum(self) -> bool {
        // A quorum that was published goes, even if the mode has just been changed.
        let wanted = self.dynamic.synchronous.mode == SynchronousMode::Quorum || self.cluster.sync.quorum > 0;
        wanted && self.is_synchronous()
    }

    /// `/sync` names the only nodes that have all that was acknowledged: a switchover goes to one of them.
    pub fn is_for_named_standbys(self) -> bool {
        self.dynamic.standby_cluster.is_none()
            && match self.dynamic.synchronous.mode {
                SynchronousMode::On => true,
                SynchronousMode::Quorum => false,
                SynchronousMode::Off => self.is_synchronous() && !self.is_quorum(),
            }
    }

    /// `/sync` speaks of others: this node may lack what was acknowledged.
    pub fn leaves_out(self, name: &MemberName) -> bool {
        let sync = &self.cluster.sync;
        self.is_synchronous() && !sync.standbys.contains(name) && sync.leader.as_ref() != Some(name)
    }

    /// How far a position is behind the last known one of the leader, in bytes.
    pub fn lag(self, position: Lsn) -> u64 {
        self.cluster.status.last_lsn.0.saturating_sub(position.0)
    }

    /// That is more than `maximum_lag_on_failover`.
    pub fn is_lagging(self, position: Lsn) -> bool {
        self.lag(position) > self.dynamic.maximum_lag_on_failover
    }

    /// All that keeps a member from taking the lease when nobody has it. What the others have is no part of it: they may be
    /// better, or their votes may be missing.
    pub fn obstacles(self, name: &MemberName, peer: &Peer) -> Vec<Obstacle> {
        let status = match peer {
            Peer::Status(status) => status,
            Peer::Unreachable(why) => return vec![Obstacle::NoAnswer(why.clone())],
        };
        if !status.is_running() {
            let mut found = vec![Obstacle::NotRunning];
            found.extend(status.may_not_lead().then_some(Obstacle::NoFailover));
            return found;
        }
        // Of a primary nothing counts but whether the cluster went on without it.
        let standby = status.in_recovery;
        [
            (standby && status.may_not_lead()).then_some(Obstacle::NoFailover),
            self.is_left_out(name, standby).then_some(Obstacle::NotSynchronous),
            (standby && self.is_lagging(status.wal_position)).then(|| Obstacle::Lagging {
                lag: self.lag(status.wal_position),
                maximum: self.dynamic.maximum_lag_on_failover,
            }),
            self.old_timeline(status),
            (standby && status.watchdog_failed).then_some(Obstacle::Watchdog),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// In a quorum any standby may run that has the votes. In pause a primary goes on whatever `/sync` says.
    fn is_left_out(self, name: &MemberName, standby: bool) -> bool {
        let may_run = if standby { self.is_quorum() } else { self.dynamic.paused };
        !may_run && self.leaves_out(name)
    }

    fn old_timeline(self, status: &PeerStatus) -> Option<Obstacle> {
        let cluster = self.cluster.timeline();
        let is_old = match status.in_recovery {
            true if self.dynamic.check_timeline && self.dynamic.standby_cluster.is_none() => {
                status.timeline.is_none_or(|own| own < cluster)
            }
            true => false,
            false => status.timeline.unwrap_or(Timeline(0)) < cluster,
        };
        is_old.then_some(Obstacle::OldTimeline { own: status.timeline, cluster })
    }

    /// The member is among those that `/sync` names, in any case.
    pub fn is_named(self, name: &MemberName) -> bool {
        is_synchronous(&self.cluster.sync, name.as_str())
    }
}

/// Why a node that answered cannot be promoted, in Patroni's words.
pub fn limitation(status: &PeerStatus) -> Option<&'static str> {
    if status.may_not_lead() {
        Some("not allowed to promote")
    } else if status.watchdog_failed {
        Some("not watchdog capable")
    } else {
        None
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoAnswer(why) => write!(f, "its REST API does not answer ({why})"),
            Obstacle::NoFailover => write!(f, "it has the tag nofailover (or failover_priority 0)"),
            Obstacle::NotRunning => write!(f, "its PostgreSQL does not run"),
            Obstacle::NotSynchronous => write!(f, "it is not among the synchronous standbys that the key sync names"),
            Obstacle::Lagging { lag, maximum } => {
                let (lag, maximum) = (size(*lag), size(*maximum));
                write!(f, "it is {lag} behind, more than maximum_lag_on_failover ({maximum})")
            }
            Obstacle::OldTimeline { own: Some(own), cluster } => {
                write!(f, "it is on timeline {own}, and the cluster has reached timeline {cluster}")
            }
            Obstacle::OldTimeline { own: None, cluster } => {
                write!(
                    f,
                    "its timeline is not known, and check_timeline is on (the cluster has reached timeline {cluster})"
                )
            }
            Obstacle::Watchdog => write!(f, "its watchdog is required and does not work"),
        }
    }
}
