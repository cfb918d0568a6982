//! `synchronous_standby_names` of a simulated server: how a reload reaches its processes one by one, and who releases
//! commits that wait. As in `syncrep.c`: each WAL sender goes by the setting it has, backends by the checkpointer's.

use std::collections::BTreeMap;
use std::time::Duration;

use patroni_core::lsn::Lsn;
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::sync::{Inspection, Method, Sender, StandbyNames};

use crate::ambush::Worst;
use crate::clients::Write;
use crate::postgres::Process;
use crate::universe::{Event, Universe};

/// What the processes of a server go by.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncRep {
    /// The value in `postgresql.conf`.
    pub file: StandbyNames,
    /// The value that the postmaster has, and new sessions show.
    pub shown: StandbyNames,
    /// The checkpointer found the value not empty: commits wait.
    pub waits: bool,
    /// Until then the checkpointer does not look at its signals.
    pub busy_until: Duration,
    /// WAL senders, by the node and the epoch of the standby.
    pub senders: BTreeMap<usize, WalSender>,
    /// Commits that wait.
    pub waiting: Vec<Write>,
}

/// One WAL sender.
#[derive(Clone, Debug)]
pub(crate) struct WalSender {
    /// The standby's epoch.
    pub epoch: u64,
    /// The value it has.
    pub goes_by: StandbyNames,
    /// What the standby confirmed; nothing yet: it is catching up.
    pub confirmed: Option<Lsn>,
}

/// The value of a setting.
pub(crate) fn names_of(setting: &SynchronousStandbyNames) -> StandbyNames {
    match setting {
        SynchronousStandbyNames::Managed(Some(text)) => text.parse().expect("Patroni's own words"),
        SynchronousStandbyNames::Managed(None) | SynchronousStandbyNames::Configured => StandbyNames::default(),
    }
}

impl SyncRep {
    /// A server starts: every process has what is in the file.
    pub(crate) fn start(&mut self) {
        let file = self.file.clone();
        *self = SyncRep { waits: !file.is_empty(), shown: file.clone(), file, ..SyncRep::default() };
    }
}

impl Universe {
    /// The postmaster is told to read its files again.
    pub(crate) fn reload(&mut self, node: usize) {
        let (after, birth) = (self.random.mostly(1..15), self.nodes[node].postgres.birth);
        self.after(after, Event::Reload { node, birth });
    }

    /// The postmaster has read them, and signals everybody.
    pub(crate) fn reloaded(&mut self, node: usize, birth: u64) {
        let server = &mut self.nodes[node].postgres;
        if server.birth != birth || !matches!(server.process, Process::Up { .. }) {
            return;
        }
        if server.hung {
            return self.after(Duration::from_millis(200), Event::Reload { node, birth });
        }
        let before = std::mem::replace(&mut server.sync.shown, server.sync.file.clone());
        let senders: Vec<usize> = server.sync.senders.keys().copied().collect();
        let server_is_primary = server.is_primary();
        let text = server.sync.shown.to_string();
        self.log(node, || format!("synchronous_standby_names = '{text}'"));
        for standby in senders {
            let name = self.nodes[standby].name.clone();
            let seen = before.lists(name.as_str()) != self.nodes[node].postgres.sync.shown.lists(name.as_str());
            // What cannot be seen in `sync_priority` is trusted to have happened within 100 ms.
            let after = if seen { self.random.mostly(1..60) } else { self.random.millis(1..90) };
            self.after(after, Event::SenderReloads { node, birth, standby });
        }
        if server_is_primary {
            self.worst(Worst::NamesShown, node);
        }
        let busy = self.random.percent(12);
        let after = if busy { self.random.millis(100..6000) } else { self.random.millis(0..40) };
        if busy {
            self.nodes[node].postgres.sync.busy_until = self.now + after;
        }
        self.after(after, Event::CheckpointerReloads { node, birth });
        self.wake(node);
    }

    pub(crate) fn sender_reloads(&mut self, node: usize, birth: u64, standby: usize) {
        let server = &mut self.nodes[node].postgres;
        if server.birth != birth {
            return;
        }
        if let Some(sender) = server.sync.senders.get_mut(&standby) {
            sender.goes_by = server.sync.shown.clone();
        }
        if server.is_primary() {
            self.notice_of_standbys(node);
        }
    }

    pub(crate) fn checkpointer_reloads(&mut self, node: usize, birth: u64) {
        let server = &mut self.nodes[node].postgres;
        if server.birth != birth {
            return;
        }
        if self.now < server.sync.busy_until {
            let then = server.sync.busy_until;
            return self.at(then, Event::CheckpointerReloads { node, birth });
        }
        server.sync.waits = !server.sync.shown.is_empty();
        if !server.sync.waits {
            for write in std::mem::take(&mut server.sync.waiting) {
                self.acknowledge(node, write, false);
            }
        }
    }

    /// The agent of a primary that manages its standbys looks at them every 400 ms.
    pub(crate) fn notice_of_standbys(&mut self, node: usize) {
        if self.synchronous && self.nodes[node].alive {
            let after = self.random.millis(5..400);
            self.after(after, Event::Notice(node));
        }
    }

