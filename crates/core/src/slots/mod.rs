//! Replication slots: which ones a node should have, what to change, what the leader publishes about them, and which of them
//! would not survive a failover. Pure.

mod feedback;
mod ownership;
mod published;
mod readiness;
mod risk;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::JsonMap;
use crate::lsn::Lsn;
use crate::parameters::Note;
use crate::server::{Slot, SlotKind};
use crate::tags::truthy;

pub use feedback::needs_feedback;
pub use ownership::Ownership;
pub use published::{Retained, published_slots, slot_positions};
pub use readiness::{News, PrimarySlots, Readiness};
pub use risk::{Risk, at_risk};
pub use wanted::{Node, Wanted, slot_on_primary, wanted_slots};

/// A step, to be done in the order of the plan. A failed one concerns its own slot only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Drop a slot, unless it is in use. If that fails, a later [`Change::Create`] of it is to be left out.
    Drop {
        /// Its name.
        slot: String,
        /// Why.
        reason: DropReason,
        /// What goes with it.
        kept: Kept,
    },
    /// Create a physical slot that keeps WAL from now on.
    Create(String),
    /// Move a physical slot forward.
    Advance(String, Lsn),
    /// Create a logical slot, on a primary.
    CreateLogical {
        /// Its name.
        slot: String,
        /// Output plugin.
        plugin: String,
        /// Database.
        database: String,
    },
    /// Move a logical slot of a standby forward, to where its reader on the primary is known to be.
    AdvanceLogical {
        /// Its name.
        slot: String,
        /// Database.
        database: String,
        /// Where to.
        lsn: Lsn,
    },
}

/// What a slot kept from being removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kept {
    /// WAL from this position on.
    pub from: Option<Lsn>,
    /// So many bytes of it.
    pub bytes: u64,
    /// Since when nobody has used it, where the server knows that (17 and later).
    pub inactive_since: Option<String>,
}

impl Kept {
    fn by(slot: &Slot, position: Lsn) -> Self {
        let bytes = slot.restart_lsn.map_or(0, |from| position.0.saturating_sub(from.0));
        Kept { from: slot.restart_lsn, bytes, inactive_since: slot.inactive_since.clone() }
    }

    /// The sentence for the log; `None` where the slot kept nothing.
    pub fn sentence(&self, slot: &str) -> Option<String> {
        let from = self.from.filter(|_| self.bytes > 0)?;
        Some(format!("Replication slot '{slot}' kept {self} of WAL, from {from} on{}", self.since()))
    }

    fn since(&self) -> String {
        self.inactive_since.as_ref().map_or_else(String::new, |time| format!(", and has been unused since {time}"))
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            0..1024 => write!(f, "{} B", self.bytes),
            1024..1_048_576 => write!(f, "{} kB", self.bytes >> 10),
            _ => write!(f, "{} MB", self.bytes >> 20),
        }
    }
}

/// Why a slot is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Nobody wants it any more, or it was left here by others.
    Unknown,
    /// The WAL it needs is gone (`wal_status` is `lost`): a new one takes its place.
    Lost,
    /// It should be of another kind, or of another plugin or database.
    Different,
    /// It is not in use and holds back the cleaning of dead rows (`xmin`).
    HoldsXmin,
    /// It keeps no WAL and so cannot be moved: somebody else made it.
    KeepsNothing,
}

impl DropReason {
    /// Patroni's sentence for it.
    pub fn sentence(self, slot: &str) -> String {
        match self {
            DropReason::Unknown => format!("Trying to drop unknown replication slot '{slot}'"),
            DropReason::Lost => format!("Trying to drop replication slot '{slot}' with wal_status=lost"),
            DropReason::Different => {
                format!("Trying to drop replication slot '{slot}' because its type, plugin or database changes")
            }
            DropReason::HoldsXmin => {
                format!("Dropping physical replication slot {slot} because of its xmin value")
            }
            DropReason::KeepsNothing => format!(
                "Dropping physical replication slot {slot} because it has no restart_lsn. This slot was probably not \
                 created by Patroni, but by an external agent."
            ),
        }
    }
}

/// The node as it is, when changes are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The cluster is paused: slots that nobody wants stay.
    pub paused: bool,
    /// Slots that are not in use may be dropped for their `xmin`: somebody else leads, or this node leads and is a primary. Without a
    /// leader, and on a leader that is not promoted yet, feedback may come back any moment.
    pub clean_inactive: bool,
    /// How far a standby has replayed; `None` on a primary.
    pub replayed: Option<Lsn>,
    /// Where the WAL of this node ends.
    pub position: Lsn,
}

/// What to change so that the node has the slots it should have. Slots of PostgreSQL's own synchronisation (`failover`, `synced`) are left
/// alone; `ignore` are the entries of `ignore_slots`, `droppable` comes from [`Ownership`]. What a standby lacks of logical slots is told
/// by [`to_copy`].
pub fn plan(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Slot>,
    ignore: &[JsonMap],
    droppable: &BTreeSet<String>,
    situation: Situation,
) -> Vec<Change> {
    let mut plan = Vec::new();
    let mut kept: BTreeMap<_, _> = actual.iter().collect();
    kept.retain(|name, slot| match reason_to_drop(wanted.get(*name), name, slot, ignore, situation) {
        Some(DropReason::Unknown) if !droppable.contains(*name) || ownership::is_of_table_copy(name) => true,
        Some(reason) if !slot.is_of_postgresql() => {
            plan.push(drop_slot(name, slot, reason, situation));
            false
        }
        Some(_) | None => true,
    });
    for (name, wanted) in wanted {
        match (kept.get(name), &wanted.kind) {
            (Some(found), _) if found.is_of_postgresql() => {}
            (Some(found), SlotKind::Physical) => bring_up_to_date(name, wanted, found, situation, &mut plan),
            (Some(found), SlotKind::Logical { database, .. }) => {
                plan.extend(advance_logical(wanted, found, situation).map(|lsn| Change::AdvanceLogical {
                    slot: name.clone(),
                    database: database.clone(),
                    lsn,
                }));
            }
            (None, SlotKind::Physical) => plan.push(Change::Create(name.clone())),
            (None, SlotKind::Logical { plugin, database }) if situation.replayed.is_none() => {
                plan.push(Change::CreateLogical {
                    slot: name.clone(),
                    plugin: plugin.clone(),
                    database: database.clone(),
                });
            }
            (None, SlotKind::Logical { .. }) => {}
        }
    }
    plan
}

