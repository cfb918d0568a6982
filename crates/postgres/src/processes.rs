//! The processes of a postmaster, as the kernel shows them in `/proc`, and their end.
//!
//! Nothing here touches a disk, so that it answers while the storage of PostgreSQL hangs.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Error, Result};

/// SIGKILL in the masks of `/proc/PID/status`.
const SIGKILL_BIT: u64 = 1 << (9 - 1);

/// How often killed processes are looked at until they are gone.
const POLL: Duration = Duration::from_millis(10);

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Its state: `R`, `S`, `D`, `T`, `Z`, ...
    pub(crate) state: char,
    /// The process number of its parent.
    pub(crate) parent: i32,
    /// Its process group.
    pub(crate) group: i32,
    /// Processor time used so far, in clock ticks.
    pub(crate) ticks: u64,
    /// When it started, in clock ticks since boot.
    pub(crate) start: u64,
}

impl Stat {
    /// `None`: there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program, in parentheses, may contain anything. What follows it: state, parent, ...
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            ticks: number(11)? + number(12)?,
            start: number(19)?,
        })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// Processor time that a process has used, exactly. `None` where the kernel does not tell.
pub(crate) fn nanoseconds(pid: i32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?.split_whitespace().next()?.parse().ok()
}

/// A process and all its descendants that have not exited.
pub(crate) fn tree(root: i32) -> BTreeMap<i32, Stat> {
    let all: BTreeMap<i32, Stat> = numbers().filter_map(|pid| Some((pid, Stat::of(pid)?))).collect();
    let mut found = vec![root];
    let mut index = 0;
    while let Some(&parent) = found.get(index) {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
        index += 1;
    }
    all.into_iter().filter(|(pid, stat)| found.contains(pid) && !stat.is_dead()).collect()
}

/// The processes of a group that have not exited.
pub(crate) fn group(number: i32) -> Vec<i32> {
    numbers().filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.group == number && !stat.is_dead())).collect()
}

/// The postmaster that works in a data directory whose pid file cannot be read: a process called `postgres` that works there, and
/// whose parent does not. `None`: there is none.
pub(crate) fn postmaster_in(data_dir: &Path) -> Option<i32> {
    let wanted = fs::metadata(data_dir).map(|data| (data.dev(), data.ino())).ok();
    let works_there = |pid: i32| {
        let process = Path::new("/proc").join(pid.to_string());
        let same = match (fs::metadata(process.join("cwd")).map(|cwd| (cwd.dev(), cwd.ino())), wanted) {
            (Ok(cwd), Some(wanted)) => cwd == wanted,
            // The directory is gone from where it was. What the kernel knows of it is its path.
            (Ok(_) | Err(_), _) => fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data_dir),
        };
        let program = fs::read_link(process.join("exe"));
        same && program.is_ok_and(|exe| exe.file_name().is_some_and(|n| n.to_string_lossy().contains("postgres")))
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    numbers()
        .filter(|pid| *pid != own && works_there(*pid))
        .find(|pid| Stat::of(*pid).is_some_and(|stat| !stat.is_dead() && !works_there(stat.parent)))
}

/// SIGKILL was sent to it: whatever it is doing in the kernel, it does not come back from there.
pub(crate) fn is_killed(pid: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & SIGKILL_BIT != 0)
}

pub(crate) fn numbers() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A process that was killed, held by a descriptor so that it is not mistaken for another one.
#[derive(Debug)]
struct Victim {
    pid: i32,
    pidfd: OwnedFd,
}

impl Victim {
    fn open(pid: i32) -> Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Victim { pid, pidfd })),
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => {
                Err(Error::Unexpected(format!("cannot watch process {pid}: {}", std::io::Error::from(error))))
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(Error::Unexpected(format!("cannot kill process {}: {}", self.pid, std::io::Error::from(error))))
            }
        }
    }

    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    /// It is gone, or it can never run a line of its program again.
    ///
    /// A process with a pending SIGKILL does not return to user mode: on the way there the kernel looks for signals, and this one
    /// cannot be blocked, caught or ignored. So what is seen in uninterruptible sleep (`D`) *after* it was killed ends the system call
    /// that it sleeps in, and then itself. It takes no further row off its socket, and sends no answer to a client: that would be
    /// another system call. What the one that it sleeps in may still do is write a page of WAL or data, as before any crash.
    /// A thread that is seen in any other state may be in user mode for the moment until the signal reaches its processor.
    fn cannot_run(&self) -> bool {
        self.is_gone() || is_killed(self.pid) && threads(self.pid).iter().all(|state| matches!(state, 'D' | 'Z' | 'X'))
    }
}