    /// A standby says how far it has come.
    pub(crate) fn confirm(&mut self, standby: usize, primary: (usize, u64)) {
        let server = &self.nodes[standby].postgres;
        let (Some(data), epoch) = (server.data(), server.epoch) else { return };
        let position = data.wal.end;
        if self.synchronous {
            self.send(standby, primary.0, Event::Confirm { to: primary, from: (standby, epoch), position });
        }
    }

    pub(crate) fn confirmed(&mut self, to: (usize, u64), from: (usize, u64), position: Lsn) {
        let server = &mut self.nodes[to.0].postgres;
        if server.epoch != to.1 || !server.is_primary() {
            return;
        }
        if server.hung {
            return self.after(Duration::from_millis(200), Event::Confirm { to, from, position });
        }
        let Some(sender) = server.sync.senders.get_mut(&from.0).filter(|sender| sender.epoch == from.1) else { return };
        let first = sender.confirmed.is_none();
        sender.confirmed = sender.confirmed.max(Some(position));
        if first {
            self.notice_of_standbys(to.0);
        }
        self.release_commits(to.0, from.0);
    }

    /// `SyncRepReleaseWaiters`, in the WAL sender of one standby.
    fn release_commits(&mut self, node: usize, by: usize) {
        let candidates: Vec<(i64, usize, Lsn)> = self
            .live_senders(node)
            .filter_map(|(standby, sender)| {
                let priority = priority(&sender.goes_by, self.nodes[standby].name.as_str());
                Some((priority, standby, sender.confirmed?)).filter(|_| priority > 0)
            })
            .collect();
        let server = &mut self.nodes[node].postgres;
        if server.sync.waiting.is_empty() || !candidates.iter().any(|(_, standby, _)| *standby == by) {
            return;
        }
        let Some(sender) = server.sync.senders.get(&by) else { return };
        let Some(position) = released(&sender.goes_by, candidates) else { return };
        let waiting = std::mem::take(&mut server.sync.waiting);
        let (done, waiting) = waiting.into_iter().partition(|write| write.end <= position);
        server.sync.waiting = waiting;
        for write in done {
            self.acknowledge(node, write, true);
        }
    }

    /// WAL senders whose standby is still connected.
    fn live_senders(&self, node: usize) -> impl Iterator<Item = (usize, &WalSender)> {
        let epoch = self.nodes[node].postgres.epoch;
        self.nodes[node].postgres.sync.senders.iter().map(|(standby, sender)| (*standby, sender)).filter(
            move |(standby, sender)| {
                let server = &self.nodes[*standby].postgres;
                server.epoch == sender.epoch
                    && matches!(server.process, Process::Up { stream: Some(from), .. } if from == (node, epoch))
            },
        )
    }

    /// What an agent reads from the server: all but the flushed position, which is asked for afterwards.
    pub(crate) fn look_at_synchronous(&self, node: usize) -> Inspection {
        let server = &self.nodes[node].postgres;
        let senders = self.live_senders(node).map(|(standby, sender)| {
            let name = self.nodes[standby].name.as_str();
            let priority = priority(&sender.goes_by, name);
            let state = match (priority, sender.goes_by.method) {
                (0, _) => "async",
                (_, Method::Quorum) => "quorum",
                (_, Method::Priority) => "sync",
            };
            Sender {
                name: name.to_owned(),
                state: if sender.confirmed.is_some() { "streaming" } else { "catchup" }.into(),
                sync_state: state.into(),
                sync_priority: priority,
                written: sender.confirmed,
                flushed: sender.confirmed,
                replayed: sender.confirmed,
            }
        });
        Inspection {
            turned_down: Vec::new(),
            standby_names: server.sync.shown.to_string(),
            synchronous_commit: "on".into(),
            flushed: Lsn(0),
            senders: senders.collect(),
            checkpointer_busy: self.now < server.sync.busy_until,
            start_time: format!("{}", server.birth),
        }
    }
}

fn priority(names: &StandbyNames, standby: &str) -> i64 {
    if !names.lists(standby) {
        return 0;
    }
    let place = names.names.iter().position(|name| name.as_str() == standby);
    match names.method {
        Method::Quorum => 1,
        Method::Priority => place.map_or(1, |place| place as i64 + 1),
    }
}

/// Up to where commits are released, by a process that goes by these names.
fn released(names: &StandbyNames, mut candidates: Vec<(i64, usize, Lsn)>) -> Option<Lsn> {
    if names.is_empty() || candidates.len() < names.number {
        return None;
    }
    match names.method {
        Method::Priority => {
            candidates.sort_unstable();
            candidates.iter().take(names.number).map(|(.., position)| *position).min()
        }
        Method::Quorum => {
            candidates.sort_unstable_by_key(|(.., position)| std::cmp::Reverse(*position));
            candidates.get(names.number - 1).map(|(.., position)| *position)
        }
    }
}
