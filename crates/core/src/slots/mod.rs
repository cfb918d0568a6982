//! Replication slots: which ones a node should have, what to change, and what the leader publishes about them.
//!
//! Pure. Logical slots are known, so that they are kept; creating, copying and advancing them is not done here.

mod published;
mod wanted;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::JsonMap;
use crate::lsn::Lsn;
use crate::parameters::Note;
use crate::server::{Slot, SlotKind};
use crate::tags::truthy;

pub use published::{Retained, published_slots};
pub use wanted::{Node, Wanted, wanted_slots};

/// A step, to be done in the order of the plan. A failed one concerns its own slot only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Drop a slot, unless it is in use. If that fails, a later [`Change::Create`] of it is to be left out.
    Drop {
        /// Its name.
        slot: String,
        /// Why.
        reason: DropReason,
    },
    /// Create a physical slot that keeps WAL from now on.
    Create(String),
    /// Move a physical slot forward.
    Advance(String, Lsn),
}

/// Why a slot is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Nobody wants it.
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
}

/// What to change so that the node has the slots it should have. Slots of PostgreSQL's own synchronisation (`failover`, `synced`) are left
/// alone; `ignore` are the entries of `ignore_slots`.
pub fn plan(
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Slot>,
    ignore: &[JsonMap],
    situation: Situation,
) -> Vec<Change> {
    let mut actual: BTreeMap<_, _> = actual.iter().filter(|(_, slot)| !slot.failover && !slot.synced).collect();
    let mut plan = Vec::new();
    actual.retain(|name, slot| match reason_to_drop(wanted.get(*name), name, slot, ignore, situation) {
        Some(reason) => {
            plan.push(Change::Drop { slot: (*name).clone(), reason });
            false
        }
        None => true,
    });
    for (name, slot) in wanted.iter().filter(|(_, slot)| slot.kind == SlotKind::Physical) {
        match actual.get(name) {
            Some(found) => bring_up_to_date(name, slot, found, situation, &mut plan),
            None => plan.push(Change::Create(name.clone())),
        }
    }
    plan
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
        plan.push(Change::Drop { slot: slot.clone(), reason: DropReason::HoldsXmin });
        plan.push(Change::Create(slot));
        return;
    }
    if found.kind != SlotKind::Physical || wanted.expected_active == Some(true) || found.holds_xmin {
        return;
    }
    match (found.restart_lsn, wanted.lsn) {
        (None, _) => plan.push(Change::Drop { slot, reason: DropReason::KeepsNothing }),
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
fn logical_kind(value: &Value) -> Option<SlotKind> {
    let text = |key| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = value.as_object()?.get("type").map_or(Some("logical"), Value::as_str)?;
    let (plugin, database) = (text("plugin")?.to_owned(), text("database")?.to_owned());
    (kind == "logical").then_some(SlotKind::Logical { plugin, database })
}

fn is_physical(value: &Value) -> bool {
    let kind = || value.get("type").map_or(Some("physical"), Value::as_str);
    !truthy(value) || (value.is_object() && logical_kind(value).is_none() && kind() == Some("physical"))
}

fn warning(text: String) -> Note {
    Note::Warning(text)
}

#[cfg(test)]
mod tests;
