//! Deliberate mistakes, and after how many seeds simulated clusters find them.

#![cfg(feature = "deliberate-bugs")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Each mode in turn, with the same seed; on all cores. The first that shows something, or one that is not much later.
fn search(bug: Bug, clusters: u64) -> Option<(u64, Mode, Report)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    let look = || {
        commit(Some(bug));
        while found.lock().expect("nothing panics").is_none() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= clusters {
                return;
            }
            let mode = Mode::ALL[index as usize % Mode::ALL.len()];
            let report = run(index / Mode::ALL.len() as u64, mode, false);
            if !report.violations.is_empty() {
                found.lock().expect("nothing panics").get_or_insert((index, mode, report));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(look);
        }
    });
    found.into_inner().expect("nothing panics")
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
        let found = search(bug, if LEFT_TO_OTHERS.contains(&bug) { CLUSTERS / 10 } else { CLUSTERS });
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
