//! The guard itself: no runtime, no allocation to speak of, nothing that could keep it from its one duty.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use patroni_core::time::Moment;
use patroni_postgres::processes::kill_all;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::clock;

/// How long an immediate shutdown may take before the postmaster is killed.
const QUIT_LIMIT: Duration = Duration::from_millis(1000);

/// The longest sleep: a suspended machine's clocks jump.
const NAP: Duration = Duration::from_secs(1);

/// How long a server is looked for that was being started when the deadline passed.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// What the agent said last.
struct Order {
    deadline: Moment,
    /// `None`: whichever runs in the data directory.
    postmaster: Option<Postmaster>,
}

/// A pidfd names one process for ever: a reused number cannot be hit.
struct Postmaster {
    pid: i32,
    pidfd: OwnedFd,
}

/// Reads orders from standard input until told to go, or until the deadline has passed.
pub fn run(data_dir: &Path) -> io::Result<()> {
    let mut stdin = io::stdin();
    let mut order: Option<Order> = None;
    let mut text = String::new();
    let mut agent_gone = false;
    loop {
        if let Some(order) = order.as_ref().filter(|order| order.deadline <= clock::boot()) {
            return fence(order, data_dir);
        }
        if agent_gone && order.is_none() {
            return Ok(());
        }
        let wait = order.as_ref().map_or(NAP, |order| order.deadline.since(clock::boot()).min(NAP));
        if agent_gone {
            nap(wait);
            continue;
        }
        if !readable(&stdin, wait)? {
            continue;
        }
        let mut buffer = [0; 512];
        match stdin.read(&mut buffer) {
            Ok(0) => agent_gone = true,
            Ok(n) => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => agent_gone = true,
        }
        while let Some(end) = text.find('\n') {
            let line: String = text.drain(..=end).collect();
            match parse(line.trim()) {
                Line::Off => return Ok(()),
                Line::Until(deadline, pid) => order = take(order, deadline, pid),
                Line::Garbage => {}
            }
        }
    }
}

enum Line {
    Off,
    Until(Moment, i32),
    Garbage,
}

fn parse(line: &str) -> Line {
    if line == "off" {
        return Line::Off;
    }
    let mut words = line.split(' ');
    let deadline = words.next().and_then(|word| word.parse::<u64>().ok());
    let pid = words.next().and_then(|word| word.parse::<i32>().ok());
    match (deadline, pid) {
        (Some(nanos), Some(pid)) => Line::Until(Moment(Duration::from_nanos(nanos)), pid),
        _ => Line::Garbage,
    }
}

fn take(before: Option<Order>, deadline: Moment, pid: i32) -> Option<Order> {
    let known = before.and_then(|order| order.postmaster).filter(|postmaster| postmaster.pid == pid);
    let postmaster = match (pid, known) {
        (super::ANY, _) => None,
        (_, Some(known)) => Some(known),
        (pid, None) => Some(Postmaster::open(pid)?),
    };
    Some(Order { deadline, postmaster })
}

impl Postmaster {
    fn open(pid: i32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Postmaster { pid, pidfd })
    }

    /// The one that runs in the data directory, or appears there soon.
    fn search(data_dir: &Path) -> Option<Self> {
        let number = || patroni_postgres::postmaster::Postmaster::number(data_dir).ok().flatten();
        let until = clock::boot() + SEARCH_LIMIT;
        while clock::boot() < until {
            // Looked at again: the number could have been used anew before the process was held on to.
            if let Some(found) = number().and_then(Self::open).filter(|found| number() == Some(found.pid)) {
                return Some(found);
            }
            nap(Duration::from_millis(50));
        }
        None
    }
}

fn fence(order: &Order, data_dir: &Path) -> io::Result<()> {
    let searched = if order.postmaster.is_none() { Postmaster::search(data_dir) } else { None };
    let Some(Postmaster { pid, pidfd }) = order.postmaster.as_ref().or(searched.as_ref()) else { return Ok(()) };
    eprintln!(
        "patroni guard: the leader lease ended and the agent did not prolong it: stopping PostgreSQL (pid {pid})"
    );
    if pidfd_send_signal(pidfd, Signal::QUIT).is_err() || ended(pidfd, QUIT_LIMIT)? {
        return Ok(());
    }
    eprintln!("patroni guard: PostgreSQL did not stop at once: killing it");
    // All of it: a backend that is only stopped would acknowledge its last commit when it is continued.
    if let Err(error) = kill_all(*pid, QUIT_LIMIT) {
        eprintln!("patroni guard: {error}");
    }
    Ok(())
}

fn readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    ended(fd, limit)
}

/// A pidfd becomes readable when its process ends.
fn ended(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn nap(limit: Duration) {
    let mut nothing: [PollFd<'_>; 0] = [];
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let _ = poll(&mut nothing, Some(&timeout));
}

/// Ends guards of this data directory other than `own`.
pub fn end_guards(data_dir: &Path, own: Option<u32>) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if own.and_then(|own| i32::try_from(own).ok()) != Some(pid)
            && is_guard_of(&entry.path(), data_dir)
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
}

fn is_guard_of(process: &Path, data_dir: &Path) -> bool {
    let Ok(command) = std::fs::read(process.join("cmdline")) else { return false };
    let mut words = command.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"--guard") && words.next() == Some(data_dir.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_orders_change_nothing() {
        assert!(matches!(parse("off"), Line::Off));
        assert!(matches!(parse("5000000000 12"), Line::Until(Moment(d), 12) if d == Duration::from_secs(5)));
        for garbage in ["", "5", "x 12", "-1 12", "5 x"] {
            assert!(matches!(parse(garbage), Line::Garbage), "{garbage:?}");
        }
    }
}
