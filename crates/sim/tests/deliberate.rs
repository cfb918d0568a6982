//! Deliberate mistakes, and after how many seeds simulated clusters find them.

#![cfg(feature = "deliberate-bugs")]

use patroni_core::decide::deliberate::{Bug, commit};
use patroni_sim::{Mode, Report, run};

/// More clusters than this are not tried.
const CLUSTERS: u64 = 4000;

/// What simulated clusters need not see within these: it is caught by a fence behind the decision, or takes a coincidence
/// of milliseconds. Rows, walks, and the proof of the planner find these.
const LEFT_TO_OTHERS: [Bug; 12] = [
    Bug::PromoteOnUnknown,
    Bug::IgnorePeers,
    Bug::KeepPromoting,
    Bug::PublishBeforeCaughtUp,
    Bug::SettleAtOnce,
    Bug::CountLeaderAsVote,
    Bug::ElectWithoutQuorum,
    Bug::TrustForeignSync,
    Bug::ForgetSyncWhenOff,
    Bug::ForgetLostSync,
    // WAL is compared before a node follows, and keeps out whoever was elected against the history.
    Bug::ForgetTimeline,
    // Needless failovers lose nothing that was promised.
    Bug::HangByOneSign,
];

/// Each mode in turn, with the same seed.
fn search(clusters: u64) -> Option<(u64, Mode, Report)> {
    let runs = (0..clusters).map(|index| (index, Mode::ALL[index as usize % Mode::ALL.len()]));
    runs.map(|(index, mode)| (index, mode, run(index / Mode::ALL.len() as u64, mode, false)))
        .find(|(.., report)| !report.violations.is_empty())
}

#[test]
fn every_mistake_is_found() {
    let mut missed = Vec::new();
    println!("{:<22} {:>8}  mode    what was seen", "mistake", "clusters");
    // A list of names, to look for some of them only.
    let wanted = std::env::var("PATRONI_MISTAKES").ok();
    let is_wanted =
        |bug: &Bug| wanted.as_ref().is_none_or(|names| names.split(',').any(|name| name == format!("{bug:?}")));
    for bug in Bug::ALL.into_iter().filter(is_wanted) {
        commit(Some(bug));
        let found = search(if LEFT_TO_OTHERS.contains(&bug) { CLUSTERS / 10 } else { CLUSTERS });
        commit(None);
        let name = format!("{bug:?}");
        match &found {
            Some((index, mode, report)) => {
                println!("{name:<22} {:>8}  {:<6}  {}", index + 1, mode.name(), report.violations[0]);
            }
            None => println!("{name:<22} {:>8}", "-"),
        }
        if found.is_none() && !LEFT_TO_OTHERS.contains(&bug) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "simulated clusters do not find {missed:?}");
}
