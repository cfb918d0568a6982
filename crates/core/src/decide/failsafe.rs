//! Failsafe mode: a primary that cannot reach the store goes on while every member that could take its place agrees.
//!
//! The leader writes whom it would ask to `/failsafe`. A member that agreed does not run for a `ttl`; the leader counts the
//! `ttl` from before it asked. Whoever is missing there, or does not know what it agreed to, runs only if none of the
//! others can be such a leader.

use super::race::member_at;
use super::{Needs, Tick, ask};
use crate::cluster::{Cluster, Member};
use crate::facts::Op;
use crate::name::MemberName;
use crate::peer::Peer;
use crate::server::Running;
use crate::verdict::Level;

impl Tick<'_> {
    /// Whoever is in `/failsafe` now, or will be with the next renewal: it may be unknown whether that took place.
    pub(super) fn remember_whom_to_ask(&mut self, cluster: &Cluster) {
        let in_force = self.settings.failsafe_mode && self.has_lock(cluster);
        let written = cluster.failsafe.as_ref().filter(|names| in_force && names.contains_key(self.me()));
        let mut names = written.cloned().unwrap_or_default();
        if written.is_some() {
            names.extend(cluster.members.values().filter_map(Member::address));
        }
        if *self.memory.failsafe_members != names {
            self.memory.failsafe_members = names.into();
        }
    }

    /// Does everybody agree that this primary goes on without the store?
    pub(super) fn agreed_failsafe(&mut self) -> Needs<bool> {
        if !self.settings.failsafe_mode || self.memory.failsafe_members.is_empty() {
            return Ok(false);
        }
        let mut others = (*self.memory.failsafe_members).clone();
        others.remove(self.me());
        let agreed = match others.is_empty() {
            true => Ok(self.facts.now.boot),
            false => ask(&self.facts.answers.failsafe, || Op::AskFailsafe(others))?.clone(),
        };
        match agreed {
            Ok(asked_at) => {
                self.memory.lease_until = Some(asked_at + self.settings.ttl);
                self.memory.leads_by_agreement = true;
                Ok(true)
            }
            Err(why) => {
                self.note(
                    Level::Warning,
                    format!("failsafe mode: this primary may not go on without the store: {why}"),
                );
                Ok(false)
            }
        }
    }

    /// Who goes on in failsafe mode by the leave of this node. The word is kept even if the mode was turned off since.
    pub(super) fn failsafe_leader(&self) -> Option<&MemberName> {
        let (leader, until) = self.facts.failsafe_leader.as_ref()?;
        (leader != self.me() && self.facts.now.boot < *until).then_some(leader)
    }

    /// May somebody in `/failsafe` be going on as primary?
    pub(super) fn somebody_may_go_on(&mut self, cluster: &Cluster, running: &Running) -> Needs<bool> {
        let others = self.who_may_go_on(cluster);
        if others.is_empty() || !running.wal.is_standby() {
            return Ok(false);
        }
        let peers = self.ask_peers(others.iter())?;
        let unclear = others.iter().find(|member| match peers.get(&member.name) {
            Some(Peer::Status(status)) => !status.in_recovery,
            Some(Peer::Unreachable(_)) | None => true,
        });
        if let Some(Member { name, .. }) = unclear {
            let why = if self.is_listed(cluster) {
                "this agent has just been started"
            } else {
                "this node is not in /failsafe"
            };
            self.note(Level::Info, format!("{why}: {name} may be going on as primary in failsafe mode"));
        }
        Ok(unclear.is_some())
    }

    fn is_listed(&self, cluster: &Cluster) -> bool {
        cluster.failsafe.as_ref().is_none_or(|names| names.contains_key(self.me()))
    }

    /// Whom this node has to ask before it leads. Of one that this node was asked by it knows. An agent that has just been
    /// started does not for a `ttl`, and a node that is not in the list never: those ask everybody; in a synchronous mode
    /// those of whom one led last.
    pub(super) fn who_may_go_on(&self, cluster: &Cluster) -> Vec<Member> {
        let young = self.memory.began.is_none_or(|began| self.facts.now.boot.since(began) < self.settings.ttl);
        let knows = self.is_listed(cluster) && !young;
        if !self.settings.failsafe_mode || self.settings.paused || knows || !cluster.is_unlocked() {
            return Vec::new();
        }
        let may_lead = |name: &MemberName| name != self.me() && !self.sync_leaves_out(cluster, name);
        let others = cluster.failsafe.iter().flatten().filter(|(name, _)| may_lead(name));
        others.map(|(name, api_url)| member_at(name, api_url)).collect()
    }
}
