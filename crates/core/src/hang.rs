//! Does the server hang? From what is seen of it from outside, look by look.
//!
//! A server that is slow is none that hangs. It hangs when nothing of it moves: it answers neither the connection that is held nor a
//! new one, and none of its processes uses the processor or waits for it. Or its storage hangs: one of its processes sleeps in
//! the kernel, in one and the same call, no WAL is written though some waits for that, and the disk has completed no write.
//! Only time in which somebody looked counts: an agent that stood still itself knows nothing of the time between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::lsn::Lsn;
use crate::time::Moment;

/// The most that the time between two looks counts for. They are closer together, unless the agent stood still.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3);

/// What is seen of a server in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signs {
    /// What it said, on the connection that is held or on a new one. `None`: nothing, in the time that a look takes.
    pub answer: Option<Answer>,
    /// All processes of the postmaster, by their numbers. Empty where nobody looked, because nothing waited for anything.
    pub processes: BTreeMap<i32, Process>,
    /// How many writes the disk with the WAL has completed; `None` where the system does not tell.
    pub disk_writes: Option<u64>,
}

/// What the server said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Answer {
    /// How far its WAL is on disk; `None` on a standby, or where it said something else.
    pub flushed: Option<Lsn>,
    /// The processes that write WAL to disk, and wait for that, while there is WAL to be written.
    pub writing_wal: BTreeSet<i32>,
}

/// A process of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Processor time it has used, in a unit of the system's. If it is the same in two looks, it did not run in between.
    pub used: u64,
    /// What it does.
    pub activity: Activity,
}

/// What a process does, by its state in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// It runs, or waits for the processor (`R`).
    Runs,
    /// In uninterruptible sleep (`D`): in most cases it waits for a disk.
    Blocked,
    /// Anything else: asleep, stopped.
    Rests,
}

/// What hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hung {
    /// All of the server.
    Server,
    /// What it writes its WAL to.
    Storage,
}

/// Nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Standstill {
    /// What.
    pub what: Hung,
    /// For how long that was watched.
    pub lasted: Duration,
}

/// One look after the other.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: Option<(Moment, Signs)>,
    still: Option<(Standstill, BTreeSet<i32>)>,
}

impl Watch {
    /// Takes note of a look. `Some`: nothing has moved for some time.
    pub fn see(&mut self, now: Moment, signs: Signs) -> Option<Standstill> {
        let still = self.last.as_ref().and_then(|(at, last)| {
            let (what, stuck) = stands_still(last, &signs)?;
            Some((what, stuck, now.since(*at).min(BETWEEN_LOOKS)))
        });
        self.last = Some((now, signs));
        let before = self.still.take();
        let (what, mut stuck, gap) = still?;
        let mut lasted = gap;
        if let Some((standstill, stuck_before)) = before {
            stuck.retain(|pid| what == Hung::Server || stuck_before.contains(pid));
            // Another process than before: one write has ended, and the next one takes long.
            if what == Hung::Server || !stuck.is_empty() {
                lasted += standstill.lasted;
            }
        }
        self.still = Some((Standstill { what, lasted }, stuck));
        self.standstill()
    }

    /// The same of a look that took its time, with what was seen at its beginning, when no answer had come yet. If none came at all, the
    /// silence counts from there.
    pub fn see_from(&mut self, begun: Option<(Moment, Signs)>, now: Moment, signs: Signs) -> Option<Standstill> {
        if let Some((at, silent)) = begun.filter(|_| signs.answer.is_none()) {
            self.see(at, silent);
        }
        self.see(now, signs)
    }

    /// What the last look showed.
    pub fn standstill(&self) -> Option<Standstill> {
        self.still.as_ref().map(|(standstill, _)| *standstill)
    }
}

