//! `synchronous_mode_hold`: what nobody has confirmed is not shown.
//!
//! A primary shows a commit when its standbys have confirmed it. One that is started again shows all that its WAL holds,
//! with commits that were still waiting, and the next failover takes those back. So it comes back as a standby, from
//! which its own standbys stream, and is promoted once they have everything. Until then no client finds a primary.

use std::time::Duration;

use super::candidates::Bar;
use super::synchronous::electorate_of;
use super::{Needs, Tick};
use crate::cluster::{Cluster, Member};
use crate::job::DemoteMode;
use crate::lsn::Lsn;
use crate::memory::Holding;
use crate::server::{Postmaster, Role, Running};
use crate::settings::SynchronousMode;
use crate::sync::{Candidates, Electorate, Inspection, Names, Sender, candidates};
use crate::verdict::{Level, Verdict};

/// A standby of nobody has come to the end of its WAL when the position has not moved for so long.
const AT_REST: Duration = Duration::from_secs(1);

/// When to look again for confirmations.
const LOOK: Duration = Duration::from_millis(250);

/// Why members that run do not stream from a former primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// They have diverged, and wait for a primary to be rewound from: no voter is among them, or a quorum elected this node while voters
    /// had more, and were not asked.
    Diverged,
    /// Voters can stream as a rule. Where two were waited for, one can have diverged as well.
    ForNoKnownReason,
}

