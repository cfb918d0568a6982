//! Which single change comes next: to `/sync`, or to `synchronous_standby_names`.
//!
//! The two cannot be changed at once, and whoever changes them can die in between, so every state between two changes has
//! to keep the promise (see the module above). Three rules are all of it:
//!
//! 1. PostgreSQL may be given names that meet the present electorate: only commits to come are concerned. They have to meet it
//!    also while some WAL senders still go by the names before.
//! 2. An electorate may be published that trusts no new facts: nobody at all, or one in which each set that can elect
//!    contains a set that could before.
//! 3. Any other electorate has to meet what PostgreSQL waits for *and* hold what was acknowledged before that: the setting is
//!    settled, and no more than `quorum` of the voters lack its past (see [`Enforcement`](super::Enforcement)).
//!
//! Wanted are names and an electorate; the next step is the first of a short list of useful ones that the rules allow.
//! Nothing depends on how the present state came about.

use super::{Method, Names, StandbyNames};
use crate::name::MemberName;

/// Who can elect: the content of `/sync` besides the leader's name. Any `quorum + 1` voters can; without voters only the
/// leader itself can come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Electorate {
    /// `sync_standby`
    pub voters: Names,
    /// `quorum`
    pub quorum: usize,
}

impl Electorate {
    fn nobody() -> Self {
        Electorate::default()
    }

    /// There are enough voters to elect.
    pub fn is_electable(&self) -> bool {
        self.quorum < self.voters.len()
    }

    /// Each set of voters that can elect meets each set of standbys that lets PostgreSQL acknowledge.
    pub fn meets(&self, server: &StandbyNames) -> bool {
        self.voters.is_empty()
            || !server.anybody && self.voters.union(&server.names).count() <= self.quorum + server.needed()
    }

    /// The same for the change from one setting to the next, and all that can be in between.
    fn meets_change(&self, server: &StandbyNames, next: &StandbyNames) -> bool {
        let all_kept = || self.quorum == 0 && self.voters.iter().all(|voter| server.keep_waiting_for(next, voter));
        self.meets(next) && (self.voters.is_empty() || self.meets(&server.mixed_with(next)) || all_kept())
    }

    /// Each set that can elect contains one that can elect in `stronger`.
    fn trusts_no_more_than(&self, stronger: &Electorate) -> bool {
        !self.is_electable() || self.quorum >= stronger.quorum + self.voters.difference(&stronger.voters).count()
    }
}

/// The situation of a primary with the lease.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The electorate that this leader published.
    pub electorate: &'a Electorate,
    /// `/sync` names another leader: the electorate is about its commits, not about ours.
    pub foreign: bool,
    /// The setting PostgreSQL shows.
    pub server: &'a StandbyNames,
    /// No earlier setting acknowledges commits any more.
    pub settled: bool,
    /// Another setting was asked for and may still come to act.
    pub unsure: bool,
    /// Who has all that was acknowledged before the setting was settled.
    pub reached: &'a Names,
    /// Who streams now.
    pub streaming: &'a Names,
    /// What PostgreSQL should wait for in the end.
    pub wanted: &'a StandbyNames,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// Write `/sync`.
    Store(Electorate),
    /// Set `synchronous_standby_names`.
    Server(StandbyNames),
}