fn drop_slot(name: &str, slot: &Slot, reason: DropReason, situation: Situation) -> Change {
    Change::Drop { slot: name.to_owned(), reason, kept: Kept::by(slot, situation.position) }
}

/// The logical slots that a standby has to copy from the primary: those it lacks, and those it cannot use (`lost`, or found `unusable` when
/// they were to be moved). Only what the leader publishes is there to be copied.
pub fn to_copy(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Slot>,
    unusable: &BTreeSet<String>,
) -> BTreeMap<String, SlotKind> {
    let published = wanted.iter().filter(|(_, wanted)| wanted.kind != SlotKind::Physical && wanted.lsn.is_some());
    let lacking = published.filter(|(name, wanted)| {
        actual.get(*name).is_none_or(|found| {
            let broken = found.lost || unusable.contains(*name);
            found.kind == wanted.kind && broken && !found.is_of_postgresql()
        })
    });
    lacking.map(|(name, wanted)| (name.clone(), wanted.kind.clone())).collect()
}

/// Never past what the reader confirmed on the primary, nor past what is replayed here.
fn advance_logical(wanted: &Wanted, found: &Slot, situation: Situation) -> Option<Lsn> {
    let lsn = wanted.lsn?.min(situation.replayed?);
    (!found.lost && found.kind == wanted.kind && found.confirmed_flush_lsn? < lsn).then_some(lsn)
}

fn reason_to_drop(
    wanted: Option<&Wanted>,
    name: &str,
    slot: &Slot,
    ignore: &[JsonMap],
    situation: Situation,
) -> Option<DropReason> {
    match wanted {
        Some(wanted) if wanted.kind != slot.kind => Some(DropReason::Different),
        _ if situation.paused || ignore.iter().any(|matcher| matches(matcher, name, slot)) => None,
        Some(_) => slot.lost.then_some(DropReason::Lost),
        None => Some(DropReason::Unknown),
    }
}

fn bring_up_to_date(name: &str, wanted: &Wanted, found: &Slot, situation: Situation, plan: &mut Vec<Change>) {
    let slot = name.to_owned();
    // A slot that nobody reads gets no feedback: its xmin would stay for ever.
    if situation.clean_inactive && wanted.expected_active == Some(false) && found.holds_xmin {
        plan.push(drop_slot(name, found, DropReason::HoldsXmin, situation));
        plan.push(Change::Create(slot));
        return;
    }
    if found.kind != SlotKind::Physical || wanted.expected_active == Some(true) || found.holds_xmin {
        return;
    }
    match (found.restart_lsn, wanted.lsn) {
        (None, _) => plan.push(drop_slot(name, found, DropReason::KeepsNothing, situation)),
        (Some(restart), Some(lsn)) if lsn > restart => plan.push(Change::Advance(slot, lsn)),
        (Some(_), _) => {}
    }
}

/// All properties that an entry of `ignore_slots` names are those of the slot.
fn matches(matcher: &JsonMap, name: &str, slot: &Slot) -> bool {
    let (kind, plugin, database) = match &slot.kind {
        SlotKind::Physical => ("physical", None, None),
        SlotKind::Logical { plugin, database } => ("logical", Some(plugin.as_str()), Some(database.as_str())),
    };
    let name_fits = matcher.get("name").is_none_or(|value| value.is_null() || value == name);
    let others = [("type", Some(kind)), ("plugin", plugin), ("database", database)];
    name_fits
        && others.iter().all(|(key, has)| match matcher.get(*key) {
            Some(value) if truthy(value) => value.as_str() == *has && has.is_some(),
            Some(_) | None => true,
        })
}

/// The value says "logical slot": by its type, or by what only logical ones have.
/// The kind of a permanent slot that is configured as a logical one.
pub(crate) fn logical_kind(value: &Value) -> Option<SlotKind> {
    let text = |key| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = value.as_object()?.get("type").map_or(Some("logical"), Value::as_str)?;
    let (plugin, database) = (text("plugin")?.to_owned(), text("database")?.to_owned());
    (kind == "logical").then_some(SlotKind::Logical { plugin, database })
}

/// A permanent slot is configured as a physical one, as it also is by an empty value.
pub(crate) fn is_physical(value: &Value) -> bool {
    let kind = || value.get("type").map_or(Some("physical"), Value::as_str);
    !truthy(value) || (value.is_object() && logical_kind(value).is_none() && kind() == Some("physical"))
}

fn warning(text: String) -> Note {
    Note::Warning(text)
}

#[cfg(test)]
mod logical_tests;
#[cfg(test)]
mod ownership_tests;
#[cfg(test)]
mod tests;
