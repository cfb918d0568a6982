//! The write-ahead log of a simulated server: where it came from and how far it goes.

use patroni_core::lsn::{Lsn, Timeline};

/// One stretch of WAL on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// What PostgreSQL does not know: which promotion made it. Two servers may both call theirs timeline 2.
    pub id: u64,
    /// The timeline.
    pub timeline: Timeline,
    /// Where it begins.
    pub start: Lsn,
}

/// A log: its branches, oldest first, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wal {
    /// At least one.
    pub branches: Vec<Branch>,
    /// Everything before this position is there.
    pub end: Lsn,
}

impl Wal {
    /// The log of a new database system.
    pub(crate) fn new(id: u64) -> Self {
        let start = Lsn(0x100_0000);
        Wal { branches: vec![Branch { id, timeline: Timeline(1), start }], end: Lsn(start.0 + 1000) }
    }

    /// The branch that is being written.
    pub(crate) fn last(&self) -> Branch {
        *self.branches.last().expect("a log has a branch")
    }

    /// The timeline that is being written.
    pub(crate) fn timeline(&self) -> Timeline {
        self.last().timeline
    }

    /// A new timeline begins here.
    pub(crate) fn fork(&mut self, id: u64) {
        let timeline = Timeline(self.timeline().0 + 1);
        self.branches.push(Branch { id, timeline, start: self.end });
    }

    /// Where the branch at this index ends.
    fn end_of(&self, index: usize) -> Lsn {
        self.branches.get(index + 1).map_or(self.end, |next| next.start)
    }

    /// Everything in this log is in the other one too.
    pub(crate) fn is_prefix_of(&self, other: &Wal) -> bool {
        self.end <= self.common(other, |a, b| a.id == b.id)
    }

    /// The same, as PostgreSQL sees it: by timelines and the positions at which they begin.
    pub(crate) fn seems_prefix_of(&self, other: &Wal) -> bool {
        self.end <= self.common(other, |a, b| (a.timeline, a.start) == (b.timeline, b.start))
    }

    /// The last timeline of this log is, under its number, another one there: the same bytes are not at the same positions.
    pub(crate) fn contradicts(&self, other: &Wal) -> bool {
        let mine = self.last();
        let Some(index) = other.branches.iter().position(|branch| branch.timeline == mine.timeline) else {
            return false;
        };
        let theirs = other.branches[index];
        let both = self.end.min(other.end_of(index));
        let is_last = index + 1 == other.branches.len();
        theirs.id != mine.id && both > mine.start.min(theirs.start) || is_last && other.end < self.end
    }

    /// This write is in the log.
    pub(crate) fn contains(&self, id: u64, end: Lsn) -> bool {
        self.branches.iter().position(|branch| branch.id == id).is_some_and(|index| end <= self.end_of(index))
    }

    /// The last position up to which both are the same.
    fn common(&self, other: &Wal, same: impl Fn(&Branch, &Branch) -> bool) -> Lsn {
        let mut common = Lsn(0);
        for (index, (mine, theirs)) in self.branches.iter().zip(&other.branches).enumerate() {
            if !same(mine, theirs) {
                break;
            }
            common = self.end_of(index).min(other.end_of(index));
            if self.end_of(index) != other.end_of(index) {
                break;
            }
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_went_on_after_the_fork_is_no_prefix() {
        let mut old = Wal::new(1);
        let mut new = old.clone();
        new.fork(2);
        new.end.0 += 100;
        assert!(old.is_prefix_of(&new) && old.seems_prefix_of(&new));
        old.end.0 += 1;
        assert!(!old.is_prefix_of(&new) && !old.seems_prefix_of(&new));
        assert!(!new.is_prefix_of(&old));
    }

    #[test]
    fn two_promotions_at_one_position_look_alike() {
        let (mut one, mut two) = (Wal::new(1), Wal::new(1));
        one.fork(2);
        two.fork(3);
        one.end.0 += 10;
        two.end.0 += 10;
        assert!(one.seems_prefix_of(&two) && !one.is_prefix_of(&two));
        assert!(one.contradicts(&two) && !one.contradicts(&one));
        // Also when the other one went on to a further timeline.
        two.fork(4);
        two.end.0 += 10;
        assert!(one.contradicts(&two));
        // A primary that lost the end of its log.
        let mut shorter = one.clone();
        shorter.end.0 -= 1;
        assert!(one.contradicts(&shorter) && !shorter.contradicts(&one));
    }
}