/// Blocks for a moment. Never on the runtime.
fn nap() {
    let nothing: &mut [PollFd<'_>] = &mut [];
    let _ = poll(nothing, Some(&Timespec { tv_sec: 0, tv_nsec: i64::from(POLL.subsec_nanos()) }));
}

fn threads(pid: i32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.filter_map(|stat| Some(Stat::parse(&stat)?.state)).collect()
}

/// Processes that were killed and are not gone yet.
#[derive(Debug, Default)]
pub struct Killed(Vec<Victim>);

impl Killed {
    /// Some of them are still there: they sleep in the kernel, and go as soon as they wake up.
    pub fn remain(&mut self) -> bool {
        self.0.retain(|victim| !victim.is_gone());
        !self.0.is_empty()
    }
}

/// Kills a postmaster and all its descendants, and waits until each is gone or can never run again. Blocks, for about `limit` at most.
///
/// # Errors
/// Not permitted, or a process still runs after `limit`.
pub fn kill_all(postmaster: i32, limit: Duration) -> Result<Killed> {
    let end = Instant::now() + limit;
    let mut victims: BTreeMap<i32, Victim> = BTreeMap::new();
    let Some(root) = Victim::open(postmaster)? else { return Ok(Killed::default()) };
    // With a signal pending, fork() fails with ERESTARTNOINTR before the new process can be seen: once the postmaster was told to
    // stop it has all the children that it will ever have, whatever it was doing. As long as it is there they are found by it.
    root.signal(Signal::STOP)?;
    loop {
        let mut found_another = false;
        for pid in tree(postmaster).into_keys().filter(|pid| *pid != postmaster) {
            if victims.contains_key(&pid) {
                continue;
            }
            let Some(victim) = Victim::open(pid)? else { continue };
            // Children of a backend that dies are nobody's any more: it dies when they have been found.
            victim.signal(Signal::STOP)?;
            victims.insert(pid, victim);
            found_another = true;
        }
        if !found_another {
            break;
        }
    }
    for victim in victims.values().chain([&root]) {
        victim.signal(Signal::KILL)?;
    }
    let mut killed: Vec<Victim> = victims.into_values().chain([root]).collect();
    loop {
        killed.retain(|victim| !victim.is_gone());
        let Some(running) = killed.iter().find(|victim| !victim.cannot_run()) else { return Ok(Killed(killed)) };
        if Instant::now() >= end {
            let what = format!("the end of killed process pid={}", running.pid);
            return Err(Error::Timeout { what, limit });
        }
        nap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read_whatever_the_program_is_called() {
        let line = "77 (a) D 1) S 1 77 77 0 -1 4194560 100 0 0 0 12 3 0 0 20 0 1 0 5000 1000 10 18446744073709551615 1";
        let expected = Stat { state: 'S', parent: 1, group: 77, ticks: 15, start: 5000 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("77 (a"), None);
    }

    #[test]
    fn stopped_processes_and_their_children_are_killed() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 100 & sleep 100; true"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        while tree(pid).len() < 3 {
            nap();
        }
        let all: Vec<i32> = tree(pid).into_keys().collect();
        let victim = |pid: i32| Victim::open(pid).unwrap().expect("it is there");
        let held: Vec<Victim> = all.iter().map(|pid| victim(*pid)).collect();
        held.iter().for_each(|victim| victim.signal(Signal::STOP).unwrap());
        assert!(!held[0].cannot_run(), "a process that was only stopped can be continued");
        let mut killed = kill_all(pid, Duration::from_secs(10)).unwrap();
        assert!(held.iter().all(Victim::cannot_run));
        while killed.remain() {
            nap();
        }
        assert!(held.iter().all(Victim::is_gone));
        child.wait().unwrap();
        assert!(!kill_all(pid, Duration::from_secs(10)).unwrap().remain(), "who is gone needs no killing");
    }
}
