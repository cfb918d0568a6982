//! What the leader publishes about slots in `/status`.

use std::collections::{BTreeMap, BTreeSet};

use super::wanted::{Wanted, permanent_physical};
use super::{is_physical, logical_kind};
use crate::cluster::Cluster;
use crate::lsn::Lsn;
use crate::name::MemberName;
use crate::parameters::Note;
use crate::server::{Slot, SlotKind};
use crate::settings::Settings;
use crate::time::Moment;

/// The positions of the leader's slots, by which the others move theirs: of those it should have, and its own position under the name that
/// its slot has on the others. Where slots of members are not retained, only of permanent ones.
pub fn published_slots(
    settings: &Settings,
    cluster: &Cluster,
    name: &MemberName,
    position: Lsn,
    wanted: &BTreeMap<String, Wanted>,
    actual: &BTreeMap<String, Slot>,
) -> BTreeMap<String, Lsn> {
    let known = actual.iter().filter(|(name, slot)| wanted.get(*name).is_some_and(|wanted| wanted.kind == slot.kind));
    let all = slot_positions(name, position, known);
    if !settings.slots.member_slots_ttl.is_zero() {
        return all;
    }
    let members: BTreeSet<_> = cluster.members.keys().map(MemberName::slot_name).collect();
    let is_permanent = |name: &String| {
        let value = settings.slots.permanent.get(name);
        let in_standby_cluster = settings.standby_cluster.is_some();
        value.is_some_and(|value| {
            let physical = is_physical(value) && (!in_standby_cluster || permanent_physical(settings).contains(name));
            let logical = logical_kind(value).is_some() && !in_standby_cluster && !members.contains(name);
            physical || logical
        })
    };
    all.into_iter().filter(|(name, _)| settings.slots.use_slots && is_permanent(name)).collect()
}

/// Positions of slots, PostgreSQL's own ones left out, and of the leader itself under its slot's name.
pub fn slot_positions<'s>(
    name: &MemberName,
    position: Lsn,
    slots: impl IntoIterator<Item = (&'s String, &'s Slot)>,
) -> BTreeMap<String, Lsn> {
    let ours = slots.into_iter().filter(|(_, slot)| !slot.is_of_postgresql());
    let positions = ours.filter_map(|(name, slot)| {
        let lsn = match slot.kind {
            SlotKind::Physical => slot.restart_lsn,
            SlotKind::Logical { .. } => slot.confirmed_flush_lsn,
        };
        Some((name.clone(), lsn?))
    });
    positions.chain(std::iter::once((name.slot_name(), position))).collect()
}

/// When the leader last saw the members whose slots are kept: slot name to moment. It lives as long as the leadership.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Retained(BTreeMap<String, Moment>);

impl Retained {
    /// At the beginning of a leadership: what the leader before had kept counts as just seen.
    pub fn since_promotion(cluster: &Cluster, now: Moment) -> Self {
        Retained(cluster.status.retain_slots.iter().map(|name| (name.clone(), now)).collect())
    }

    /// Brings the memory up to date, and tells which slots' time is over. `published` are the slots of [`published_slots`].
    pub fn update(
        &mut self,
        settings: &Settings,
        cluster: &Cluster,
        name: &MemberName,
        published: &BTreeMap<String, Lsn>,
        now: Moment,
    ) -> Vec<Note> {
        let streaming = cluster.members.values().filter(|member| !member.data.tags.nostream());
        let mut members: BTreeSet<_> = streaming.map(|member| member.name.slot_name()).collect();
        // Its own key may be missing. Then nothing is known of its tags, and it may have streamed.
        if !cluster.members.contains_key(name) {
            members.insert(name.slot_name());
        }
        let permanent = permanent_physical(settings);
        let seen = published.keys().filter(|slot| members.contains(*slot) && !permanent.contains(*slot));
        self.0.extend(seen.map(|slot| (slot.clone(), now)));
        let ttl = settings.slots.member_slots_ttl;
        let mut notes = Vec::new();
        self.0.retain(|slot, seen| {
            let keep = now.since(*seen) < ttl;
            if !keep {
                notes.push(Note::Info(format!(
                    "Replication slot '{slot}' for absent cluster member is expired after {} sec.",
                    ttl.as_secs()
                )));
            }
            keep
        });
        notes
    }

    /// The value of `retain_slots`.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}
