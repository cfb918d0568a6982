//! Synchronous replication: the leader keeps `/sync` and `synchronous_standby_names` in step, one change a tick.
//!
//! What is safe is known by [`crate::sync`] alone; here is when to look, and what becomes of the answers.

use std::sync::Arc;
use std::time::Duration;

use super::{Needs, Tick, ask};
use crate::cluster::{Cluster, Member, SyncState};
use crate::facts::{Op, Outcome};
use crate::lsn::Timeline;
use crate::name::MemberName;
use crate::parameters::SynchronousStandbyNames;
use crate::server::Running;
use crate::settings::SynchronousMode;
use crate::sync::{
    Candidates, Electorate, Enforcement, Inspection, Names, Situation, StandbyNames, Transition, before_promotion,
    candidates, comma_list, python_list,
};
use crate::verdict::Level;

/// When to look again at a setting that has just been made: as soon as it can be certain that it acts.
const SETTLING: Duration = Duration::from_millis(120);

/// When to look again for a standby to catch up; later, if it takes long.
const CATCHING_UP: Duration = Duration::from_millis(300);

impl Tick<'_> {
    /// As primary with the lease.
    pub(super) fn keep_synchronous(&mut self, cluster: &Cluster) -> Needs<()> {
        if self.settings.synchronous.mode == SynchronousMode::Off {
            return self.end_synchronous(cluster);
        }
        if cluster.sync.leader.is_none() {
            // Written even without standbys: from now on nobody else may lead.
            if self.write_sync(cluster, Some(Electorate::default()))? {
                self.note(Level::Info, "Enabled synchronous replication");
            }
            return Ok(());
        }
        let inspection = match ask(&self.facts.answers.synchronous, || Op::InspectSynchronous)? {
            Ok(inspection) => inspection,
            Err(why) => {
                self.note(Level::Warning, format!("synchronous replication could not be looked at: {why}"));
                return Ok(());
            }
        };
        self.next_transition(cluster, inspection)
    }

    fn next_transition(&mut self, cluster: &Cluster, inspection: &Inspection) -> Needs<()> {
        let now = self.facts.now.boot;
        let server = self.shown_names(cluster, inspection);
        let standbys = candidates(self.me(), cluster, inspection);
        let mut enforcement = self.memory.enforcement.take().unwrap_or_else(|| Enforcement::new(now, false));
        self.warn_of_commits_that_do_not_wait(&mut enforcement, inspection);
        enforcement.observe(inspection, &server, &standbys, now);
        let wanted = self.wanted_names(cluster, &standbys, &server, &enforcement);
        let streaming = inspection.senders.iter().filter(|sender| sender.streams()).flat_map(|sender| {
            cluster.members.keys().filter(|name| name.as_str().eq_ignore_ascii_case(&sender.name)).cloned()
        });
        let (electorate, streaming) = (electorate_of(&cluster.sync), streaming.collect::<Names>());
        let situation = Situation {
            electorate: &electorate,
            foreign: cluster.sync.leader.as_ref() != Some(self.me()),
            server: &server,
            settled: enforcement.is_settled(),
            unsure: enforcement.is_unsure(),
            reached: enforcement.reached(),
            streaming: &streaming,
            wanted: &wanted,
        };
        let (next, done) = (situation.next(), situation.is_final());
        let waited = now.since(enforcement.since);
        let settled = enforcement.is_settled();
        self.memory.enforcement = Some(enforcement);
        match next {
            Some(transition) => self.transition(cluster, &electorate, transition),
            None => {
                if !done || !settled {
                    let pause = if settled { CATCHING_UP } else { SETTLING };
                    self.look_again_in(if waited > self.settings.loop_wait { Duration::from_secs(1) } else { pause });
                }
                Ok(())
            }
        }
    }

    fn transition(&mut self, cluster: &Cluster, old: &Electorate, transition: Transition) -> Needs<()> {
        let quorum = self.settings.synchronous.mode == SynchronousMode::Quorum;
        match transition {
            Transition::Store(new) => {
                if cluster.sync.leader.as_ref() != Some(self.me()) {
                    let found = cluster.sync.leader.as_ref().map_or("None", |name| name.as_str());
                    let text = format!(
                        "Inconsistent state of /sync key detected, leader = {found} doesn't match {}, updating \
                         synchronous replication key",
                        self.me()
                    );
                    self.note(Level::Warning, text);
                }
                if self.write_sync(cluster, Some(new.clone()))? {
                    self.note(Level::Info, published(self.me().as_str(), quorum, old, &new));
                }
            }
            Transition::Server(names) => {
                self.announce_names(quorum, &names);
                self.set_names(&names)?;
            }
        }
        Ok(())
    }

    fn announce_names(&mut self, quorum: bool, names: &StandbyNames) {
        if names.anybody {
            self.note(Level::Warning, "No standbys available!");
        }
        let text = if quorum {
            format!(
                "Setting synchronous replication to {} of {} ({})",
                names.number,
                names.names.len(),
                comma_list(&names.names)
            )
        } else if names.anybody {
            "Assigning synchronous standby status to ['*']".to_owned()
        } else {
            format!("Assigning synchronous standby status to {}", python_list(&names.names))
        };
        self.note(Level::Info, text);
    }

    /// True: PostgreSQL shows the new value.
    fn set_names(&mut self, names: &StandbyNames) -> Needs<bool> {
        let text = names.to_string();
        let managed = SynchronousStandbyNames::Managed(Some(text.clone()).filter(|text| !text.is_empty()));
        let outcome = ask(&self.facts.answers.standby_names, || Op::SetSynchronousStandbyNames(managed))?.clone();
        let now = self.facts.now.boot;
        self.memory.enforcement.get_or_insert_with(|| Enforcement::new(now, true)).requested(text, now);
        if outcome.is_done() {
            self.look_again_in(SETTLING);
        } else {
            self.look_again_in(Duration::from_secs(1));
        }
        self.note_failure("set synchronous_standby_names", &outcome);
        Ok(outcome.is_done())
    }

    /// True: it is written.
    pub(super) fn write_sync(&mut self, cluster: &Cluster, electorate: Option<Electorate>) -> Needs<bool> {
        let version = cluster.sync.version;
        let outcome = ask(&self.facts.answers.sync, || Op::WriteSync(version, electorate))?.clone();
        if outcome.is_done() {
            self.look_again_in(Duration::ZERO);
        } else if outcome == Outcome::Refused {
            self.note(Level::Info, "Synchronous replication key updated by someone else.");
            self.look_again_in(Duration::ZERO);
        } else {
            self.note_failure("update the sync key", &outcome);
            self.look_again_in(Duration::from_secs(1));
        }
        Ok(outcome.is_done())
    }

    fn look_again_in(&mut self, pause: Duration) {
        self.wake_after = self.wake_after.min(pause);
    }

    /// The mode was turned off: first nobody counts on standbys any more, then nobody waits for them.
    fn end_synchronous(&mut self, cluster: &Cluster) -> Needs<()> {
        if cluster.sync.leader.is_some() {
            let now = self.facts.now.boot;
            self.memory.enforcement.get_or_insert_with(|| Enforcement::new(now, false));
            if self.write_sync(cluster, None)? {
                self.note(Level::Info, "Disabled synchronous replication");
            }
            return Ok(());
        }
        if self.memory.enforcement.is_none() {
            return Ok(());
        }
        let configured = || Op::SetSynchronousStandbyNames(SynchronousStandbyNames::Configured);
        let outcome = ask(&self.facts.answers.standby_names, configured)?.clone();
        self.note_failure("set synchronous_standby_names", &outcome);
        if outcome.is_done() {
            self.memory.enforcement = None;
        }
        Ok(())
    }

    fn shown_names(&mut self, cluster: &Cluster, inspection: &Inspection) -> StandbyNames {
        match inspection.standby_names.parse::<StandbyNames>() {
            Ok(names) => names.spelled_like(cluster.members.keys().chain(&cluster.sync.standbys)),
            Err(error) => {
                self.note(Level::Warning, error.to_string());
                StandbyNames::default()
            }
        }
    }

    fn wanted_names(
        &self,
        cluster: &Cluster,
        standbys: &Candidates,
        server: &StandbyNames,
        enforcement: &Enforcement,
    ) -> StandbyNames {
        let settings = &self.settings.synchronous;
        let mut picked = standbys.pick(settings);
        // Right after a start standbys are still on their way back: those that were waited for are given that time.
        if enforcement.begun.is_some_and(|begun| self.facts.now.boot.since(begun) < self.settings.loop_wait) {
            let missing = match settings.mode {
                SynchronousMode::Quorum => server.names.len(),
                SynchronousMode::On | SynchronousMode::Off => {
                    (settings.node_count as usize).saturating_sub(picked.len())
                }
            };
            let willing = |name: &&crate::name::MemberName| {
                cluster.members.get(*name).is_some_and(|member| !member.data.tags.nosync()) && !picked.contains(*name)
            };
            let returning: Vec<_> = server.names.iter().filter(willing).take(missing).cloned().collect();
            picked.extend(returning);
        }
        StandbyNames::wanted(settings, picked)
    }

    /// Told once, and again when it changes.
    fn warn_of_commits_that_do_not_wait(&mut self, known: &mut Enforcement, inspection: &Inspection) {
        let found = inspection.commits_that_do_not_wait();
        if !found.is_empty() && found != known.turned_down {
            let text = format!(
                "synchronous_commit is {}: those commits do not wait for standbys, and a failover can lose them",
                found.join(", ")
            );
            self.note(Level::Warning, text);
        }
        known.turned_down = found;
    }

    /// Before this node becomes primary. False: it may not, `/sync` could not be brought to its name.
    pub(super) fn synchronous_before_promotion(&mut self, cluster: &Cluster, running: &Running) -> Needs<bool> {
        let mode = self.settings.synchronous.mode;
        self.memory.enforcement = None;
        if mode == SynchronousMode::Off {
            self.end_synchronous(cluster)?;
            return Ok(true);
        }
        let none = StandbyNames::wanted(&self.settings.synchronous, Names::new());
        let kept =
            mode == SynchronousMode::Quorum && cluster.sync.leader.is_some() && self.may_be_succeeded(cluster, running);
        let (names, mut electorate) = before_promotion(self.me(), &electorate_of(&cluster.sync), kept, none);
        if !self.set_names(&names)? {
            if self.settings.synchronous.strict {
                return Ok(false);
            }
            electorate = Electorate::default();
        }
        if electorate.is_electable() && !self.will_wait()? {
            electorate = Electorate::default();
        }
        self.write_sync(cluster, Some(electorate))
    }

    /// Commits wait from the first on. A checkpointer that is busy makes nobody wait until it is done: with the votes of
    /// those who were to be waited for somebody without the first commits could be elected.
    fn will_wait(&self) -> Needs<bool> {
        let inspection = ask(&self.facts.answers.synchronous, || Op::InspectSynchronous)?;
        Ok(inspection.as_ref().is_ok_and(|server| !server.checkpointer_busy && !server.standby_names.is_empty()))
    }

    /// `/sync` is lost and nobody leads: whom it named may have changed since this node last saw it. Only whoever wrote it
    /// surely has everything.
    pub(super) fn with_known_sync(&mut self, cluster: Arc<Cluster>) -> Arc<Cluster> {
        if cluster.sync.leader.is_some() {
            self.memory.wrote_sync.clone_from(&cluster.sync.leader);
            return cluster;
        }
        if self.settings.synchronous.mode == SynchronousMode::Off {
            // Removed on purpose.
            self.memory.wrote_sync = None;
            return cluster;
        }
        if !cluster.is_unlocked() {
            // The leader writes it anew; but it may be about to stop, and not come to that.
            return cluster;
        }
        let Some(wrote) = self.memory.wrote_sync.clone() else { return cluster };
        // Whoever led since wrote another one, which this node has not seen.
        let seen = self.memory.last_leader.clone().unwrap_or(wrote);
        let leader = self.led_unseen(&cluster, &seen).unwrap_or(seen);
        let text = format!(
            "the key /sync is gone, and with it who has all that was acknowledged: only {leader}, which wrote it, may lead, or \
             whom a manual failover asks for"
        );
        self.note(Level::Warning, text);
        let sync = SyncState { version: cluster.sync.version, leader: Some(leader), ..SyncState::default() };
        Arc::new(Cluster { sync, ..Cluster::clone(&cluster) })
    }

    /// Who led after this node, which saw nothing of it (it was frozen, or cut off): by the timeline that began meanwhile.
    fn led_unseen(&self, cluster: &Cluster, seen: &MemberName) -> Option<MemberName> {
        let timeline_of = |member: &Member| member.data.timeline.unwrap_or(Timeline(0));
        let others = || cluster.members.values().filter(|member| member.name != *self.me());
        let latest = others().map(timeline_of).max().max(Some(cluster.timeline()))?;
        if seen != self.me() || self.latest_timeline()? >= latest {
            return None;
        }
        let promoted = cluster.history.as_ref().and_then(|history| history.lines.last()?.leader());
        let promoted = promoted.filter(|name| name != self.me());
        // Nobody knows whose timeline it is. That it is not this node's is what counts.
        promoted.or_else(|| others().max_by_key(|member| timeline_of(member)).map(|member| member.name.clone()))
    }

    /// This node is a synchronous standby and is about to stop: it says so, and waits for the leader to do without it.
    pub(super) fn leaves_synchronous(&mut self, cluster: &Cluster) -> bool {
        let off = self.settings.synchronous.mode == SynchronousMode::Off || self.settings.tags.nosync();
        if off || self.has_lock(cluster) {
            return false;
        }
        let now = self.facts.now.boot;
        let first = self.leaving_sync.is_none();
        let since = *self.leaving_sync.get_or_insert(now);
        self.memory.leaving_sync = Some(since);
        let needed = cluster.leader.is_some()
            && cluster.sync.leader.as_ref() == cluster.leader_name()
            && cluster.sync.standbys.contains(self.me());
        if !needed || now.since(since) > self.settings.loop_wait * 2 {
            return false;
        }
        if first {
            self.note(Level::Info, "waiting for the leader to pick another synchronous standby");
        }
        self.look_again_in(Duration::from_millis(500));
        true
    }
}

pub(super) fn electorate_of(sync: &SyncState) -> Electorate {
    Electorate { voters: sync.standbys.iter().cloned().collect(), quorum: sync.quorum as usize }
}

/// What a new content of `/sync` means, in Patroni's words.
fn published(me: &str, quorum: bool, old: &Electorate, new: &Electorate) -> String {
    if quorum {
        let count = new.voters.len();
        format!("Setting leader to {me}, quorum to {} of {count} ({})", new.quorum, comma_list(&new.voters))
    } else if new.voters.is_subset(&old.voters) {
        let (old, new) = (python_list(&old.voters), python_list(&new.voters));
        format!("Updating synchronous privilege temporarily from {old} to {new}")
    } else {
        format!("Synchronous standby status assigned to {}", python_list(&new.voters))
    }
}
