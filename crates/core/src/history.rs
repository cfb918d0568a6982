//! Timelines: PostgreSQL's history files, whether a server diverged from a primary, and the cluster's `/history`.

use serde_json::Value;

use crate::cluster::HistoryLine;
use crate::lsn::{Lsn, Timeline};
use crate::server::{ControlData, ControlState};

/// One line of a history file: where a timeline ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where.
    pub switchpoint: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// Reads a history file. Lines that are no switch (comments, blank ones) are left out.
pub fn parse_history(text: &str) -> Vec<Switch> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Switch> {
    let mut fields = line.trim().split('\t');
    let (timeline, switchpoint, reason) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let timeline = Timeline(timeline.parse().ok()?);
    Some(Switch { timeline, switchpoint: switchpoint.parse().ok()?, reason: reason.to_owned() })
}

/// How far a server that is not primary (any more) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalPosition {
    /// It was a standby: the position is what it replayed. Otherwise it was a primary: the position is the beginning of
    /// its last checkpoint record.
    pub in_recovery: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// Its position.
    pub lsn: Lsn,
}

/// The position of a stopped server by `pg_control`; `None` where it has to be recovered first to know.
pub fn stopped_position(control: &ControlData) -> Option<LocalPosition> {
    let as_primary =
        LocalPosition { in_recovery: false, timeline: control.checkpoint_timeline, lsn: control.checkpoint };
    match control.state {
        // A primary that crashed right after it was made one from a standby has no minimum recovery point.
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery
            if control.min_recovery_end == Lsn(0) || control.min_recovery_timeline == Timeline(0) =>
        {
            Some(as_primary)
        }
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => Some(LocalPosition {
            in_recovery: true,
            timeline: control.min_recovery_timeline,
            lsn: control.min_recovery_end,
        }),
        ControlState::ShutDown => Some(as_primary),
        ControlState::StartingUp
        | ControlState::ShuttingDown
        | ControlState::InCrashRecovery
        | ControlState::InProduction
        | ControlState::Unrecognized => None,
    }
}

/// Can a server follow a primary as it is?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Divergence {
    /// Yes: everything it has is in the primary's history. On the *same* timeline histories tell nothing; there, the WAL itself
    /// has to be compared.
    None,
    /// No: it has WAL that the primary has not.
    Diverged,
    /// Yes if its last checkpoint record ends exactly here, where the primary left the timeline: then it wrote nothing after
    /// it. Otherwise (or if that cannot be found out) no.
    UnlessCheckpointEndsAt(Lsn),
}

/// Compares a server with a primary. `history` is the history file of the primary's timeline, needed only where the primary
/// is ahead of `local.timeline`.
pub fn divergence(local: &LocalPosition, primary: Timeline, history: &[Switch]) -> Divergence {
    if local.timeline > primary {
        return Divergence::Diverged;
    }
    if local.timeline == primary {
        return Divergence::None;
    }
    match history.iter().find(|switch| switch.timeline >= local.timeline) {
        Some(switch) if switch.timeline == local.timeline => at_switch(local, switch.switchpoint),
        // The timeline is no ancestor of the primary's.
        Some(_) | None => Divergence::Diverged,
    }
}

fn at_switch(local: &LocalPosition, switchpoint: Lsn) -> Divergence {
    match (local.in_recovery, local.lsn.cmp(&switchpoint)) {
        (true, std::cmp::Ordering::Greater) => Divergence::Diverged,
        (true, _) => Divergence::None,
        (false, std::cmp::Ordering::Less) => Divergence::UnlessCheckpointEndsAt(switchpoint),
        // A checkpoint record begins at the switch point or after it: it is not in the primary's history.
        (false, _) => Divergence::Diverged,
    }
}

/// The part of a history that is around a timeline, for the log.
pub fn excerpt(history: &[Switch], timeline: Timeline) -> String {
    let at = history.iter().position(|switch| switch.timeline >= timeline).unwrap_or(history.len());
    let start = at.saturating_sub(3);
    let end = if at + 4 >= history.len() { history.len() } else { at + 2 };
    let line = |switch: &Switch| format!("{}\t{}\t{}", switch.timeline, switch.switchpoint, switch.reason);
    let mut lines: Vec<_> = history.iter().take(end).skip(start).map(line).collect();
    if end < history.len() {
        lines.push("...".to_owned());
        lines.extend(history.last().map(line));
    }
    lines.join("\n")
}

