//! Deliberate mistakes, and after how many seeds simulated clusters find them.

#![cfg(feature = "deliberate-bugs")]

use patroni_core::decide::deliberate::{Bug, commit};
use patroni_sim::run;

/// More seeds than this are not tried.
const SEEDS: u64 = 4000;

/// What simulated clusters cannot see: with asynchronous replication it costs writes that nobody was promised, or it
/// is caught by a fence behind the decision. Rows and walks find these.
const FOUND_ELSEWHERE: [Bug; 2] = [Bug::IgnorePeers, Bug::KeepPromoting];

#[test]
fn every_mistake_is_found() {
    let mut missed = Vec::new();
    println!("{:<20} {:>6}  what was seen", "mistake", "seeds");
    for bug in Bug::ALL {
        commit(Some(bug));
        let found = (0..SEEDS).map(|seed| run(seed, false)).find(|report| !report.violations.is_empty());
        commit(None);
        let name = format!("{bug:?}");
        match &found {
            Some(report) => println!("{name:<20} {:>6}  {}", report.seed + 1, report.violations[0]),
            None => println!("{name:<20} {:>6}", "-"),
        }
        if found.is_none() != FOUND_ELSEWHERE.contains(&bug) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "the list of what is found elsewhere is wrong about {missed:?}");
}
