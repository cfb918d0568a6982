//! Is there an order of all operations on one key that explains what concurrent clients saw? For the tests of stores.

use std::collections::HashSet;
use std::time::Instant;

/// Random numbers that are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// One that is smaller than `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// One of so many places, of which there is one at least.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap_or(0)
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value.
    Read,
    /// To this value.
    Write(u64),
    /// To the second value if it is the first.
    Swap(u64, u64),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was this one; `None`: there was none.
    Read(Option<u64>),
    /// It was changed.
    Changed,
    /// The value was another one.
    Refused,
    /// Surely nothing was changed.
    Nothing,
    /// It may have happened, or happen later.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// On which key.
    pub key: &'static str,
    /// What was asked for.
    pub kind: Kind,
    /// What came of it.
    pub done: Done,
    /// Not before then.
    pub began: Instant,
    /// Not after then, unless what came of it is not known.
    pub ended: Instant,
}

impl Operation {
    /// The value after it, if it can have happened on this value.
    fn after(&self, value: Option<u64>) -> Option<Option<u64>> {
        match (self.kind, self.done) {
            (Kind::Read, Done::Read(seen)) => (seen == value).then_some(value),
            (Kind::Write(to), Done::Changed | Done::Unknown) => Some(Some(to)),
            (Kind::Swap(from, to), Done::Changed) => (value == Some(from)).then_some(Some(to)),
            (Kind::Swap(from, _), Done::Refused) => (value != Some(from)).then_some(value),
            (Kind::Swap(from, to), Done::Unknown) => Some(if value == Some(from) { Some(to) } else { value }),
            _ => None,
        }
    }
}

/// Whether there is such an order, for operations on one key that had no value before. The search of Wing and Gong, which
/// remembers where it has been.
pub fn explains(history: &[Operation]) -> bool {
    let mut operations: Vec<&Operation> = history.iter().filter(|operation| operation.done != Done::Nothing).collect();
    operations.sort_by_key(|operation| operation.began);
    let mut been = HashSet::new();
    search(&operations, &mut vec![false; operations.len()], None, &mut been)
}

fn search(
    operations: &[&Operation],
    taken: &mut Vec<bool>,
    value: Option<u64>,
    been: &mut HashSet<(Vec<bool>, Option<u64>)>,
) -> bool {
    let certain = |operation: &Operation| operation.done != Done::Unknown;
    let left = || (0..operations.len()).filter(|i| !taken[*i]);
    // What is not known may as well never have happened.
    let Some(limit) = left().filter(|i| certain(operations[*i])).map(|i| operations[i].ended).min() else {
        return true;
    };
    if !been.insert((taken.clone(), value)) {
        return false;
    }
    // Whatever began after another one had ended comes after it.
    let next: Vec<usize> = left().filter(|i| operations[*i].began <= limit).collect();
    for i in next {
        if let Some(after) = operations[i].after(value) {
            taken[i] = true;
            if search(operations, taken, after, been) {
                return true;
            }
            taken[i] = false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn history(rows: &[(u64, u64, Kind, Done)]) -> Vec<Operation> {
        let zero = Instant::now();
        let at = |second: u64| zero + Duration::from_secs(second);
        let operation = |(began, ended, kind, done): &(u64, u64, Kind, Done)| Operation {
            key: "/a",
            kind: *kind,
            done: *done,
            began: at(*began),
            ended: at(*ended),
        };
        rows.iter().map(operation).collect()
    }

    #[test]
    fn what_can_and_cannot_be_explained() {
        use Done::{Changed, Nothing, Read, Refused, Unknown};
        use Kind::{Swap, Write};
        let rows: [(&str, bool, &[(u64, u64, Kind, Done)]); 9] = [
            ("nothing", true, &[]),
            ("a read of what was written", true, &[(0, 1, Write(5), Changed), (2, 3, Kind::Read, Read(Some(5)))]),
            ("a stale read", false, &[(0, 1, Write(5), Changed), (2, 3, Kind::Read, Read(None))]),
            ("a read beside a write", true, &[(0, 3, Write(5), Changed), (1, 2, Kind::Read, Read(None))]),
            (
                "a value that comes back",
                false,
                &[(0, 9, Write(5), Changed), (1, 2, Kind::Read, Read(Some(5))), (3, 4, Kind::Read, Read(None))],
            ),
            (
                "an unknown write that happens late",
                true,
                &[(0, 1, Write(5), Unknown), (2, 3, Kind::Read, Read(None)), (4, 5, Kind::Read, Read(Some(5)))],
            ),
            ("a write that did not happen", false, &[(0, 1, Write(5), Nothing), (2, 3, Kind::Read, Read(Some(5)))]),
            (
                "two that won",
                false,
                &[(0, 1, Write(1), Changed), (2, 5, Swap(1, 2), Changed), (2, 5, Swap(1, 3), Changed)],
            ),
            (
                "one that won",
                true,
                &[(0, 1, Write(1), Changed), (2, 5, Swap(1, 2), Refused), (2, 5, Swap(1, 3), Changed)],
            ),
        ];
        for (what, expected, rows) in rows {
            assert_eq!(explains(&history(rows)), expected, "{what}");
        }
    }
}