/// Between two looks nothing has moved; with the processes that sleep in one call of the kernel.
fn stands_still(last: &Signs, now: &Signs) -> Option<(Hung, BTreeSet<i32>)> {
    let is_stuck = |(pid, process): &(&i32, &Process)| {
        process.activity == Activity::Blocked && last.processes.get(pid) == Some(process)
    };
    let mut stuck: BTreeSet<i32> = now.processes.iter().filter(is_stuck).map(|(pid, _)| *pid).collect();
    let disk_stands = last.disk_writes == now.disk_writes;
    let disk_surely_stands = disk_stands && now.disk_writes.is_some();
    match (&last.answer, &now.answer) {
        (None, None) => {
            let runs = now.processes.values().any(|process| process.activity == Activity::Runs);
            if now.processes.is_empty() || runs {
                None
            } else if last.processes == now.processes {
                Some((Hung::Server, stuck))
            } else {
                (!stuck.is_empty() && disk_surely_stands).then_some((Hung::Storage, stuck))
            }
        }
        (Some(before), Some(answer)) => {
            stuck.retain(|pid| answer.writing_wal.contains(pid));
            let stands = before.flushed == answer.flushed && disk_stands;
            (stands && !stuck.is_empty()).then_some((Hung::Storage, stuck))
        }
        // On a busy machine an answer can be late, and its storage hangs all the same.
        (None, Some(answer)) | (Some(answer), None) => {
            stuck.retain(|pid| answer.writing_wal.contains(pid));
            (disk_surely_stands && !stuck.is_empty()).then_some((Hung::Storage, stuck))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(used: u64, activity: Activity) -> Process {
        Process { used, activity }
    }

    fn silent(processes: &[(i32, u64, Activity)]) -> Signs {
        let processes = processes.iter().map(|(pid, used, activity)| (*pid, process(*used, *activity))).collect();
        Signs { answer: None, processes, disk_writes: Some(5) }
    }

    fn writing(flushed: u64, pid: i32, used: u64, disk_writes: Option<u64>) -> Signs {
        let answer = Answer { flushed: Some(Lsn(flushed)), writing_wal: [pid].into() };
        let processes = [(pid, process(used, Activity::Blocked)), (1, process(used, Activity::Rests))].into();
        Signs { answer: Some(answer), processes, disk_writes }
    }

    /// What is seen after ten looks, a second apart.
    fn watched(look: impl Fn(u64) -> Signs) -> Option<Standstill> {
        let mut watch = Watch::default();
        (0..10).for_each(|second| _ = watch.see(Moment(Duration::from_secs(second)), look(second)));
        watch.standstill()
    }

    const NINE: Duration = Duration::from_secs(9);

    #[test]
    fn a_server_of_which_nothing_moves_hangs() {
        use Activity::{Blocked, Rests, Runs};
        let stopped = watched(|_| silent(&[(1, 7, Rests), (2, 9, Rests)]));
        assert_eq!(stopped, Some(Standstill { what: Hung::Server, lasted: NINE }));
        assert_eq!(watched(|second| silent(&[(1, second, Rests)])), None, "it works");
        assert_eq!(watched(|_| silent(&[(1, 7, Rests), (2, 9, Runs)])), None, "it waits for the processor");
        assert_eq!(watched(|_| silent(&[])), None, "nothing is seen of it");
        assert_eq!(
            watched(|_| Signs { answer: Some(Answer::default()), ..silent(&[(1, 7, Rests)]) }),
            None,
            "it answers"
        );
        // New connections make the postmaster work and hang in turn.
        let storage = watched(|second| silent(&[(1, second, Rests), (2, 9, Blocked)]));
        assert_eq!(storage, Some(Standstill { what: Hung::Storage, lasted: NINE }));
        let slow = |second| Signs { disk_writes: Some(second), ..silent(&[(1, second, Rests), (2, 9, Blocked)]) };
        assert_eq!(watched(slow), None, "the disk is slow");
        let unknown = |second| Signs { disk_writes: None, ..silent(&[(1, second, Rests), (2, 9, Blocked)]) };
        assert_eq!(watched(unknown), None, "of the disk nothing is known");
    }

    #[test]
    fn storage_hangs_while_one_write_of_wal_does_not_end() {
        let hung = Some(Standstill { what: Hung::Storage, lasted: NINE });
        assert_eq!(watched(|_| writing(100, 2, 9, Some(5))), hung);
        assert_eq!(watched(|_| writing(100, 2, 9, None)), hung, "where the system does not tell of the disk");
        assert_eq!(watched(|second| writing(100 + second, 2, 9, Some(5))), None, "WAL is written");
        assert_eq!(watched(|second| writing(100, 2, 9, Some(second))), None, "the disk is slow");
        assert_eq!(watched(|second| writing(100, 2, second, Some(5))), None, "one short sleep after the other");
        let elsewhere = |_| {
            let mut signs = writing(100, 2, 9, Some(5));
            signs.answer = Some(Answer { writing_wal: [3].into(), ..signs.answer.unwrap() });
            signs
        };
        assert_eq!(watched(elsewhere), None, "what hangs is no write of WAL");
        let late = |second: u64| {
            let signs = writing(100, 2, 9, Some(5));
            Signs { answer: signs.answer.filter(|_| !second.is_multiple_of(3)), ..signs }
        };
        assert_eq!(watched(late), hung, "some answers come too late");
        let moves = |second| Signs { disk_writes: Some(second), ..late(second) };
        assert_eq!(watched(moves), None, "they do because the disk is slow");
        let turns = watched(|second| writing(100, i32::try_from(second / 5).unwrap() + 2, 9, Some(5)));
        assert_eq!(turns.map(|still| still.lasted), Some(Duration::from_secs(4)), "the second write");
    }

    /// A look at a server that is silent takes two seconds.
    #[test]
    fn silence_counts_from_the_beginning_of_a_look() {
        let at = |milliseconds| Moment(Duration::from_millis(milliseconds));
        let rests = || silent(&[(1, 7, Activity::Rests)]);
        let look = |watch: &mut Watch, from, to, signs| {
            watch.see_from(Some((at(from), rests())), at(to), signs).map(|still| still.lasted.as_millis())
        };
        let mut watch = Watch::default();
        assert_eq!(look(&mut watch, 250, 2_000, rests()), Some(1_750));
        assert_eq!(look(&mut watch, 2_250, 4_000, rests()), Some(3_750));
        // An answer that comes late is one, and what is late does not hide what it says.
        assert_eq!(look(&mut watch, 4_250, 5_000, writing(100, 2, 7, None)), None);
        assert_eq!(look(&mut watch, 5_250, 6_000, writing(100, 2, 7, None)), Some(1_000));
        assert_eq!(look(&mut watch, 6_250, 8_000, rests()), Some(1_750));
        // It worked between the beginning of the look and its end.
        assert_eq!(look(&mut watch, 8_250, 10_000, silent(&[(1, 8, Activity::Rests)])), None);
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let mut watch = Watch::default();
        let look = || silent(&[(1, 7, Activity::Rests)]);
        watch.see(Moment(Duration::from_secs(0)), look());
        let after_gap = watch.see(Moment(Duration::from_secs(60)), look());
        assert_eq!(after_gap.map(|still| still.lasted), Some(BETWEEN_LOOKS));
        assert_eq!(
            watch.see(Moment(Duration::from_secs(61)), silent(&[(1, 8, Activity::Rests)])),
            None,
            "it was only frozen, too"
        );
    }
}
