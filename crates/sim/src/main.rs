//! `./simulate`: runs seeds as long as asked, on all cores.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use patroni_sim::{Report, run};

const USAGE: &str = "usage: simulate [--seconds N | --seeds N] [--from SEED] | --replay SEED";

/// What was asked for.
#[derive(Clone, Copy, Debug)]
enum Order {
    Seeds { from: u64, count: u64 },
    Seconds { from: u64, limit: Duration },
    Replay(u64),
}

fn main() -> ExitCode {
    match order(std::env::args().skip(1)) {
        Ok(Order::Replay(seed)) => replay(seed),
        Ok(order) => simulate(order),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn order(mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let (mut from, mut seeds, mut seconds, mut seed) = (0, None, None, None);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
        let number = value.parse::<u64>().map_err(|_| format!("{value:?} is not a number"))?;
        match word.as_str() {
            "--from" => from = number,
            "--seeds" => seeds = Some(number),
            "--seconds" => seconds = Some(number),
            "--replay" => seed = Some(number),
            other => return Err(format!("there is no option {other}")),
        }
    }
    match (seed, seeds, seconds) {
        (Some(seed), None, None) => Ok(Order::Replay(seed)),
        (None, Some(count), None) => Ok(Order::Seeds { from, count }),
        (None, None, Some(seconds)) => Ok(Order::Seconds { from, limit: Duration::from_secs(seconds) }),
        (None, None, None) => Ok(Order::Seeds { from, count: 10_000 }),
        _ => Err("say --replay, --seeds or --seconds, one of them".into()),
    }
}

fn replay(seed: u64) -> ExitCode {
    let report = run(seed, true);
    for line in &report.trace {
        println!("{line}");
    }
    for violation in &report.violations {
        println!("seed {seed}: {violation}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(order: Order) -> ExitCode {
    let (from, count, limit) = match order {
        Order::Seeds { from, count } => (from, count, None),
        Order::Seconds { from, limit } => (from, u64::MAX, Some(limit)),
        Order::Replay(_) => return ExitCode::from(2),
    };
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut total = Total::default();
    std::thread::scope(|scope| {
        let (sender, reports) = channel();
        for _ in 0..threads {
            let (sender, next, stop) = (sender.clone(), &next, &stop);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let late = limit.is_some_and(|limit| began.elapsed() >= limit);
                    if index >= count || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if sender.send(run(from.wrapping_add(index), false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(&reports, &mut total, &stop, began);
    });
    total.print(began.elapsed());
    if total.failed.is_empty() && total.seeds > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds up, and says every ten seconds how far it is.
fn collect(reports: &Receiver<Report>, total: &mut Total, stop: &AtomicBool, began: Instant) {
    let mut said = Instant::now();
    loop {
        match reports.recv_timeout(Duration::from_secs(1)) {
            Ok(report) => total.add(report),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if total.failed.len() >= 10 {
            stop.store(true, Ordering::Relaxed);
        }
        if said.elapsed() >= Duration::from_secs(10) {
            said = Instant::now();
            let rate = total.seeds as f64 / began.elapsed().as_secs_f64();
            println!("{} seeds, {rate:.0} a second, {} failed", total.seeds, total.failed.len());
        }
    }
}

/// All runs together.
#[derive(Default)]
struct Total {
    seeds: u64,
    ticks: u64,
    writes: u64,
    promotions: u64,
    ambiguous: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<Report>,
}

impl Total {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.ticks += report.ticks;
        self.writes += report.writes;
        self.promotions += report.timelines.saturating_sub(1);
        self.ambiguous += u64::from(report.ambiguous);
        for (name, count) in &report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        if !report.violations.is_empty() {
            self.failed.push(report);
        }
    }

    fn print(&self, took: Duration) {
        println!("faults injected:");
        for (name, count) in &self.faults {
            println!("  {count:>9}  {name}");
        }
        let rate = self.seeds as f64 / took.as_secs_f64();
        println!(
            "{} seeds in {:.1} s, {rate:.0} a second; {} decisions, {} writes, {} promotions; {} with timelines that \
             PostgreSQL cannot tell apart",
            self.seeds,
            took.as_secs_f64(),
            self.ticks,
            self.writes,
            self.promotions,
            self.ambiguous
        );
        for report in &self.failed {
            println!("seed {} FAILED: {}", report.seed, report.violations.join("; "));
            println!("  ./simulate --replay {}", report.seed);
        }
        if self.failed.is_empty() {
            println!("no violation");
        }
    }
}
