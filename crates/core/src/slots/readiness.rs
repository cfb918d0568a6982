//! Whether the logical slots of a standby can be used after a failover.
//!
//! A slot on a standby holds nothing back on the primary: what keeps the rows of the catalog that it needs is the physical slot of the
//! standby there, through `hot_standby_feedback`. The copy is safe once that slot has a `catalog_xmin` that is not newer than the copy's, and
//! that was taken after the original's: what the primary removed before, the copy does not need.

use std::collections::{BTreeMap, BTreeSet};

use crate::server::{Running, Slot, SlotKind, Xid};

/// What work on slots in the background found out since the last tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct News {
    /// Logical slots that could not be moved, because WAL they need is gone or they are invalid.
    pub unusable: BTreeSet<String>,
    /// What the primary says.
    pub primary: Option<PrimarySlots>,
}

/// The slots on the primary that the readiness of a standby's slots depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrimarySlots {
    /// `catalog_xmin` of the physical slot through which the standby streams; `None` where it sends no feedback.
    pub feedback: Option<Xid>,
    /// `catalog_xmin` of logical slots.
    pub logical: BTreeMap<String, Xid>,
}

/// How far the logical slots of this standby are, since its server was started. Every start begins anew: nobody knows what happened to
/// the slots and to the feedback meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Readiness {
    server_started: String,
    slots: BTreeMap<String, Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Progress {
    /// Nothing is known.
    Unknown,
    /// The original on the primary had this `catalog_xmin` when the feedback was there for the first time.
    Since(Xid),
    Ready,
}

impl Readiness {
    /// Takes note of what an inspection found, and of news. Returns the slots that have become ready.
    pub fn update(&mut self, running: &Running, news: &News) -> Vec<String> {
        if !running.wal.is_standby() {
            self.slots.clear();
            return Vec::new();
        }
        if self.server_started != running.start_time {
            *self = Readiness { server_started: running.start_time.clone(), slots: BTreeMap::new() };
        }
        let ours = |slot: &Slot| slot.kind != SlotKind::Physical && !slot.is_of_postgresql();
        self.slots.retain(|name, _| running.slots.get(name).is_some_and(ours));
        for (name, _) in running.slots.iter().filter(|(_, slot)| ours(slot)) {
            self.slots.entry(name.clone()).or_insert(Progress::Unknown);
        }
        let Some(PrimarySlots { feedback: Some(feedback), logical }) = &news.primary else { return Vec::new() };
        let mut ready = Vec::new();
        for (name, progress) in &mut self.slots {
            if *progress == Progress::Unknown
                && let Some(original) = logical.get(name)
            {
                *progress = Progress::Since(*original);
            }
            let copy = running.slots.get(name).and_then(|slot| slot.catalog_xmin);
            if let (Progress::Since(original), Some(copy)) = (*progress, copy)
                && feedback.reaches(original)
                && copy.reaches(*feedback)
            {
                *progress = Progress::Ready;
                ready.push(name.clone());
            }
        }
        ready
    }

    /// The slots that are not known to be ready.
    pub fn unready(&self) -> impl Iterator<Item = &String> {
        self.slots.iter().filter(|(_, progress)| **progress != Progress::Ready).map(|(name, _)| name)
    }

    /// The slot can be used after a failover.
    pub fn is_ready(&self, name: &str) -> bool {
        self.slots.get(name) == Some(&Progress::Ready)
    }
}
