//! A bounded share of what `./simulate` does, for each change.

use std::time::{Duration, Instant};

use patroni_sim::{Mode, run};

/// Enough to see every kind of fault, and no more than a change can wait for.
const TIME: Duration = Duration::from_secs(100);
const SEEDS: u64 = 5000;
const AT_LEAST: u64 = 500;

#[test]
fn clusters_survive_what_happens_to_them() {
    let began = Instant::now();
    let mut faults = std::collections::BTreeMap::new();
    let (mut waited, mut given_up) = (0, 0);
    let mut seeds = 0;
    while seeds < SEEDS && (began.elapsed() < TIME || seeds < AT_LEAST) {
        // Every mode in turn, each time with another seed.
        let mode = Mode::ALL[seeds as usize % Mode::ALL.len()];
        let report = run(seeds, mode, false);
        assert!(
            report.violations.is_empty(),
            "seed {seeds}: {}\n  ./simulate --mode {} --replay {seeds}",
            report.violations.join("; "),
            mode.name()
        );
        for (name, count) in report.faults {
            *faults.entry(name).or_insert(0) += count;
        }
        waited += report.waited;
        given_up += report.given_up;
        seeds += 1;
    }
    assert!(faults.len() >= 31, "not every kind of fault happened: {faults:?}");
    assert!(waited > 10_000, "only {waited} writes were confirmed by standbys first");
    println!("{seeds} seeds in {:.1} s; {waited} writes waited, {given_up} given up", began.elapsed().as_secs_f64());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..60 {
        let mode = Mode::ALL[seed as usize % Mode::ALL.len()];
        let (one, other) = (run(seed, mode, true), run(seed, mode, true));
        assert!(one.trace.len() > 20, "seed {seed} has no trace");
        assert_eq!(one.trace.join("\n"), other.trace.join("\n"), "seed {seed}");
        let untraced = run(seed, mode, false);
        assert_eq!((one.ticks, one.writes, one.events), (untraced.ticks, untraced.writes, untraced.events));
    }
}
