//! Deliberate mistakes, and after how many seeds simulated clusters find them.

#![cfg(feature = "deliberate-bugs")]

use patroni_core::decide::deliberate::{Bug, commit};
use patroni_sim::{Mode, Report, run};

/// More seeds than this are not tried.
const SEEDS: u64 = 4000;

/// What simulated clusters cannot see: it is caught by a fence behind the decision. Rows and walks find it.
const FOUND_ELSEWHERE: [Bug; 1] = [Bug::KeepPromoting];

/// Each mode in turn with the same seed.
fn search() -> Option<(u64, Mode, Report)> {
    let runs = (0..SEEDS).map(|index| (index, Mode::ALL[index as usize % Mode::ALL.len()]));
    runs.map(|(index, mode)| (index, mode, run(index / Mode::ALL.len() as u64, mode, false)))
        .find(|(.., report)| !report.violations.is_empty())
}

#[test]
fn every_mistake_is_found() {
    let mut missed = Vec::new();
    println!("{:<22} {:>8}  mode    what was seen", "mistake", "clusters");
    for bug in Bug::ALL {
        commit(Some(bug));
        let found = search();
        commit(None);
        let name = format!("{bug:?}");
        match &found {
            Some((index, mode, report)) => {
                println!("{name:<22} {:>8}  {:<6}  {}", index + 1, mode.name(), report.violations[0]);
            }
            None => println!("{name:<22} {:>8}", "-"),
        }
        if found.is_none() != FOUND_ELSEWHERE.contains(&bug) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "the list of what is found elsewhere is wrong about {missed:?}");
}
