//! Clients that write and read all the time, and what they were promised.
//!
//! While there is `/sync`, whatever the leader acknowledges survives every failover that nobody ordered: the leader alone
//! may come back, or standbys that have everything. What it had when it wrote the key is part of that.

use patroni_core::lsn::Lsn;
use patroni_core::settings::{Dynamic, SynchronousMode};
use patroni_core::sync::Method;

use crate::universe::{Event, STORE, Universe};
use crate::wal::Wal;

/// A write of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The branch it is in.
    pub branch: u64,
    /// Its end.
    pub end: Lsn,
    /// Promised to survive.
    pub kept: bool,
}

impl Universe {
    /// A client writes, or reads.
    pub(crate) fn client(&mut self) {
        let writers: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| self.nodes[node].postgres.accepts_writes()).collect();
        if !writers.is_empty() {
            let node = writers[self.random.index(writers.len())];
            if self.nodes[node].postgres.disk_full {
                self.crash_postgres(node, "dies: no space left on device");
            } else {
                self.client_reads(node);
                self.client_writes(node);
            }
        }
        let next = self.random.mostly(100..900);
        self.after(next, Event::Client);
    }

    fn client_writes(&mut self, node: usize) {
        let bytes = self.random.within(60..400);
        let Some(write) = self.append(node, bytes) else { return };
        if self.nodes[node].postgres.sync.waits {
            self.nodes[node].postgres.sync.waiting.push(write);
        } else {
            self.acknowledge(node, write, false);
        }
    }

    /// The client hears that it is written. `waited`: because standbys said so.
    pub(crate) fn acknowledge(&mut self, node: usize, write: Write, waited: bool) {
        let sync = &self.store.cluster().sync;
        let this = &self.nodes[node];
        let named = sync.leader.as_ref() == Some(&this.name);
        let holds = self.store.cluster().leader_name() == Some(&this.name);
        let leads = holds && this.synchronous.mode != SynchronousMode::Off && !this.was_paused;
        // A vote is worth nothing where the voter goes on confirming to a primary that nobody stops; nor is an order of people, who
        // asked no voter.
        let quorum = this.postgres.sync.shown.method == Method::Quorum;
        let leader = self.store.cluster().leader_name().and_then(|name| self.node_named(name));
        let by_hand = leader.is_some_and(|leader| self.nodes[leader].by_hand);
        let stray = (quorum || by_hand) && !holds && this.unattended && (!self.guarded || this.was_paused);
        let kept = !stray && (named || sync.leader.is_some() && (leads || waited));
        self.acknowledged_at = self.now;
        self.waited += u64::from(waited);
        self.writes.push(Write { kept, ..write });
    }

    /// What was acknowledged on this timeline is there.
    fn client_reads(&mut self, node: usize) {
        let Some(data) = self.nodes[node].postgres.data() else { return };
        let branch = data.wal.last().id;
        let missing = self.writes.iter().rev().take(20).any(|write| write.branch == branch && write.end > data.wal.end);
        if missing {
            self.violation(node, "a client does not find what it wrote on the same timeline".into());
        }
    }

    /// `/sync` was written in the name of this node, or removed.
    pub(crate) fn sync_written(&mut self, node: usize, removed: bool) {
        let sync = self.store.cluster().sync.clone();
        self.log(STORE, || match &sync.leader {
            Some(leader) => format!("/sync: {leader}, {} of {:?}", sync.quorum, sync.standbys),
            None => "/sync is removed".into(),
        });
        if removed {
            return self.writes.iter_mut().for_each(|write| write.kept = false);
        }
        self.sync_lost = false;
        let Some(data) = self.nodes[node].postgres.data() else { return };
        // Given up by an order of people, even if the node dies before it is promoted.
        let by_hand = self.nodes[node].by_hand;
        for write in &mut self.writes {
            let has = data.wal.contains(write.branch, write.end);
            self.given_up += u64::from(by_hand && write.kept && !has);
            write.kept = has || write.kept && !by_hand;
        }
    }

    /// This node has become the primary of the cluster: it has whatever was promised.
    pub(crate) fn check_promises(&mut self, node: usize) {
        if self.store.cluster().leader_name() != Some(&self.nodes[node].name) {
            return; // A stray that the lease has left behind: nobody follows it.
        }
        let Some(wal) = self.nodes[node].postgres.data().map(|data| data.wal.clone()) else { return };
        let lost = self.promises_broken_by(&wal);
        if lost == 0 {
            return;
        }
        if self.nodes[node].by_hand || self.amnesia || self.ambiguous || self.turned_off_after_loss() {
            self.given_up += lost;
            for write in &mut self.writes {
                write.kept &= wal.contains(write.branch, write.end);
            }
        } else {
            self.violation(node, format!("leads without {lost} acknowledged writes that were promised to survive"));
        }
    }

    /// Turning the mode off gives up what was promised; where `/sync` was lost before, nobody removes it for that reason.
    fn turned_off_after_loss(&self) -> bool {
        let mode = Dynamic::of_cluster(self.store.cluster()).synchronous.mode;
        self.sync_lost && mode == SynchronousMode::Off
    }

    /// How many promised writes this log lacks.
    pub(crate) fn promises_broken_by(&self, wal: &Wal) -> u64 {
        self.writes.iter().filter(|write| write.kept && !wal.contains(write.branch, write.end)).count() as u64
    }
}