impl Situation<'_> {
    /// The next change; `None` where nothing is to be done, or nothing can be done yet.
    pub fn next(&self) -> Option<Transition> {
        if self.foreign || !self.electorate.meets(self.server) {
            return Some(Transition::Store(Electorate::nobody()));
        }
        if self.server == self.wanted && !self.unsure {
            return self.publish().map(Transition::Store);
        }
        if self.electorate.meets_change(self.server, self.wanted) {
            return Some(Transition::Server(self.wanted.clone()));
        }
        if let Some(electorate) = self.bridge() {
            return Some(Transition::Store(electorate));
        }
        match self.both() {
            Some(both) if both == *self.server && !self.unsure => None, // Until the new ones have caught up.
            Some(both) if self.electorate.meets_change(self.server, &both) => Some(Transition::Server(both)),
            Some(both) => Some(Transition::Store(self.kept(&both))),
            None => Some(Transition::Store(Electorate::nobody())),
        }
    }

    /// The end is reached: PostgreSQL waits as wanted, and `/sync` says so.
    pub fn is_final(&self) -> bool {
        self.server == self.wanted && !self.unsure && !self.foreign && *self.electorate == self.final_electorate()
    }

    fn final_electorate(&self) -> Electorate {
        if self.wanted.anybody {
            return Electorate::nobody();
        }
        let voters = self.wanted.names.clone();
        Electorate { quorum: voters.len() - self.wanted.needed(), voters }
    }

    /// PostgreSQL waits as wanted: the best electorate that can be published by now.
    fn publish(&self) -> Option<Electorate> {
        let wanted = self.final_electorate();
        if *self.electorate == wanted {
            return None;
        }
        let best = match self.wanted.method {
            Method::Priority => {
                let voters = wanted.voters.intersection(&self.holders()).cloned().collect();
                self.safe(voters, &[self.server])?
            }
            Method::Quorum => self.safe(wanted.voters.clone(), &[self.server])?,
        };
        let no_better = best.voters == self.electorate.voters && best.quorum >= self.electorate.quorum;
        (best.is_electable() && !no_better).then_some(best)
    }

    /// An electorate that meets the present setting, the wanted one, and the change between them; the most robust. Where none
    /// meets the change, nobody can be elected in that moment.
    fn bridge(&self) -> Option<Electorate> {
        let (now, then) = (&self.electorate.voters, &self.wanted.names);
        let mixed = self.server.mixed_with(self.wanted);
        let settings = [self.server, self.wanted, &mixed];
        let sets = [now | then, then.clone(), now.clone(), now & then, self.kept(self.wanted).voters];
        let mut best: Option<((bool, usize), Electorate)> = None;
        for (voters, settings) in sets.iter().flat_map(|voters| [(voters, &settings[..]), (voters, &settings[..2])]) {
            let Some(electorate) = self.safe(voters.clone(), settings) else { continue };
            let allowed = electorate.quorum == 0 || self.wanted.method == Method::Quorum;
            let throughout = electorate.meets_change(self.server, self.wanted);
            // How many of the voters that are there could still be lost.
            let spare = electorate.voters.intersection(self.streaming).count().checked_sub(electorate.quorum);
            let worth = (throughout, spare.unwrap_or(0));
            if allowed && electorate.is_electable() && best.as_ref().is_none_or(|(most, _)| worth > *most) {
                best = Some((worth, electorate));
            }
        }
        best.map(|((throughout, _), electorate)| if throughout { electorate } else { Electorate::nobody() })
    }

    /// The voters that are waited for throughout a change.
    fn kept(&self, next: &StandbyNames) -> Electorate {
        let kept = |voter: &&MemberName| self.electorate.quorum == 0 && self.server.keep_waiting_for(next, voter);
        Electorate { voters: self.electorate.voters.iter().filter(kept).cloned().collect(), quorum: 0 }
    }

    /// The present names and the wanted ones together, all of them: only where all of them can confirm.
    fn both(&self) -> Option<StandbyNames> {
        let names = &self.server.names | &self.wanted.names;
        let possible = !self.server.anybody && !self.wanted.names.is_empty() && names.is_subset(self.streaming);
        let both = StandbyNames { method: self.wanted.method, number: names.len(), names, anybody: false };
        (possible && self.electorate.meets(&both)).then_some(both)
    }

    /// These voters with the smallest quorum that may be published, and that meets all of `settings`.
    fn safe(&self, voters: Names, settings: &[&StandbyNames]) -> Option<Electorate> {
        if settings.iter().any(|setting| setting.anybody) {
            return None;
        }
        let new = voters.difference(&self.electorate.voters).count();
        // By rule 2: each new voter asks for one more vote.
        let by_trust = (!self.electorate.voters.is_empty()).then(|| self.electorate.quorum + new);
        // By rule 3: the votes of those that lack the past are not enough.
        let by_facts = (self.settled && !self.unsure).then(|| voters.difference(&self.holders()).count());
        let history = [by_trust, by_facts].into_iter().flatten().min()?;
        let meeting = settings.iter().map(|setting| voters.union(&setting.names).count() - setting.needed());
        let quorum = meeting.max()?.max(history);
        let electorate = Electorate { voters, quorum };
        debug_assert!(settings.iter().all(|setting| electorate.meets(setting)));
        Some(electorate)
    }

    /// Who surely has everything that was acknowledged before the present setting.
    fn holders(&self) -> Names {
        match self.electorate.quorum {
            0 => self.reached | &self.electorate.voters,
            _ => self.reached.clone(),
        }
    }

    /// A transition breaks no promise: the rules again, for checks.
    pub fn allows(&self, transition: &Transition) -> bool {
        match transition {
            Transition::Server(names) => self.electorate.meets_change(self.server, names),
            Transition::Store(new) => {
                let facts = self.settled && !self.unsure && new.meets(self.server);
                new.voters.is_empty()
                    || !self.foreign
                        && self.electorate.meets(self.server)
                        && (new.trusts_no_more_than(self.electorate)
                            || facts && new.voters.difference(&self.holders()).count() <= new.quorum)
            }
        }
    }
}

/// What a node that was elected needs before it is promoted: the setting of PostgreSQL, and the electorate to publish as
/// the new leader. No commit of its own exists yet, so the old electorate without it is as safe as it was.
///
/// `kept`: carry the old electorate over (quorum commit); otherwise begin anew, with nobody.
pub fn before_promotion(
    me: &MemberName,
    old: &Electorate,
    kept: bool,
    none: StandbyNames,
) -> (StandbyNames, Electorate) {
    let mut voters = old.voters.clone();
    voters.remove(me);
    let electorate = Electorate { quorum: old.quorum, voters };
    if !kept || !electorate.is_electable() {
        return (none, Electorate::nobody());
    }
    let number = electorate.voters.len() - electorate.quorum;
    (StandbyNames::any(number, electorate.voters.clone()), electorate)
}

#[cfg(test)]
#[path = "proof.rs"]
mod proof;