/// What a primary adds to the last line of `/history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTimeline<'a> {
    /// When the history file was made, in ISO 8601 with offset.
    pub time: &'a str,
    /// The primary.
    pub leader: &'a str,
}

/// The value that `/history` should have, if it should change. `stored` are its lines so far, `file` the history file of
/// `timeline`, the primary's. Of longer histories the last `limit` lines are kept; zero for all.
pub fn cluster_history(
    stored: &[HistoryLine],
    timeline: Timeline,
    file: &[Switch],
    new: &NewTimeline<'_>,
    limit: usize,
) -> Option<String> {
    if timeline == Timeline(1) {
        return (!stored.is_empty()).then(|| "[]".to_owned());
    }
    let previous = Timeline(timeline.0.saturating_sub(1));
    if stored.last().is_some_and(|line| line.timeline() == Some(previous) && line.0.len() == 5) {
        return None;
    }
    let skipped = if limit == 0 { 0 } else { file.len().saturating_sub(limit) };
    let last = file.len().saturating_sub(1);
    let lines: Vec<Value> = file
        .iter()
        .enumerate()
        .skip(skipped)
        .map(|(i, switch)| {
            let is_new = i == last && switch.timeline == previous;
            Value::Array(if is_new { with_new(switch, new) } else { with_stored(switch, stored) })
        })
        .collect();
    (!lines.is_empty()).then(|| Value::Array(lines).to_string())
}

fn line_of(switch: &Switch) -> Vec<Value> {
    vec![switch.timeline.0.into(), switch.switchpoint.0.into(), switch.reason.clone().into()]
}

fn with_new(switch: &Switch, new: &NewTimeline<'_>) -> Vec<Value> {
    let mut line = line_of(switch);
    line.extend([new.time.into(), new.leader.into()]);
    line
}

