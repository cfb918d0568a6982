//! Who else could lead: what the peers say of themselves, weighed.

use std::collections::BTreeMap;

use super::{Needs, Tick, ask};
use crate::cluster::{Cluster, Member};
use crate::election::{Election, limitation};
use crate::facts::Op;
use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::peer::Peer;
use crate::verdict::Level;

/// What a candidate has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bar {
    /// Not more than `maximum_lag_on_failover` behind the last position of the leader.
    WithinMaximumLag,
    /// The same, and it streams on this timeline, that of the leader: it can get what is still to come. After a promotion
    /// a standby streams to the end of the old timeline first, and lets go of the connection there.
    Streaming(Option<Timeline>),
    /// Everything up to and including the record that begins here.
    Received(Lsn),
}

impl Tick<'_> {
    /// Asks members, other than this one, that have a REST API. There is one round in a tick, so those who may go on in failsafe
    /// mode are always among them.
    pub(super) fn ask_peers<'m>(
        &self,
        members: impl IntoIterator<Item = &'m Member>,
    ) -> Needs<&BTreeMap<MemberName, Peer>> {
        let mut addresses: BTreeMap<MemberName, String> =
            members.into_iter().filter(|member| member.name != *self.me()).filter_map(Member::address).collect();
        let may_go_on = self.facts.cluster.as_ref().map(|cluster| self.who_may_go_on(cluster)).unwrap_or_default();
        addresses.extend(may_go_on.iter().filter_map(Member::address));
        if addresses.is_empty() {
            static NOBODY: BTreeMap<MemberName, Peer> = BTreeMap::new();
            return Ok(self.facts.answers.peers.as_ref().unwrap_or(&NOBODY));
        }
        ask(&self.facts.answers.peers, || Op::PollPeers(addresses))
    }

    /// The members that could take over from this leader, for a planned handover or because it cannot go on.
    /// `exclude_candidate`: the requested candidate is known to be unfit; look at the others.
    pub(super) fn candidates<'c>(&self, cluster: &'c Cluster, exclude_candidate: bool) -> Vec<&'c Member> {
        let request = cluster.failover.as_ref();
        let wanted = request.and_then(|request| request.candidate.as_ref());
        // A manual failover, unlike a switchover, may go to an asynchronous node.
        let any_node = request.is_some_and(|request| request.leader.is_none());
        let eligible = |member: &&Member| {
            let named = wanted.is_none_or(|wanted| exclude_candidate != (*wanted == member.name));
            member.name != *self.me()
                && !member.data.tags.nofailover()
                && !member.data.is_kept_out()
                && member.data.api_url.is_some()
                && (!self.sync_is_active(cluster) || any_node || cluster.sync.standbys.contains(&member.name))
                && named
        };
        cluster.members.values().filter(eligible).collect()
    }

    /// Some candidate passes the bar. Notes say why others do not.
    pub(super) fn failover_possible(&mut self, cluster: &Cluster, bar: Bar, exclude_candidate: bool) -> Needs<bool> {
        let candidates = self.candidates(cluster, exclude_candidate);
        if candidates.is_empty() {
            self.note(Level::Warning, format!("{}: candidates list is empty", self.action_name(cluster)));
            return Ok(false);
        }
        let votes = self.count_fit(cluster, candidates, bar)?;
        let quorum = if self.quorum_is_active(cluster) && self.requested_candidate(cluster, exclude_candidate).is_none()
        {
            cluster.sync.quorum as usize
        } else {
            0
        };
        if votes <= quorum && quorum > 0 {
            self.note(Level::Info, format!("Quorum requirement {quorum} can not be reached"));
        }
        Ok(votes > quorum)
    }

    /// How many of these pass the bar. Notes say why others do not.
    pub(super) fn count_fit(&mut self, cluster: &Cluster, candidates: Vec<&Member>, bar: Bar) -> Needs<usize> {
        let peers = self.ask_peers(candidates.iter().copied())?.clone();
        let mut fit = 0;
        for member in candidates {
            match self.unfit(cluster, peers.get(&member.name), bar) {
                None => fit += 1,
                Some(why) => self.note(Level::Info, format!("Member {} {why}", member.name)),
            }
        }
        Ok(fit)
    }

    fn requested_candidate<'c>(&self, cluster: &'c Cluster, exclude_candidate: bool) -> Option<&'c MemberName> {
        cluster.failover.as_ref().and_then(|request| request.candidate.as_ref()).filter(|_| !exclude_candidate)
    }

    /// Why a peer cannot take over, if it cannot.
    pub(super) fn unfit(&self, cluster: &Cluster, peer: Option<&Peer>, bar: Bar) -> Option<String> {
        let status = match peer {
            Some(Peer::Status(status)) => status,
            Some(Peer::Unreachable(_)) | None => return Some("is not reachable".to_owned()),
        };
        if let Some(limitation) = limitation(status) {
            return Some(format!("is {limitation}"));
        }
        let behind = || Some("exceeds maximum replication lag".to_owned());
        match bar {
            Bar::Received(checkpoint) if status.wal_position <= checkpoint => return behind(),
            Bar::WithinMaximumLag | Bar::Streaming(_) if self.is_lagging(cluster, status.wal_position) => {
                return behind();
            }
            Bar::Streaming(_) if status.replication_state.as_deref() != Some("streaming") => {
                return Some("is not streaming".to_owned());
            }
            Bar::Streaming(Some(timeline)) if status.timeline.is_some_and(|received| received != timeline) => {
                return Some(format!("is not streaming on timeline {timeline}"));
            }
            // Behind by nothing, where nothing is known of the leader: a node without data waits for one that leads.
            Bar::WithinMaximumLag if !status.is_running() => return Some("is not running".to_owned()),
            Bar::Received(_) | Bar::WithinMaximumLag | Bar::Streaming(_) => {}
        }
        let wanted = cluster.timeline();
        if self.settings.check_timeline && status.timeline.is_none_or(|timeline| timeline < wanted) {
            let timeline = status.timeline.map_or_else(|| "None".to_owned(), |t| t.to_string());
            return Some(format!("has timeline {timeline}, behind the cluster timeline {wanted}"));
        }
        None
    }

    /// The rules that everybody goes by.
    fn election<'c>(&'c self, cluster: &'c Cluster) -> Election<'c> {
        Election::new(cluster, &self.settings.dynamic)
    }

    pub(super) fn is_lagging(&self, cluster: &Cluster, position: Lsn) -> bool {
        self.election(cluster).is_lagging(position)
    }

    pub(super) fn sync_is_active(&self, cluster: &Cluster) -> bool {
        self.election(cluster).is_synchronous()
    }

    pub(super) fn quorum_is_active(&self, cluster: &Cluster) -> bool {
        self.election(cluster).is_quorum()
    }

    pub(super) fn sync_leaves_out(&self, cluster: &Cluster, name: &MemberName) -> bool {
        self.election(cluster).leaves_out(name)
    }
}
