//! Logical slots of a standby: copying those it lacks, and knowing which can be used after a failover.

use std::time::Duration;

use super::Tick;
use crate::cluster::Cluster;
use crate::job::{Job, JobOutcome};
use crate::memory::Starting;
use crate::python::quoted;
use crate::server::{Role, Running, Wal};
use crate::slots::{Node, to_copy, wanted_slots};
use crate::verdict::{Level, Verdict};

/// The pause after a restart for copies that did not help.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(300);

impl Tick<'_> {
    pub(super) fn learn_of_slots(&mut self, running: &Running) {
        for slot in self.memory.readiness.update(running, &self.facts.slots) {
            self.note(Level::Info, format!("Logical slot {slot} is safe to be used after a failover"));
        }
    }

    pub(super) fn warn_of_unready_slots(&mut self) {
        let unready: Vec<String> = self.memory.readiness.unready().map(|slot| quoted(slot)).collect();
        if !unready.is_empty() {
            let text = format!(
                "Logical replication slots that might be unsafe to use after promote: {{{}}}",
                unready.join(", ")
            );
            self.note(Level::Warning, text);
        }
    }

    /// A standby that streams and lacks logical slots is restarted with copies of them. In pause nothing is restarted.
    pub(super) fn copy_slots(&mut self, cluster: &Cluster, running: &Running) -> Option<Verdict> {
        let streams =
            matches!(&running.wal, Wal::Standby { replication_state: Some(state), .. } if state == "streaming");
        if !self.sync_slots || !streams || self.settings.paused || self.has_lock(cluster) {
            return None;
        }
        if self.memory.copy_slots_after.is_some_and(|after| self.facts.now.boot < after) {
            return None;
        }
        let source = cluster.leader_member().and_then(|leader| self.upstream_member(leader))?;
        let node = Node { name: self.me(), role: Role::Replica, tags: &self.settings.tags };
        let (wanted, _) = wanted_slots(self.settings, cluster, &node);
        let slots = to_copy(&wanted, &running.slots, &self.facts.slots.unusable);
        if slots.is_empty() || self.leaves_synchronous(cluster) {
            return None;
        }
        let again = slots.keys().any(|name| running.slots.contains_key(name));
        if again {
            // Should the new copy be of no use either, it is not for want of restarts.
            self.memory.copy_slots_after = Some(self.facts.now.boot + PAUSE_AFTER_FAILURE);
        }
        let names = slots.keys().cloned().collect();
        self.memory.recovering = true;
        self.sync_slots = false;
        self.start(Job::CopySlots { source, slots });
        Some(Verdict::CopyingSlots(names))
    }

    pub(super) fn after_copy(&mut self, outcome: &JobOutcome) {
        let now = self.facts.now.boot;
        let pause = match outcome {
            JobOutcome::Done | JobOutcome::Rewound(_) | JobOutcome::Cancelled | JobOutcome::PrePromoteFailed => {
                self.settings.loop_wait
            }
            JobOutcome::StillStarting => {
                self.memory.starting = Some(Starting { since: now, timeout: None });
                self.settings.loop_wait
            }
            JobOutcome::Failed(_) | JobOutcome::Refused(_) => PAUSE_AFTER_FAILURE,
        };
        self.memory.copy_slots_after = self.memory.copy_slots_after.max(Some(now + pause));
    }
}
