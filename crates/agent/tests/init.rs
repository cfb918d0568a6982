//! The first process of a container. One test: it collects all children of its process.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use patroni_agent::init::supervise;
use rustix::process::{Signal, getpid, kill_process, set_child_subreaper};

/// Children of this process that ended and that nobody collected.
fn zombies() -> usize {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().take(2).collect();
        fields == ["Z", own.as_str()]
    };
    stats.filter(is_one).count()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn orphans_are_collected_and_signals_passed_on() {
    // As the first process of a container: those who lose their parent become children of this one.
    set_child_subreaper(Some(getpid())).expect("Linux");
    let orphans = "for i in 1 2 3; do (sh -c 'exit 3' &) ; done; sleep 0.3; exit 7";
    assert_eq!(supervise(shell(orphans)).expect("it runs"), 7);
    assert_eq!(zombies(), 0);
    assert_eq!(supervise(shell("kill -KILL $$")).expect("it runs"), 128 + 9);

    let directory = tempfile::tempdir().expect("a directory");
    let ready = directory.path().join("ready");
    let script = format!("trap 'exit 9' HUP; : >{}; while :; do sleep 0.05; done", ready.display());
    let asks = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(60);
        while !ready.exists() && Instant::now() < end {
            std::thread::yield_now();
        }
        kill_process(getpid(), Signal::HUP).expect("this process");
    });
    assert_eq!(supervise(shell(&script)).expect("it runs"), 9);
    asks.join().expect("it was asked");
}
