//! Whose a slot is that nobody wants here.

use std::collections::{BTreeMap, BTreeSet};

use super::Wanted;
use crate::cluster::Cluster;
use crate::lsn::Lsn;
use crate::server::{Running, Slot};
use crate::settings::Settings;
use crate::time::Moment;

/// Which slots of the local server may be dropped when nobody wants them: our own at any time, those of others only where they were
/// left unused when the server began what it does now. It lives as long as the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// Slots that were wanted here, and are still there.
    ours: BTreeSet<String>,
    /// What was looked at last.
    seen: Option<Seen>,
    /// What was found when that began, and has not been used since.
    unused: BTreeMap<String, Position>,
    /// When it began.
    since: Moment,
}

/// A life of the server: a start, or a promotion, begins another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    start_time: String,
    is_standby: bool,
    paused: bool,
}

/// Where the reader of a slot was. It moves also where the slot is read by short calls, between which it is not active.
type Position = (Option<Lsn>, Option<Lsn>);

impl Ownership {
    /// The slots that may be dropped, given those that are wanted now. Patroni looks at the slots of others after a start, a promotion
    /// and a pause, too; a reader has one `loop_wait` to come back here.
    pub fn droppable(
        &mut self,
        wanted: &BTreeMap<String, Wanted>,
        settings: &Settings,
        cluster: &Cluster,
        running: &Running,
        now: Moment,
    ) -> BTreeSet<String> {
        let slots = &running.slots;
        if self.seen.is_none() {
            // What the agent before this one wanted is what the leader published.
            self.ours.extend(cluster.status.slots.keys().chain(&cluster.status.retain_slots).cloned());
        }
        self.ours.retain(|name| slots.contains_key(name));
        self.ours.extend(wanted.keys().cloned());
        let seen = Seen {
            start_time: running.start_time.clone(),
            is_standby: running.wal.is_standby(),
            paused: settings.paused,
        };
        if self.seen.as_ref().is_none_or(|before| begins_anew(before, &seen)) {
            self.since = now;
            self.unused = slots.iter().map(|(name, slot)| (name.clone(), position(slot))).collect();
        }
        self.seen = Some(seen);
        self.unused
            .retain(|name, before| slots.get(name).is_some_and(|slot| !slot.active && position(slot) == *before));
        let left = now.since(self.since) >= settings.loop_wait;
        self.ours.iter().chain(self.unused.keys().filter(|_| left)).cloned().collect()
    }
}

fn begins_anew(before: &Seen, now: &Seen) -> bool {
    before.start_time != now.start_time || (before.is_standby && !now.is_standby) || (before.paused && !now.paused)
}

fn position(slot: &Slot) -> Position {
    (slot.restart_lsn, slot.confirmed_flush_lsn)
}

/// The name of a slot that a subscriber makes to copy a table, and drops by itself: `pg_SUBSCRIPTION_sync_TABLE_SYSTEM`.
pub(super) fn is_of_table_copy(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = || {
        let (subscription, rest) = name.strip_prefix("pg_")?.split_once("_sync_")?;
        let (table, system) = rest.split_once('_')?;
        Some([subscription, table, system])
    };
    parts().is_some_and(|parts| parts.into_iter().all(is_number))
}
