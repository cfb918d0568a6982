//! Room on the disks that a server writes to.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::JsonMap;

/// Where `/patroni` shows the room on the disks, and the member's key what is wrong with them. Patroni ignores it.
pub const DISK_KEY: &str = "disk";

const MIB: u64 = 1 << 20;

/// Something that a server writes to, and that can be full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The data directory.
    Data,
    /// `pg_wal`.
    Wal,
    /// A tablespace, by its number (the link in `pg_tblspc`).
    Tablespace(String),
    /// The directory of PostgreSQL's log, where it is not in the data directory.
    Log,
    /// The directory of the agent's log.
    AgentLog,
}

impl Place {
    /// The short name: a key in documents, a label of metrics.
    pub fn key(&self) -> String {
        match self {
            Place::Data => "data".to_owned(),
            Place::Wal => "wal".to_owned(),
            Place::Tablespace(number) => format!("tablespace {number}"),
            Place::Log => "log".to_owned(),
            Place::AgentLog => "agent log".to_owned(),
        }
    }

    /// PostgreSQL cannot do without it: a standby that is to take over needs room here.
    fn is_essential(&self) -> bool {
        match self {
            Place::Data | Place::Wal | Place::Tablespace(_) => true,
            Place::Log | Place::AgentLog => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&described(&self.key()))
    }
}

/// A place by its short name, in words.
pub fn described(key: &str) -> String {
    match key {
        "data" => "the data directory".to_owned(),
        "wal" => "the WAL directory".to_owned(),
        "log" => "the directory of PostgreSQL's log".to_owned(),
        "agent log" => "the directory of the agent's log".to_owned(),
        other => other.to_owned(),
    }
}

/// The size of a file system and what is free on it for the user of PostgreSQL, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Room {
    /// Its size.
    pub total: u64,
    /// What can still be written.
    pub free: u64,
    /// What the next file takes: with less, it is full. A segment of WAL, or a megabyte.
    pub needed: u64,
}

/// How full a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fill {
    /// There is room.
    Enough,
    /// Less is free than the setting asks for.
    Low,
    /// The next file does not fit.
    Full,
}

impl Fill {
    /// As documents show it.
    pub fn name(self) -> &'static str {
        match self {
            Fill::Enough => "ok",
            Fill::Low => "low",
            Fill::Full => "full",
        }
    }
}

/// `disk_free_warning`: less free room than this share of a disk, and than this number of bytes, is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold {
    /// Of the size of the disk.
    pub percent: u64,
    /// In bytes.
    pub at_most: u64,
}

impl Default for Threshold {
    /// 5 %, but no more than 10 GB.
    fn default() -> Self {
        Threshold { percent: 5, at_most: 10 << 30 }
    }
}

impl Room {
    /// How full it is.
    pub fn fill(&self, threshold: Threshold) -> Fill {
        let share = u128::from(self.total) * u128::from(threshold.percent) / 100;
        if self.free < self.needed {
            Fill::Full
        } else if u128::from(self.free) < share.min(u128::from(threshold.at_most)) {
            Fill::Low
        } else {
            Fill::Enough
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} free", size(self.free), size(self.total))
    }
}

/// What a node says of its disks, as far as others need it for a hand-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// It says nothing (a node of Patroni does not), or a disk does not answer.
    #[default]
    Unknown,
    /// Data, WAL and tablespaces can grow.
    Enough,
    /// One of them cannot.
    Full,
}

/// The places of a server and their room, or why it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disks(pub BTreeMap<Place, Result<Room, String>>);

impl Disks {
    /// What is known of the disks of a node that says no more of them than this.
    pub fn of_space(space: Space) -> Self {
        let room = |free| Ok(Room { total: 1, free, needed: 1 });
        let places = match space {
            Space::Unknown => None,
            Space::Enough => Some((Place::Data, room(1))),
            Space::Full => Some((Place::Data, room(0))),
        };
        Disks(places.into_iter().collect())
    }

    /// How full a place is; `None` where that is not known.
    pub fn fill(&self, place: &Place, threshold: Threshold) -> Option<Fill> {
        self.0.get(place)?.as_ref().ok().map(|room| room.fill(threshold))
    }

    /// Can PostgreSQL go on writing, as far as the disks tell?
    pub fn space(&self) -> Space {
        let essential: Vec<_> = self.0.iter().filter(|(place, _)| place.is_essential()).collect();
        let full = |room: &&Result<Room, String>| room.as_ref().is_ok_and(|room| room.free < room.needed);
        if essential.iter().any(|(_, room)| full(room)) {
            Space::Full
        } else if essential.is_empty() || essential.iter().any(|(_, room)| room.is_err()) {
            Space::Unknown
        } else {
            Space::Enough
        }
    }

    /// As `/patroni` shows it: all places.
    pub fn document(&self, threshold: Threshold) -> JsonMap {
        let shown = |room: &Result<Room, String>| match room {
            Ok(room) => json!({"state": room.fill(threshold).name(), "free": room.free, "total": room.total}),
            Err(why) => json!({"state": "unknown", "reason": why}),
        };
        self.0.iter().map(|(place, room)| (place.key(), shown(room))).collect()
    }

    /// As the member's key has it: only places that are low or full, or do not answer. In whole megabytes, so that the key does not
    /// change all the time.
    pub fn trouble(&self, threshold: Threshold) -> JsonMap {
        let mut trouble = self.document(threshold);
        trouble.retain(|_, shown| shown["state"] != Fill::Enough.name());
        for shown in trouble.values_mut() {
            for key in ["free", "total"] {
                if let Some(bytes) = shown.get(key).and_then(Value::as_u64) {
                    shown[key] = (bytes / MIB * MIB).into();
                }
            }
        }
        trouble
    }
}