impl Tick<'_> {
    /// This node led last, and comes back as primary only with what its standbys have.
    pub(super) fn holds_clients(&self, cluster: &Cluster) -> bool {
        let led = cluster.sync.leader.as_ref() == Some(self.me());
        self.settings.synchronous.hold && led && !self.settings.paused && !self.is_standby_cluster()
    }

    /// As what a leader that was stopped is started.
    pub(super) fn role_of_comeback(&self, cluster: &Cluster) -> Role {
        if self.holds_clients(cluster) { Role::Replica } else { Role::Primary }
    }

    /// A primary that stops sends everything to the standbys that stream: without them its restart shows what only it has.
    pub(super) fn restart_would_show_too_much(&self, cluster: &Cluster) -> bool {
        match &self.facts.server.postmaster {
            Postmaster::Running(running) if !running.wal.is_standby() && self.holds_clients(cluster) => {
                let (streaming, needed) = self.confirmations(cluster, running, Lsn(0));
                streaming < needed
            }
            Postmaster::Running(_)
            | Postmaster::Starting
            | Postmaster::Stopping
            | Postmaster::Stopped(_)
            | Postmaster::Unreachable(_) => false,
        }
    }

    /// A standby with the lease. `None`: nothing is against its promotion.
    pub(super) fn hold_clients(&mut self, cluster: &Cluster, running: &Running) -> Needs<Option<Verdict>> {
        if !self.holds_clients(cluster) {
            self.memory.holding = None;
            return Ok(None);
        }
        let (now, position) = (self.facts.now.boot, running.wal.position());
        let before = self.memory.holding;
        let since = before.map_or(now, |holding| holding.since);
        let still = before.filter(|holding| holding.position == position);
        let at_rest_since = still.map_or(now, |holding| holding.at_rest_since);
        self.memory.holding = Some(Holding { since, position, at_rest_since });
        let (confirmed, needed) = self.confirmations(cluster, running, position);
        if confirmed >= needed && now.since(at_rest_since) >= AT_REST {
            self.memory.holding = None;
            let text = format!("{confirmed} standbys have all WAL of this former primary up to {position}");
            self.note(Level::Info, text);
            return Ok(None);
        }
        if before.is_none() {
            let text = format!(
                "This former primary may have commits that no standby has: it becomes primary when {needed} standbys have \
                 all its WAL, or when synchronous_mode_hold is turned off"
            );
            self.note(Level::Warning, text);
        }
        let (held, holding) = (now.since(since), Verdict::HoldingClients { confirmed, needed });
        let away = self.standbys_that_stay_away(cluster, running, held);
        if away == Some(Away::Diverged) {
            return self.go_on_unconfirmed(cluster, holding);
        }
        let limit = match away {
            Some(_) => self.settings.ttl + self.settings.loop_wait * 2,
            None => self.settings.primary_start_timeout.max(self.settings.loop_wait),
        };
        if held >= limit {
            // A standby that has everything acknowledged and does not stream from here may be the better leader.
            if self.failover_possible(cluster, Bar::WithinMaximumLag, false)? {
                self.note(Level::Info, "Demoting self because the confirmations of standbys are taking too long");
                self.demote(DemoteMode::Immediate);
                return Ok(Some(Verdict::StartTimedOut));
            }
            if away.is_some() {
                return self.go_on_unconfirmed(cluster, holding);
            }
        }
        self.wake_after = self.wake_after.min(LOOK);
        Ok(Some(holding))
    }

    /// Nobody can confirm: whoever could be elected for what `/sync` says is withdrawn, then this node becomes primary.
    fn go_on_unconfirmed(&mut self, cluster: &Cluster, holding: Verdict) -> Needs<Option<Verdict>> {
        if !cluster.sync.standbys.is_empty() {
            // Who is elected by these has not what this node is about to show.
            if self.write_sync(cluster, Some(Electorate::default()))? {
                let text = "The standbys in /sync run, and cannot stream from this former primary: they are withdrawn";
                self.note(Level::Warning, text);
            }
            return Ok(Some(holding));
        }
        let text = "Other members run, and none can stream from this former primary: it becomes primary without their \
                    confirmation, and nobody is elected instead of it before having all its WAL";
        self.note(Level::Warning, text);
        self.memory.holding = None;
        Ok(None)
    }

    /// Members run and have not streamed from here for a while, and no voter is down.
    fn standbys_that_stay_away(&self, cluster: &Cluster, running: &Running, held: Duration) -> Option<Away> {
        let others = cluster.members.values().filter(|member| member.name != *self.me());
        let (up, down): (Vec<&Member>, Vec<_>) = others.partition(|member| member.data.is_running());
        let votes = |member: &&Member| cluster.sync.standbys.contains(&member.name);
        let away = held >= self.settings.loop_wait * 2
            && self.standbys(cluster, running).all.is_empty()
            && !up.is_empty()
            && !down.iter().any(votes);
        let voters_have_diverged = self.settings.synchronous.mode == SynchronousMode::Quorum || !up.iter().any(votes);
        away.then_some(if voters_have_diverged { Away::Diverged } else { Away::ForNoKnownReason })
    }

    /// Whoever can be elected instead of this node, now that it is promoted, has all that it will show.
    pub(super) fn may_be_succeeded(&self, cluster: &Cluster, running: &Running) -> bool {
        if !self.holds_clients(cluster) {
            return true;
        }
        let position = running.wal.position();
        let standbys = self.standbys(cluster, running);
        let confirmed = standbys.all.iter().filter(|standby| standby.position >= position);
        let confirmed: Names = confirmed.map(|standby| standby.name.clone()).collect();
        let electorate = electorate_of(&cluster.sync);
        electorate.voters.difference(&confirmed).count() <= electorate.quorum
    }

    /// How many standbys have confirmed WAL up to here, and how many a commit would wait for.
    fn confirmations(&self, cluster: &Cluster, running: &Running, position: Lsn) -> (usize, usize) {
        let standbys = self.standbys(cluster, running);
        let picked = standbys.pick(&self.settings.synchronous).len();
        let needed = picked.min(self.settings.synchronous.node_count as usize).max(1);
        (standbys.all.iter().filter(|standby| standby.position >= position).count(), needed)
    }

    fn standbys(&self, cluster: &Cluster, running: &Running) -> Candidates {
        let senders = running.replication.iter().map(|row| Sender {
            name: row.application_name.clone(),
            state: row.state.clone(),
            sync_state: row.sync_state.clone(),
            flushed: row.flush_lsn,
            ..Sender::default()
        });
        let inspection =
            Inspection { senders: senders.collect(), flushed: running.wal.position(), ..Inspection::default() };
        candidates(self.me(), cluster, &inspection)
    }
}