/// Time and leader of an old line are known from the store only.
fn with_stored(switch: &Switch, stored: &[HistoryLine]) -> Vec<Value> {
    let mut line = line_of(switch);
    let known = stored.iter().rev().find(|known| known.timeline() == Some(switch.timeline));
    if let Some(known) = known.filter(|known| known.switchpoint() == Some(switch.switchpoint)) {
        line.extend(known.0.iter().skip(3).take(2).cloned());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn history() -> Vec<Switch> {
        parse_history(
            "1\t0/40159C0\tno recovery target specified\n\n# a comment\n2\t1/40159C0\tno recovery target specified\n4\t1/50159C0\tother\nx\ty\tz\n",
        )
    }

    #[test]
    fn history_files_are_read_and_nonsense_is_left_out() {
        let lines: Vec<_> = history().iter().map(|s| (s.timeline.0, s.switchpoint.to_string())).collect();
        assert_eq!(lines, [(1, "0/40159C0".into()), (2, "1/40159C0".into()), (4, "1/50159C0".into())]);
        for bad in ["1\t0/1", "1\t0/1\tx\ty", "1 0/1 x", "1\tq\tx", "-1\t0/1\tx"] {
            assert!(parse_history(bad).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn a_server_diverged_if_it_has_what_the_primary_has_not() {
        use Divergence::{Diverged, None, UnlessCheckpointEndsAt};
        const AT: u64 = 0x401_59C0;
        const AT_2: u64 = 0x1_0401_59C0;
        // in recovery, timeline, position, timeline of the primary
        let rows = [
            ((true, 3, 0), 2, Diverged),
            ((true, 2, u64::MAX), 2, None),
            ((false, 2, u64::MAX), 2, None),
            ((true, 1, AT - 1), 5, None),
            ((true, 1, AT), 5, None),
            ((true, 1, AT + 1), 5, Diverged),
            ((false, 1, AT - 0x70), 5, UnlessCheckpointEndsAt(Lsn(AT))),
            ((false, 1, AT), 5, Diverged),
            ((false, 1, AT + 1), 5, Diverged),
            ((true, 2, AT_2), 5, None),
            ((false, 2, AT_2 + 8), 5, Diverged),
            // Not in the history of timeline 5: left at 2, or never heard of.
            ((true, 3, 0), 5, Diverged),
        ];
        for ((in_recovery, timeline, lsn), primary, expected) in rows {
            let local = LocalPosition { in_recovery, timeline: Timeline(timeline), lsn: Lsn(lsn) };
            assert_eq!(divergence(&local, Timeline(primary), &history()), expected, "{local:?} {primary}");
        }
        let local = LocalPosition { in_recovery: true, timeline: Timeline(1), lsn: Lsn(1) };
        assert_eq!(divergence(&local, Timeline(2), &[]), Diverged);
    }

    fn control(state: ControlState, min_recovery: (u64, u32)) -> ControlData {
        ControlData {
            state,
            checkpoint: Lsn(100),
            checkpoint_timeline: Timeline(7),
            min_recovery_end: Lsn(min_recovery.0),
            min_recovery_timeline: Timeline(min_recovery.1),
            standby_signal: false,
            backup_label: false,
            torn: false,
        }
    }

    #[test]
    fn the_position_of_a_stopped_server_depends_on_how_it_stopped() {
        use ControlState::{InArchiveRecovery, InProduction, ShutDown, ShutDownInRecovery, ShuttingDown};
        let primary = Some((false, 7, 100));
        let rows = [
            (ShutDown, (0, 0), primary),
            (ShutDown, (50, 3), primary),
            (ShutDownInRecovery, (50, 3), Some((true, 3, 50))),
            (InArchiveRecovery, (50, 3), Some((true, 3, 50))),
            (InArchiveRecovery, (0, 3), primary),
            (ShutDownInRecovery, (50, 0), primary),
            (InProduction, (50, 3), None),
            (ShuttingDown, (50, 3), None),
        ];
        for (state, min_recovery, expected) in rows {
            let found = stopped_position(&control(state, min_recovery)).map(|p| (p.in_recovery, p.timeline.0, p.lsn.0));
            assert_eq!(found, expected, "{state:?} {min_recovery:?}");
        }
    }

    fn stored(lines: Value) -> Vec<HistoryLine> {
        match lines {
            Value::Array(lines) => {
                lines.into_iter().map(|l| HistoryLine(l.as_array().cloned().unwrap_or_default())).collect()
            }
            other => panic!("not a list: {other}"),
        }
    }

    #[test]
    fn the_history_of_the_cluster_keeps_times_and_leaders() {
        let file = parse_history("1\t0/10\ta\n2\t0/20\tb\n3\t0/30\tc\n");
        let new = NewTimeline { time: "2024-01-01T00:00:00+00:00", leader: "n2" };
        let newest = json!([3, 48, "c", "2024-01-01T00:00:00+00:00", "n2"]);
        let rows = [
            (json!([]), 4, 0, Some(json!([[1, 16, "a"], [2, 32, "b"], newest]))),
            (
                json!([[1, 16, "a", "t1", "n1"], [2, 32, "b", "t2"]]),
                4,
                0,
                Some(json!([[1, 16, "a", "t1", "n1"], [2, 32, "b", "t2"], newest])),
            ),
            // Another cluster's line: its time is not ours.
            (json!([[2, 33, "b", "t2", "n1"]]), 4, 0, Some(json!([[1, 16, "a"], [2, 32, "b"], newest]))),
            (json!([[1, 16, "a", "t1", "n1"]]), 4, 2, Some(json!([[2, 32, "b"], newest]))),
            (json!([[3, 48, "c", "t", "n"]]), 4, 0, None),
            (json!([[3, 48, "c", "t"]]), 4, 1, Some(json!([newest]))),
            (json!([[3, 48, "c", "t", "n"]]), 1, 0, Some(json!([]))),
            (json!([]), 1, 0, None),
            // The file of the timeline before: nothing is new in it.
            (json!([]), 5, 1, Some(json!([[3, 48, "c"]]))),
        ];
        for (before, timeline, limit, expected) in rows {
            let found = cluster_history(&stored(before.clone()), Timeline(timeline), &file, &new, limit);
            assert_eq!(found, expected.map(|v| v.to_string()), "{before} {timeline} {limit}");
        }
        assert_eq!(cluster_history(&[], Timeline(4), &[], &new, 0), None);
    }

    #[test]
    fn the_log_shows_the_surroundings() {
        let file: Vec<_> = (1..=9)
            .map(|n| Switch { timeline: Timeline(n), switchpoint: Lsn(u64::from(n)), reason: "r".into() })
            .collect();
        let timelines = |at| {
            excerpt(&file, Timeline(at))
                .lines()
                .map(|l| l.split('\t').next().unwrap_or("").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(timelines(2), ["1", "2", "3", "...", "9"]);
        assert_eq!(timelines(8), ["5", "6", "7", "8", "9"]);
        assert_eq!(excerpt(&[], Timeline(2)), "");
    }
}
