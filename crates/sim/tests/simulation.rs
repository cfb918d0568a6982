//! A bounded share of what `./simulate` does, for each change.

use std::time::{Duration, Instant};

use patroni_sim::run;

/// Enough to see every kind of fault, and no more than a change can wait for.
const TIME: Duration = Duration::from_secs(50);
const SEEDS: u64 = 6000;
const AT_LEAST: u64 = 500;

#[test]
fn clusters_survive_what_happens_to_them() {
    let began = Instant::now();
    let mut faults = std::collections::BTreeMap::new();
    let mut seeds = 0;
    while seeds < SEEDS && (began.elapsed() < TIME || seeds < AT_LEAST) {
        let report = run(seeds, false);
        assert!(
            report.violations.is_empty(),
            "seed {seeds}: {}\n  ./simulate --replay {seeds}",
            report.violations.join("; ")
        );
        for (name, count) in report.faults {
            *faults.entry(name).or_insert(0) += count;
        }
        seeds += 1;
    }
    assert!(faults.len() >= 28, "not every kind of fault happened: {faults:?}");
    println!("{seeds} seeds in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..60 {
        let (one, other) = (run(seed, true), run(seed, true));
        assert!(one.trace.len() > 20, "seed {seed} has no trace");
        assert_eq!(one.trace.join("\n"), other.trace.join("\n"), "seed {seed}");
        let untraced = run(seed, false);
        assert_eq!((one.ticks, one.writes, one.events), (untraced.ticks, untraced.writes, untraced.events));
    }
}