/// What a document as [`Disks::document`] makes it says of the disks of its node.
pub fn space_by_document(document: Option<&JsonMap>) -> Space {
    let Some(document) = document else { return Space::Unknown };
    let state = |key: &str| document.get(key).and_then(|shown| shown.get("state")).and_then(Value::as_str);
    let tablespaces = document.keys().filter(|key| key.starts_with("tablespace "));
    let states: Vec<_> = tablespaces.map(String::as_str).chain(["data", "wal"]).map(state).collect();
    if states.contains(&Some("full")) {
        Space::Full
    } else if states.iter().all(|state| matches!(state, Some("ok" | "low"))) {
        Space::Enough
    } else {
        Space::Unknown
    }
}

/// The troubles that a document has, for people: `the WAL directory is full (3.0 MB of 64.0 MB free)`.
pub fn troubles(document: &JsonMap) -> Vec<String> {
    let text = |(key, shown): (&String, &Value)| {
        let place = described(key);
        let bytes = |key: &str| shown.get(key).and_then(Value::as_u64);
        let room = match (bytes("free"), bytes("total")) {
            (Some(free), Some(total)) => format!(" ({} of {} free)", size(free), size(total)),
            _ => String::new(),
        };
        match shown.get("state").and_then(Value::as_str)? {
            "full" => Some(format!("{place} is full{room}")),
            "low" => Some(format!("{place} is nearly full{room}")),
            "unknown" => {
                let why = shown.get("reason").and_then(Value::as_str).unwrap_or("no reason is known");
                Some(format!("the room in {place} is not known: {why}"))
            }
            _ => None,
        }
    };
    document.iter().filter_map(text).collect()
}

/// A number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(total: u64, free: u64) -> Room {
        Room { total, free, needed: 16 * MIB }
    }

    #[test]
    fn how_full() {
        let default = Threshold::default();
        let rows = [
            (room(100 * GIB, 6 * GIB), default, Fill::Enough),
            (room(100 * GIB, 4 * GIB), default, Fill::Low),
            (room(1000 * GIB, 11 * GIB), default, Fill::Enough),
            (room(1000 * GIB, 9 * GIB), default, Fill::Low),
            (room(100 * GIB, 16 * MIB), default, Fill::Low),
            (room(100 * GIB, 16 * MIB - 1), default, Fill::Full),
            (room(100 * GIB, 15 * MIB), Threshold { percent: 0, at_most: 0 }, Fill::Full),
            (room(100 * GIB, 17 * MIB), Threshold { percent: 0, at_most: 0 }, Fill::Enough),
            (room(100 * GIB, 17 * MIB), Threshold { percent: 100, at_most: 20 * MIB }, Fill::Low),
            (room(u64::MAX, u64::MAX), default, Fill::Enough),
        ];
        for (room, threshold, expected) in rows {
            assert_eq!(room.fill(threshold), expected, "{room} {threshold:?}");
        }
    }

    #[test]
    fn what_others_read_is_what_is_known_here() {
        let hung = || Err("it does not answer".to_owned());
        let (enough, full) = (|| Ok(room(GIB, GIB)), || Ok(room(GIB, MIB)));
        let tablespace = || Place::Tablespace("16384".to_owned());
        let rows = [
            (vec![], Space::Unknown),
            (vec![(Place::Data, enough()), (Place::Wal, enough())], Space::Enough),
            (vec![(Place::Data, enough()), (Place::Wal, enough()), (Place::Log, full())], Space::Enough),
            (vec![(Place::Data, enough()), (Place::Wal, full())], Space::Full),
            (vec![(Place::Data, full()), (Place::Wal, hung())], Space::Full),
            (vec![(Place::Data, enough()), (Place::Wal, hung())], Space::Unknown),
            (vec![(Place::Data, enough()), (Place::Wal, enough()), (tablespace(), full())], Space::Full),
        ];
        for (places, expected) in rows {
            let disks = Disks(places.into_iter().collect());
            assert_eq!(disks.space(), expected, "{disks:?}");
            let document = disks.document(Threshold::default());
            assert_eq!(space_by_document(Some(&document)), expected, "{document:?}");
        }
        assert_eq!(space_by_document(None), Space::Unknown);
        for space in [Space::Unknown, Space::Enough, Space::Full] {
            assert_eq!(Disks::of_space(space).space(), space);
        }
        let strange = json!({"data": {"state": 7}, "wal": []});
        assert_eq!(space_by_document(strange.as_object()), Space::Unknown);
    }

    #[test]
    fn troubles_for_people() {
        let disks = Disks(BTreeMap::from([
            (Place::Data, Ok(room(100 * GIB, GIB))),
            (Place::Wal, Ok(room(64 * MIB, 3 * MIB + 7))),
            (Place::Tablespace("16384".to_owned()), Err("it does not answer".to_owned())),
            (Place::Log, Ok(room(GIB, GIB))),
        ]));
        assert_eq!(
            troubles(&disks.trouble(Threshold::default())),
            [
                "the data directory is nearly full (1.0 GB of 100.0 GB free)",
                "the WAL directory is full (3.0 MB of 64.0 MB free)",
                "the room in tablespace 16384 is not known: it does not answer",
            ]
        );
        assert_eq!(
            troubles(&json!({"log": {"state": "ok"}, "x": 5}).as_object().cloned().unwrap_or_default()),
            [""; 0]
        );
        let sizes =
            [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 kB"), (234_881_360, "224.0 MB"), (5 << 40, "5.0 TB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }
}
