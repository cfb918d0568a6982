//! Full disks are logged, and count in the race.

use std::cmp::Ordering;

use super::Tick;
use crate::disk::{Fill, Place, Space};
use crate::peer::PeerStatus;
use crate::verdict::Level;

impl Tick<'_> {
    /// Logs what has changed since the last tick.
    pub(super) fn watch_disks(&mut self) {
        for (place, room) in &self.facts.disks.0 {
            let fill = room.as_ref().ok().map(|room| room.fill(self.settings.disk.warning));
            if *place == Place::Wal && matches!(fill, Some(Fill::Low | Fill::Full)) {
                self.memory.disk.wal_scarce_at = Some(self.facts.now.boot);
            }
            let before = self.memory.disk.logged.insert(place.clone(), fill);
            if before == Some(fill) {
                continue;
            }
            match (fill, room) {
                (Some(Fill::Full), Ok(room)) => self.note(Level::Error, format!("{place} is full ({room})")),
                (Some(Fill::Low), Ok(room)) => self.note(Level::Warning, format!("{place} is nearly full ({room})")),
                (Some(Fill::Enough), Ok(room)) if before.is_some() => {
                    self.note(Level::Info, format!("{place} has room again ({room})"));
                }
                (None, Err(why)) => self.note(Level::Warning, format!("the room in {place} is not known: {why}")),
                (Some(_) | None, Ok(_) | Err(_)) => {}
            }
        }
        self.memory.disk.logged.retain(|place, _| self.facts.disks.0.contains_key(place));
    }

    /// Who of two has the better room to write: without any, a leader would soon stop. `Less`: the peer, which says so itself.
    pub(super) fn compare_room(&self, status: &PeerStatus) -> Ordering {
        match (self.facts.disks.space(), status.space) {
            (Space::Full, Space::Enough) => Ordering::Less,
            (Space::Unknown | Space::Enough, Space::Full) => Ordering::Greater,
            (Space::Full, Space::Full | Space::Unknown) | (_, Space::Unknown | Space::Enough) => Ordering::Equal,
        }
    }
}
