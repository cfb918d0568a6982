//! A node that holds other WAL than the primary on the same timeline: after two promotions to one timeline number, or where a primary lost
//! the end of its WAL.
//!
//! PostgreSQL goes by timelines and positions. It would stream, mix two histories in `pg_wal`, and be promoted with them. So the WAL itself is
//! compared before a node follows a primary that it may not have its WAL from; and where it differs the node follows nobody, votes for nobody and
//! leads nobody until it was cloned, or has a primary whose WAL it has. A mark in the data directory keeps that for the next agent.

use super::Tick;
use crate::cluster::Cluster;
use crate::job::{RewindSource, Upstream};
use crate::lsn::Timeline;
use crate::memory::Rewind;
use crate::name::MemberName;
use crate::server::Postmaster;
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    pub(super) fn is_kept_out(&self) -> bool {
        self.memory.rewind == Rewind::OtherWal
    }

    /// As a standby that streams from nobody.
    pub(super) fn nobody(&self) -> Upstream {
        if self.is_kept_out() { Upstream::Isolated } else { Upstream::None }
    }

    /// To be compared; what is known to differ stays so until a comparison says otherwise.
    pub(super) fn suspect_divergence(&mut self) {
        if !self.is_kept_out() {
            self.memory.rewind = Rewind::Check;
        }
    }

    /// What an agent before this one found out.
    pub(super) fn recall_other_wal(&mut self) {
        let primary =
            matches!(&self.facts.server.postmaster, Postmaster::Running(running) if !running.wal.is_standby());
        let unsure = matches!(self.memory.rewind, Rewind::Unknown | Rewind::Check);
        if self.facts.server.other_wal && !primary && unsure {
            self.memory.rewind = Rewind::OtherWal;
        }
    }

    pub(super) fn keep_out(&mut self, cluster: &Cluster, source: &RewindSource, why: &str) -> Option<Verdict> {
        self.memory.rewind = Rewind::OtherWal;
        // In pause nothing is removed.
        if !self.settings.paused
            && let Some(verdict) = self.reinitialize_diverged(cluster)
        {
            return Some(verdict);
        }
        let remedy = self.clone_anew(cluster);
        let text = format!(
            "this node cannot follow {source}, and is not promoted: {why}. pg_rewind cannot repair that. Save what only this node has, if it is \
             worth it. {remedy}"
        );
        self.note(Level::Error, text);
        None
    }

    pub(super) fn note_kept_out(&mut self) {
        let remedy =
            format!("Run `patronictl reinit {} {}` when there is a leader", self.settings.scope, self.settings.name);
        let text =
            format!("this node has other WAL than the primary had on the same timeline, and does not lead. {remedy}");
        self.note(Level::Warning, text);
    }

    /// Timelines would not show it if this node had other WAL than the leader: it is on the same one, or on one that the leader, which
    /// is not promoted yet, may call its own in a moment; and it was not compared with that leader.
    pub(super) fn may_hold_other_wal(&self, cluster: &Cluster) -> bool {
        let Some((leader, theirs)) = self.other_leader(cluster) else { return false };
        let Some(mine) = self.latest_timeline() else { return false };
        let promoted = cluster.leader_member().is_some_and(|member| member.data.is_primary());
        let alike = mine > theirs || mine == theirs && promoted;
        alike && self.memory.compared_with.as_ref() != Some(&(leader.clone(), theirs))
    }

    pub(super) fn suspect_other_wal(&mut self, cluster: &Cluster) {
        if self.may_hold_other_wal(cluster) && matches!(self.memory.rewind, Rewind::Unknown | Rewind::NotNeeded) {
            self.memory.rewind = Rewind::Check;
        }
    }

    pub(super) fn remember_comparison(&mut self, cluster: &Cluster) {
        self.memory.comparison_awaited_since = None;
        self.memory.compared_with = self.other_leader(cluster).map(|(name, timeline)| (name.clone(), timeline));
    }

    /// Not yet to be followed: it was not compared. One that cannot be compared, because the user lacks a grant, is followed after a while, as by
    /// Patroni, and at once where nobody configured what a comparison needs; not one that is still to be promoted to a timeline which this
    /// node is on, or is past.
    pub(super) fn waits_for_comparison(&mut self, cluster: &Cluster) -> bool {
        if self.is_kept_out() || !self.may_hold_other_wal(cluster) {
            return false;
        }
        let theirs = self.other_leader(cluster).map(|(_, timeline)| timeline);
        self.latest_timeline() > theirs || self.rewind_allowed() && !self.awaited_for_long()
    }

    pub(super) fn awaited_for_long(&mut self) -> bool {
        let now = self.facts.now.boot;
        let since = *self.memory.comparison_awaited_since.get_or_insert(now);
        now.since(since) > self.settings.loop_wait * 2
    }

    pub(super) fn leader_words(&self, cluster: &Cluster) -> String {
        cluster.leader_name().map(ToString::to_string).unwrap_or_default()
    }

    /// In a standby cluster it is the remote primary that counts, not the leader.
    fn other_leader<'c>(&self, cluster: &'c Cluster) -> Option<(&'c MemberName, Timeline)> {
        let leader =
            cluster.leader_member().filter(|member| member.name != *self.me() && !self.is_standby_cluster())?;
        Some((&leader.name, leader.data.timeline?))
    }

    /// The latest timeline that this data directory is known to have been on.
    pub(super) fn latest_timeline(&self) -> Option<Timeline> {
        let found = match &self.facts.server.postmaster {
            Postmaster::Running(running) => running.timeline.max(running.control_timeline),
            Postmaster::Stopped(Some(control)) => Some(control.checkpoint_timeline.max(control.min_recovery_timeline)),
            Postmaster::Stopped(None) | Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => {
                None
            }
        };
        found.max(self.memory.timeline)
    }
}
