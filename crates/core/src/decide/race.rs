//! Nobody holds the lease: who may take it.

use std::collections::BTreeMap;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::{Cluster, FailoverRequest, Initialize, Member};
use crate::election::limitation;
use crate::facts::{Op, Outcome};
use crate::lsn::Timeline;
use crate::memory::Rewind;
use crate::name::MemberName;
use crate::peer::{Peer, PeerStatus};
use crate::server::Running;
use crate::verdict::{Level, Verdict};

/// A node's claim to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Take it.
    Best,
    /// Leave it to somebody else.
    Defer,
}

impl Tick<'_> {
    /// The leader race.
    pub(super) fn race(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        if self.claim(cluster, running)? == Claim::Defer || self.somebody_may_go_on(cluster, running)? {
            return self.defer(cluster, running);
        }
        // Before the lease: where the key is lost, two nodes with data of different clusters could each have half of it.
        match self.is_the_cluster(cluster)? {
            Outcome::Done(()) => {}
            Outcome::Refused => return self.defer(cluster, running),
            Outcome::Failed(why) | Outcome::Unknown(why) => return self.store_failure(&why),
        }
        match self.acquire()? {
            Outcome::Done(()) => self.won(cluster, running),
            Outcome::Refused => {
                self.wake_after = std::time::Duration::ZERO;
                self.follow(cluster, running, Verdict::DemotedLostRace, Verdict::FollowingLostRace)
            }
            Outcome::Failed(why) | Outcome::Unknown(why) => self.store_failure(&why),
        }
    }

    fn won(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        if let Some(request) = &cluster.failover {
            let handed_on = self.settings.paused && request.leader.is_some() && request.candidate.is_some();
            let rest = handed_on.then(|| FailoverRequest { leader: None, ..request.clone() });
            let what = if handed_on { "Updating" } else { "Cleaning up" };
            self.note(Level::Info, format!("{what} failover key after acquiring leader lock..."));
            self.write_failover(request, rest)?;
        }
        if self.is_standby_cluster() {
            return self.lead_standby_cluster(cluster, running, Verdict::StandbyLeaderPromoted { acquired: true });
        }
        self.lead(cluster, running, Verdict::AcquiredLock, Verdict::PromotedByAcquiring)
    }

    pub(super) fn write_failover(&mut self, old: &FailoverRequest, new: Option<FailoverRequest>) -> Needs<()> {
        let outcome = super::ask(&self.facts.answers.failover, || Op::WriteFailover(old.version, new))?.clone();
        self.note_failure("update the failover key", &outcome);
        Ok(())
    }

    fn defer(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        let nofailover = self.settings.tags.nofailover();
        // The winner of a manual failover need not be ahead of everybody, and a node that may not run can be ahead of
        // every node that may.
        let manual = cluster.failover.as_ref().is_some_and(|request| request.candidate.is_some());
        if (manual || nofailover && !self.settings.paused) && self.memory.rewind != Rewind::Needed {
            self.suspect_divergence();
        }
        if nofailover {
            return self.follow(cluster, running, Verdict::DemotedNotAllowed, Verdict::FollowingNotAllowed);
        }
        self.follow(cluster, running, Verdict::DemotedNotHealthiest, Verdict::FollowingNotHealthiest)
    }

    fn claim(&mut self, cluster: &Cluster, running: &Running) -> Needs<Claim> {
        if self.is_kept_out() {
            self.note_kept_out();
            return Ok(Claim::Defer);
        }
        if let Some(refused_at) = self.memory.promotion_refused_at {
            if self.facts.now.boot.since(refused_at) < self.settings.ttl {
                self.note(
                    Level::Info,
                    "backoff: skip leader race after pre_promote script failure and releasing the lock voluntarily",
                );
                return Ok(Claim::Defer);
            }
            self.memory.promotion_refused_at = None;
        }
        if let Some(leader) = self.failsafe_leader() {
            self.note(
                Level::Info,
                format!("{leader} goes on as primary without the store, and this node agreed to that"),
            );
            return Ok(Claim::Defer);
        }
        let nofailover = self.settings.tags.nofailover();
        let request = cluster.failover.as_ref();
        if self.settings.paused
            && !nofailover
            && let Some(request) = request.filter(|request| request.scheduled_at.is_none())
            && !self.is_left_out(cluster, running, request)
            && let Some(claim) = self.claim_by_request(cluster, running, request)?
        {
            return Ok(claim);
        }
        if !running.wal.is_standby() {
            return Ok(self.claim_as_primary(cluster, running));
        }
        if self.settings.paused || nofailover {
            return Ok(Claim::Defer);
        }
        if let Some(request) = request
            && let Some(claim) = self.claim_while_asked(cluster, running, request)?
        {
            return Ok(claim);
        }
        if self.facts.watchdog.required && !self.facts.watchdog.healthy {
            self.note(Level::Warning, "Watchdog device is not usable");
            return Ok(Claim::Defer);
        }
        self.claim_by_position(cluster, running)
    }

    /// `None`: those who were asked for had their time, and the ordinary race goes on. They may know better than this node that
    /// they must not lead.
    fn claim_while_asked(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        request: &FailoverRequest,
    ) -> Needs<Option<Claim>> {
        let now = self.facts.now.boot;
        let left_out = self.is_left_out(cluster, running, request);
        let claim = match left_out {
            true => Claim::Defer,
            false => self.claim_by_request(cluster, running, request)?.unwrap_or(Claim::Defer),
        };
        if claim == Claim::Best {
            self.memory.request_awaited_since = None;
            return Ok(Some(claim));
        }
        let since = *self.memory.request_awaited_since.get_or_insert(now);
        if now.since(since) < self.settings.ttl {
            return Ok(Some(claim));
        }
        let (action, ttl) = (self.action_name(cluster), self.settings.ttl.as_secs());
        self.note(Level::Warning, format!("{action}: nobody who was asked for took the lease within {ttl} seconds"));
        Ok(None)
    }

    /// A switchover is for synchronous standbys: this one may lack what was acknowledged.
    fn is_left_out(&self, cluster: &Cluster, running: &Running, request: &FailoverRequest) -> bool {
        let switchover = request.leader.is_some() && running.wal.is_standby();
        switchover && self.sync_leaves_out(cluster, self.me())
    }

    /// A primary without a lease goes on, unless somebody was promoted in the meantime. In pause it may be another database that
    /// people put there.
    fn claim_as_primary(&mut self, cluster: &Cluster, running: &Running) -> Claim {
        let mine = running.timeline.unwrap_or(Timeline(0));
        let known = cluster.timeline();
        if mine < known {
            self.note(Level::Warning, format!("My timeline {mine} is behind last known cluster timeline {known}"));
            return Claim::Defer;
        }
        // Its agent was away while another node led, who knows for how long: that one may have died before it wrote its history.
        // In pause people may have promoted it, on a timeline of its own.
        let by_hand = self.settings.paused && mine > known.max(Timeline(1));
        if !by_hand && self.sync_leaves_out(cluster, self.me()) {
            self.note(Level::Warning, "/sync names others: this primary may lack what they acknowledged");
            return Claim::Defer;
        }
        let same = match &cluster.initialize {
            Initialize::Done(id) => self.system_id() == Some(*id),
            Initialize::Absent | Initialize::InProgress(_) | Initialize::Invalid(..) => true,
        };
        if self.settings.paused && !same { Claim::Defer } else { Claim::Best }
    }

    /// The ordinary race: all members ever known, by position and priority.
    fn claim_by_position(&mut self, cluster: &Cluster, running: &Running) -> Needs<Claim> {
        let mut members: BTreeMap<MemberName, Member> = BTreeMap::clone(&self.memory.known_members);
        if self.settings.failsafe_mode
            && let Some(failsafe) = &cluster.failsafe
        {
            for (name, api_url) in failsafe {
                members.entry(name.clone()).or_insert_with(|| member_at(name, api_url));
            }
        }
        members.extend(cluster.members.clone());
        if self.sync_is_active(cluster) {
            if !self.quorum_is_active(cluster) && self.sync_leaves_out(cluster, self.me()) {
                return Ok(Claim::Defer);
            }
            members
                .retain(|name, _| cluster.sync.standbys.contains(name) || cluster.sync.leader.as_ref() == Some(name));
        }
        let former = self.memory.last_leader.clone();
        self.healthiest(cluster, running, members.values().collect(), true, former)
    }

    /// A request decides, not the position.
    fn claim_by_request(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        request: &FailoverRequest,
    ) -> Needs<Option<Claim>> {
        let action = self.action_name(cluster);
        let (quorum, switchover) = (self.quorum_is_active(cluster), request.leader.is_some());
        let led_last = cluster.sync.leader.as_ref() == Some(self.me()) || !quorum;
        let i_led = request.leader.as_ref() == Some(self.me()) && led_last;
        let mut candidate_unfit = false;
        if let Some(candidate) = &request.candidate {
            if candidate == self.me() {
                if self.sync_leaves_out(cluster, self.me()) {
                    let text = format!("{action}: not a synchronous standby: commits that only those have are lost");
                    self.note(Level::Warning, text);
                }
                let lacks = quorum && switchover && !self.has_a_quorum_behind_it(cluster, running)?;
                return Ok(Some(if lacks { Claim::Defer } else { Claim::Best }));
            }
            if self.settings.paused {
                return self.drop_request_of_gone_candidate(cluster, running, request);
            }
            if !quorum && self.sync_leaves_out(cluster, self.me()) {
                return Ok(Some(Claim::Defer));
            }
            if let Some(member) = cluster.members.get(candidate) {
                let peers = self.ask_peers(cluster.members.values())?;
                let asynchronous = switchover && self.sync_leaves_out(cluster, candidate);
                let why = match peers.get(&member.name) {
                    // It will not run, so waiting for it would last for ever.
                    _ if asynchronous => Some("not a synchronous standby"),
                    // Waiting for a server that does not run may last for ever.
                    Some(Peer::Status(status)) if !status.is_running() => Some("not running"),
                    // It was not handed the lease: its leader died before that, and what it lacks may be acknowledged.
                    Some(Peer::Status(status))
                        if quorum
                            && switchover
                            && status.in_recovery
                            && status.wal_position < running.wal.position() =>
                    {
                        Some("behind this node")
                    }
                    Some(Peer::Status(status)) => limitation(status),
                    Some(Peer::Unreachable(_)) | None => Some("not reachable"),
                };
                let why = why.or((i_led && quorum).then_some("perhaps not elected"));
                let Some(why) = why else {
                    self.note(Level::Info, format!("{action}: to {candidate}, i am {}", self.me()));
                    return Ok(Some(Claim::Defer));
                };
                self.note(Level::Warning, format!("{action}: member {candidate} is {why}"));
            }
            candidate_unfit = true;
        } else if self.settings.paused {
            return Ok(Some(Claim::Defer));
        }
        if i_led {
            // I was the leader: back to me only if nobody else can.
            let possible = self.failover_possible_among_all(cluster, candidate_unfit)?;
            return Ok(Some(if possible { Claim::Defer } else { Claim::Best }));
        }
        let members: Vec<&Member> = cluster
            .members
            .values()
            .filter(|m| Some(&m.name) != request.leader.as_ref())
            .filter(|m| !self.sync_is_active(cluster) || cluster.sync.standbys.contains(&m.name))
            .collect();
        self.healthiest(cluster, running, members, false, None).map(Some)
    }

    fn failover_possible_among_all(&mut self, cluster: &Cluster, exclude_candidate: bool) -> Needs<bool> {
        // Asked in one round with everybody else, because there is only one round in a tick.
        self.ask_peers(cluster.members.values())?;
        if self.quorum_is_active(cluster) {
            let voters: Vec<&Member> = self.voters(cluster).collect();
            return Ok(self.count_fit(cluster, voters, Bar::WithinMaximumLag)? > cluster.sync.quorum as usize);
        }
        self.failover_possible(cluster, Bar::WithinMaximumLag, exclude_candidate)
    }

    /// The other voters of a quorum.
    fn voters<'c>(&self, cluster: &'c Cluster) -> impl Iterator<Item = &'c Member> {
        let me = self.me();
        cluster.members.values().filter(move |m| m.name != *me && cluster.sync.standbys.contains(&m.name))
    }

    /// The candidate of a switchover whose leader is gone. Where the leader handed over, this node has everything and the
    /// other voters have no more; where it died before that, any voter may have what this one lacks.
    fn has_a_quorum_behind_it(&mut self, cluster: &Cluster, running: &Running) -> Needs<bool> {
        let former = cluster.sync.leader.as_ref();
        // Nobody else: a member that does not answer would only be waited for.
        let asked = self.voters(cluster).chain(former.and_then(|name| cluster.members.get(name)));
        let peers = self.ask_peers(asked)?;
        let mine = running.wal.position();
        let position = |name: &MemberName| match peers.get(name) {
            Some(Peer::Status(status))
                if status.in_recovery
                    && status.is_running()
                    && !status.is_kept_out()
                    && !self.is_on_newer_timeline(running, status) =>
            {
                Some(status.wal_position)
            }
            Some(Peer::Status(_) | Peer::Unreachable(_)) | None => None,
        };
        let positions: Vec<_> = self.voters(cluster).filter_map(|voter| position(&voter.name)).collect();
        let votes = positions.len() + usize::from(cluster.sync.standbys.contains(self.me()));
        let has_all_of_former = former.and_then(position).is_some_and(|theirs| theirs <= mine);
        let enough = votes > cluster.sync.quorum as usize || has_all_of_former || former == Some(self.me());
        Ok(enough && positions.into_iter().all(|theirs| theirs <= mine))
    }

    /// In pause, a request whose candidate went away would stay for ever; only the primary may remove it.
    fn drop_request_of_gone_candidate(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        request: &FailoverRequest,
    ) -> Needs<Option<Claim>> {
        let gone = request.candidate.as_ref().is_some_and(|name| !cluster.members.contains_key(name));
        if !gone || running.wal.is_standby() {
            return Ok(Some(Claim::Defer));
        }
        let action = self.action_name(cluster);
        self.note(Level::Warning, format!("{action}: removing failover key because failover candidate is not running"));
        self.write_failover(request, None)?;
        Ok(None)
    }

    /// Is this node at least as good as every member that answers?
    fn healthiest(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        members: Vec<&Member>,
        check_lag: bool,
        former_leader: Option<MemberName>,
    ) -> Needs<Claim> {
        if check_lag && self.is_lagging(cluster, running.wal.position()) {
            self.note(Level::Info, "My wal position exceeds maximum replication lag");
            return Ok(Claim::Defer);
        }
        if !self.is_standby_cluster() && self.settings.check_timeline && !self.timeline_is_current(cluster) {
            return Ok(Claim::Defer);
        }
        let quorum = self.quorum_is_active(cluster);
        let votes_of = |name: &MemberName| quorum && cluster.sync.standbys.contains(name);
        let asked: Vec<&Member> =
            members.iter().copied().filter(|m| !m.data.tags.nofailover() || votes_of(&m.name)).collect();
        let peers = self.ask_peers(asked.iter().copied())?.clone();
        let former = if self.sync_is_active(cluster) { cluster.sync.leader.clone() } else { former_leader };
        let mut tally = Tally { votes: 0, ahead: 0 };
        for member in asked {
            if let Some(Peer::Status(status)) = peers.get(&member.name)
                && limitation(status).is_none()
                && !self.stand_comparison(cluster, running, member, status, former.as_ref(), &mut tally)
            {
                return Ok(Claim::Defer);
            }
        }
        if !quorum {
            return Ok(Claim::Best);
        }
        let own = i64::from(cluster.sync.standbys.contains(self.me())) - 1;
        let enough = own + tally.votes >= i64::from(cluster.sync.quorum)
            || tally.ahead == 0 && cluster.sync.leader.as_ref() == Some(self.me());
        Ok(if enough { Claim::Best } else { Claim::Defer })
    }

    /// With `check_timeline` such a node does not take the lease, nor with the vote of this one where a quorum elects: so
    /// nobody has to leave it to it.
    fn is_on_old_timeline(&self, cluster: &Cluster, running: &Running, status: &PeerStatus) -> bool {
        let is_before = |known: Timeline| status.timeline.is_some_and(|timeline| timeline < known);
        let by_setting = self.settings.check_timeline && !self.is_standby_cluster() && is_before(cluster.timeline());
        by_setting || self.quorum_is_active(cluster) && is_before(self.own_timeline(running))
    }

    /// What such a node has is not part of what this one has, wherever both end: this node may have been written to after
    /// the other timeline began.
    fn is_on_newer_timeline(&self, running: &Running, status: &PeerStatus) -> bool {
        status.timeline.is_some_and(|timeline| timeline > self.own_timeline(running))
    }

    fn own_timeline(&self, running: &Running) -> Timeline {
        running.timeline.max(self.memory.timeline).unwrap_or(Timeline(0))
    }

    fn timeline_is_current(&mut self, cluster: &Cluster) -> bool {
        let known = cluster.timeline();
        let Some(mine) = self.memory.timeline else {
            self.note(Level::Info, "Can not figure out my timeline");
            return false;
        };
        if mine < known {
            self.note(Level::Info, format!("My timeline {mine} is behind last known cluster timeline {known}"));
        }
        mine >= known
    }

    /// False where the peer is better, or is a primary.
    fn stand_comparison(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        member: &Member,
        status: &PeerStatus,
        former: Option<&MemberName>,
        tally: &mut Tally,
    ) -> bool {
        let (name, mine, theirs) = (&member.name, running.wal.position(), status.wal_position);
        if !status.in_recovery {
            self.note(Level::Warning, format!("Primary ({name}) is still alive"));
            return false;
        }
        if mine < theirs && self.is_on_old_timeline(cluster, running, status) {
            self.note(Level::Info, format!("Wal position of {name} is ahead of my wal position, on an old timeline"));
            return true;
        }
        if mine < theirs {
            tally.ahead += 1;
            self.note(Level::Info, format!("Wal position of {name} is ahead of my wal position"));
            // The former leader of a synchronous cluster may be ahead by what was never acknowledged.
            let former_sync_leader = self.sync_is_active(cluster) && cluster.sync.leader.as_ref() == Some(name);
            if former_sync_leader {
                self.note(Level::Info, "Ignoring the former leader being ahead of us");
            }
            return former_sync_leader;
        }
        if theirs.0 == 0 {
            return true;
        }
        if self.quorum_is_active(cluster) && self.is_on_newer_timeline(running, status) {
            tally.ahead += 1;
            self.note(Level::Info, format!("{name} is on a newer timeline: what it has may be missing here"));
            return true;
        }
        let votes = self.quorum_is_active(cluster) && cluster.sync.standbys.contains(name);
        // Whoever led last needs no votes. The other one does, and might not get them.
        let led_last = cluster.sync.leader.as_ref() == Some(self.me());
        let (my_priority, priority) = (self.settings.tags.failover_priority(), status.tags.failover_priority());
        let may_defer = !self.is_on_old_timeline(cluster, running, status)
            && (!self.quorum_is_active(cluster) || votes && !led_last);
        let room = self.compare_room(status);
        if mine == theirs && room.is_lt() && former != Some(name) && may_defer {
            self.note(
                Level::Info,
                format!("{name} has the same WAL position, and room on its disks, which this node has not"),
            );
            return false;
        }
        if mine == theirs && my_priority < priority && room.is_le() {
            if former == Some(name) {
                self.note(
                    Level::Info,
                    format!(
                        "Ignoring former leader {name} having priority {priority} higher than this nodes \
                         {my_priority} priority"
                    ),
                );
            } else if may_defer {
                self.note(
                    Level::Info,
                    format!(
                        "{name} has equally tolerable WAL position and priority {priority}, while this node has \
                         priority {my_priority}"
                    ),
                );
                return false;
            }
        }
        if votes {
            self.note(Level::Info, format!("Got quorum vote from {name}"));
            tally.votes += 1;
        }
        true
    }
}

struct Tally {
    votes: i64,
    ahead: u32,
}

pub(super) fn member_at(name: &MemberName, api_url: &str) -> Member {
    Member {
        name: name.clone(),
        version: crate::cluster::Version(0),
        session: None,
        data: crate::cluster::MemberData { api_url: Some(api_url.to_owned()), ..Default::default() },
    }
}
