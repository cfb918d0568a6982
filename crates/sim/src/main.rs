//! `./simulate`: runs seeds as long as asked, on as many threads as asked.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use patroni_sim::{Mode, Report, run};

const USAGE: &str = "\
usage: simulate [--mode MODE] [--seconds N | --seeds N] [--from SEED] [--threads N]
       simulate [--mode MODE] --replay SEED
MODE is async, on, strict, quorum, or any (the default: any of them, and operators change it). Without a limit: 10,000 seeds
from 0, on all cores. Exit status 0: no violation; 1: there was one, and how to replay it; 2: a wrong command line.";

const OPTIONS: [&str; 6] = ["--mode", "--from", "--seeds", "--seconds", "--replay", "--threads"];

/// What was asked for.
#[derive(Clone, Copy, Debug)]
struct Order {
    mode: Mode,
    from: u64,
    count: u64,
    limit: Option<Duration>,
    threads: usize,
    replay: Option<u64>,
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match order(std::env::args().skip(1)) {
        Ok(Order { replay: Some(seed), mode, .. }) => replay(seed, mode),
        Ok(order) => simulate(order),
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn order(mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let (mut from, mut seeds, mut seconds, mut seed) = (0, None, None, None);
    let mut mode = Mode::Any;
    let mut threads = std::thread::available_parallelism().map_or(1, usize::from);
    while let Some(word) = words.next() {
        if !OPTIONS.contains(&word.as_str()) {
            return Err(format!("there is no option {word}"));
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        if word == "--mode" {
            let known = Mode::ALL.into_iter().find(|mode| mode.name() == value);
            mode = known.ok_or_else(|| format!("there is no mode {value:?}"))?;
            continue;
        }
        let number = value.parse::<u64>().map_err(|_| format!("{value:?} is not a number"))?;
        match word.as_str() {
            "--from" => from = number,
            "--seeds" => seeds = Some(number),
            "--seconds" => seconds = Some(number),
            "--replay" => seed = Some(number),
            _ if (1..=256).contains(&number) => threads = number as usize,
            _ => return Err("--threads takes 1 to 256".into()),
        }
    }
    let limit = seconds.map(Duration::from_secs);
    let count = match (seed, seeds, limit) {
        (Some(_), None, None) => 1,
        (None, Some(count), None) => count,
        (None, None, Some(_)) => u64::MAX,
        (None, None, None) => 10_000,
        _ => return Err("say --replay, --seeds or --seconds, one of them".into()),
    };
    Ok(Order { mode, from, count, limit, threads, replay: seed })
}

fn replay(seed: u64, mode: Mode) -> ExitCode {
    let report = run(seed, mode, true);
    for line in &report.trace {
        println!("{line}");
    }
    for violation in &report.violations {
        println!("seed {seed}: {violation}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn simulate(order: Order) -> ExitCode {
    let Order { mode, from, count, limit, threads, .. } = order;
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
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
                    if sender.send(run(from.wrapping_add(index), mode, false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(&reports, &mut total, &stop, began);
    });
    total.print(began.elapsed(), mode, threads);
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
    waited: u64,
    given_up: u64,
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
        self.waited += report.waited;
        self.given_up += report.given_up;
        self.promotions += report.timelines.saturating_sub(1);
        self.ambiguous += u64::from(report.ambiguous);
        for (name, count) in &report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        if !report.violations.is_empty() {
            println!("seed {} FAILED: {}", report.seed, report.violations.join("; "));
            self.failed.push(report);
        }
    }

    fn print(&self, took: Duration, mode: Mode, threads: usize) {
        println!("faults injected:");
        for (name, count) in &self.faults {
            println!("  {count:>9}  {name}");
        }
        let rate = self.seeds as f64 / took.as_secs_f64();
        println!(
            "mode {}: {} seeds in {:.1} s on {threads} threads, {rate:.0} a second; {} decisions, {} promotions; {} writes \
             acknowledged, {} of them confirmed by standbys first, {} given up by manual failovers; {} clusters with \
             timelines that PostgreSQL cannot tell apart",
            mode.name(),
            self.seeds,
            took.as_secs_f64(),
            self.ticks,
            self.promotions,
            self.writes,
            self.waited,
            self.given_up,
            self.ambiguous
        );
        for report in &self.failed {
            println!("seed {} FAILED: {}", report.seed, report.violations.join("; "));
            println!("  ./simulate --mode {} --replay {}", mode.name(), report.seed);
        }
        if self.failed.is_empty() {
            println!("no violation");
        }
    }
}
