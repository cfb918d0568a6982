//! Slots that would not survive a failover, for people to know before it happens.

use std::collections::BTreeMap;
use std::fmt;

use super::wanted::{Node, slot_on_primary, wanted_slots};
use super::{Readiness, logical_kind, matches};
use crate::cluster::Cluster;
use crate::server::{Role, Running, SlotKind};
use crate::settings::Settings;

/// Why a logical slot would be missing, or of no use, after a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// The primary has it, and nobody told us to keep it.
    NotPermanent,
    /// It should be on the primary and is not: it cannot be created.
    NotCreated,
    /// It is not on this standby yet.
    NotCopied,
    /// It is on this standby, and the primary may still remove catalog rows that it needs.
    NotReady,
    /// The WAL it needs is gone.
    Lost,
    /// This node can become primary and sends no feedback: it does not have the slot.
    NoFeedback,
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Risk::NotPermanent => "not a permanent slot",
            Risk::NotCreated => "not created yet",
            Risk::NotCopied => "not copied from the primary yet",
            Risk::NotReady => "waiting for feedback to reach the primary",
            Risk::Lost => "needs WAL that is gone",
            Risk::NoFeedback => "this node does not stream from the primary",
        })
    }
}

/// The logical slots that a failover from this node (a primary) or to it (a standby) would lose. Slots of `ignore_slots`, and those that
/// PostgreSQL itself synchronises, are the business of others.
pub fn at_risk(
    settings: &Settings,
    cluster: &Cluster,
    running: &Running,
    readiness: &Readiness,
) -> BTreeMap<String, Risk> {
    if settings.standby_cluster.is_some() {
        return BTreeMap::new();
    }
    let is_standby = running.wal.is_standby();
    let role = if is_standby { Role::Replica } else { Role::Primary };
    let node = Node { name: &settings.name, role, tags: &settings.tags };
    let (wanted, _) = wanted_slots(settings, cluster, &node);
    let mut risks = BTreeMap::new();
    for (name, _) in wanted.iter().filter(|(_, wanted)| wanted.kind != SlotKind::Physical) {
        let risk = match running.slots.get(name) {
            Some(found) if found.is_of_postgresql() => None,
            Some(found) if found.lost => Some(Risk::Lost),
            Some(_) if is_standby => (!readiness.is_ready(name)).then_some(Risk::NotReady),
            Some(_) => None,
            None => Some(if is_standby { Risk::NotCopied } else { Risk::NotCreated }),
        };
        risks.extend(risk.map(|risk| (name.clone(), risk)));
    }
    if is_standby {
        if settings.slots.use_slots && !settings.tags.nofailover() && slot_on_primary(cluster, &node).is_none() {
            let logical = settings.slots.permanent.iter().filter(|(_, value)| logical_kind(value).is_some());
            risks.extend(logical.map(|(name, _)| (name.clone(), Risk::NoFeedback)));
        }
        return risks;
    }
    let strange = running.slots.iter().filter(|(name, slot)| {
        slot.kind != SlotKind::Physical
            && !slot.is_of_postgresql()
            && !wanted.contains_key(*name)
            && !settings.slots.ignore.iter().any(|matcher| matches(matcher, name, slot))
    });
    risks.extend(strange.map(|(name, _)| (name.clone(), Risk::NotPermanent)));
    risks
}
