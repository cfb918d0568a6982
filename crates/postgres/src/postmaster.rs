//! The postmaster of a data directory: whether it is there, how it is signalled, when it is gone.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::processes::{self, Stat};
use crate::{Error, Result};

/// Largest difference between the start in the pid file and that of the process, in seconds.
const START_TOLERANCE: i64 = 3;

/// A postmaster, held by a file descriptor: never mistaken for another process, even when its number is used again.
#[derive(Debug)]
pub struct Postmaster {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// Its pid file has been seen: it is no longer on its way there.
    listed: AtomicBool,
}

/// What the file `postmaster.pid` of a data directory leads to.
#[derive(Debug)]
pub enum Found<P = Postmaster> {
    /// No pid file, or one of a process that is gone.
    Nobody,
    /// A process that took the number of a postmaster that is gone.
    Foreign {
        /// Its number, which a starting postmaster has to be told to ignore.
        pid: i32,
    },
    /// PostgreSQL in single-user mode.
    SingleUser {
        /// Its process.
        pid: i32,
    },
    /// A postmaster.
    Alive(P),
}

impl<P> Found<P> {
    /// The same with another kind of handle.
    pub fn map<Q>(self, f: impl FnOnce(P) -> Q) -> Found<Q> {
        match self {
            Found::Nobody => Found::Nobody,
            Found::Foreign { pid } => Found::Foreign { pid },
            Found::SingleUser { pid } => Found::SingleUser { pid },
            Found::Alive(postmaster) => Found::Alive(f(postmaster)),
        }
    }
}

/// What the postmaster says of itself in its pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidFileStatus {
    /// `starting`, or the file is not complete yet.
    Starting,
    /// `standby`: up, but takes no connections (yet).
    Standby,
    /// `ready`
    Ready,
    /// `stopping`
    Stopping,
}

/// The parts of `postmaster.pid` that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PidFile {
    pid: i32,
    start_time: Option<i64>,
    /// The shared memory by which a postmaster knows that processes of its predecessor are left.
    shared_memory: Option<u64>,
    status: PidFileStatus,
}

impl Postmaster {
    /// Looks for the postmaster of a data directory. A process counts as one if it works in that directory and its program is
    /// called `postgres`, or where that cannot be seen, if it started when the pid file says.
    ///
    /// # Errors
    /// The pid file is there and cannot be read, or the process cannot be watched.
    pub fn find(data_dir: &Path) -> Result<Found> {
        let Some(file) = PidFile::read(data_dir)? else { return Ok(Found::Nobody) };
        if file.pid < 0 {
            let single = Self::open(-file.pid)?.is_some_and(|p| p.is_alive());
            return Ok(if single { Found::SingleUser { pid: -file.pid } } else { Found::Nobody });
        }
        let Some(process) = Self::open(file.pid)? else { return Ok(Found::Nobody) };
        process.listed.store(true, Ordering::Relaxed);
        let ours = is_postmaster(file.pid, data_dir, file.start_time);
        Ok(match (process.is_alive(), ours) {
            (false, _) => Found::Nobody,
            (true, false) => Found::Foreign { pid: file.pid },
            (true, true) => Found::Alive(process),
        })
    }

    /// The same where the pid file cannot be read: the postmaster is known by where it works.
    ///
    /// # Errors
    /// The process cannot be watched.
    pub fn find_without_file(data_dir: &Path) -> Result<Found> {
        let Some(pid) = processes::postmaster_in(data_dir) else { return Ok(Found::Nobody) };
        let process = Self::open(pid)?.filter(|process| process.is_alive());
        // Looked at again: the number could have been used anew before the process was held on to.
        let process = process.filter(|_| processes::postmaster_in(data_dir) == Some(pid));
        Ok(process.map_or(Found::Nobody, Found::Alive))
    }

    /// The number of the process that [`Postmaster::find`] finds, for whoever has no runtime to hold on to it with.
    ///
    /// # Errors
    /// The pid file is there and cannot be read.
    pub fn number(data_dir: &Path) -> Result<Option<i32>> {
        let file = PidFile::read(data_dir)?.filter(|file| file.pid > 0);
        Ok(file.filter(|file| is_postmaster(file.pid, data_dir, file.start_time)).map(|file| file.pid))
    }

    /// Is a postmaster that was killed still there, because nobody has waited for it yet, or processes of it? They leave when they
    /// notice, and until then no other can be started. Where the kernel does not tell: no.
    pub fn left_processes(data_dir: &Path) -> bool {
        let Ok(Some(PidFile { pid, shared_memory, .. })) = PidFile::read(data_dir) else { return false };
        if Self::open(pid.abs()).is_ok_and(|process| process.is_some_and(|process| !process.is_alive())) {
            return true;
        }
        let Some(id) = shared_memory else { return false };
        fs::read_to_string("/proc/sysvipc/shm").is_ok_and(|table| attached(&table, id) > 0)
    }

    /// Holds on to a process; `None` if there is no such process.
    ///
    /// # Errors
    /// The kernel gives no descriptor for it.
    pub fn open(pid: i32) -> Result<Option<Postmaster>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        let failed = |e: io::Error| Error::Unexpected(format!("cannot watch process {pid}: {e}"));
        match pidfd_open(number, PidfdFlags::NONBLOCK) {
            Ok(fd) => {
                // Sound for an OwnedFd, which keeps the descriptor open as long as it lives.
                #[allow(deprecated)]
                let pidfd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(failed)?;
                Ok(Some(Postmaster { pid, pidfd, listed: AtomicBool::new(false) }))
            }
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What its pid file says; `None` where there is none, or one of another postmaster.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn status(&self, data_dir: &Path) -> Result<Option<PidFileStatus>> {
        let file = PidFile::read(data_dir)?.filter(|file| file.pid == self.pid);
        if file.is_some() {
            self.listed.store(true, Ordering::Relaxed);
        }
        Ok(file.map(|file| file.status))
    }

    /// Its pid file has been seen. If it is gone now, the server has shut down, all but the exit of the process.
    pub(crate) fn was_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// Has not exited. A process that exited but was not yet waited for is not alive.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }

    /// Completes within milliseconds of its exit.
    pub async fn exited(&self) {
        while self.is_alive() {
            // Readable exactly when the process has exited. An error can only come from the runtime's end.
            if let Ok(mut guard) = self.pidfd.readable().await
                && self.is_alive()
            {
                guard.clear_ready();
            }
        }
    }

    /// Sends a signal. A process that is gone already is no error.
    ///
    /// # Errors
    /// Not permitted.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => {
                Err(Error::Unexpected(format!("Could not send stop signal to PostgreSQL (pid={}): {e}", self.pid)))
            }
        }
    }
}

impl PidFile {
    fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join("postmaster.pid");
        match fs::read(&path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => Ok(None),
            Err(e) => Err(Error::file("read", path, e)),
        }
    }

    /// Lines: pid, data directory, start, port, socket directory, listen address, shared memory key, status.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|p| *p != 0)?;
        let start_time = lines.nth(1).and_then(|l| l.trim().parse().ok()).filter(|t| *t != 0);
        let shared_memory = lines.nth(3).and_then(|l| l.split_whitespace().nth(1)?.parse().ok());
        let status = match lines.next().map(str::trim) {
            Some("ready") => PidFileStatus::Ready,
            Some("standby") => PidFileStatus::Standby,
            Some("stopping") => PidFileStatus::Stopping,
            Some(_) | None => PidFileStatus::Starting,
        };
        Some(PidFile { pid, start_time, shared_memory, status })
    }
}

/// How many processes are attached to a segment, by the table of the kernel: key, id, permissions, size, creator, last, number, ...
fn attached(table: &str, id: u64) -> u64 {
    let rows = table.lines().map(|line| line.split_whitespace().map(|field| field.parse::<u64>().ok()).collect());
    let row = rows.into_iter().find(|row: &Vec<Option<u64>>| row.get(1) == Some(&Some(id)));
    row.and_then(|row| row.get(6).copied().flatten()).unwrap_or(0)
}

fn is_postmaster(pid: i32, data_dir: &Path, start_time: Option<i64>) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    if pid == i32::try_from(std::process::id()).unwrap_or(0) {
        return false;
    }
    let inode = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    if let (Ok(cwd), Ok(wanted), Ok(exe)) =
        (inode(&process.join("cwd")), inode(data_dir), fs::read_link(process.join("exe")))
    {
        let name = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return cwd == wanted && name.contains("postgres");
    }
    match (start_time, process_start(pid)) {
        (Some(wanted), Some(real)) => (wanted - real).abs() <= START_TOLERANCE,
        (None, _) | (_, None) => true,
    }
}

/// When a process started, in seconds since 1970: from its age in clock ticks since boot.
fn process_start(pid: i32) -> Option<i64> {
    let ticks = Stat::of(pid)?.start;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = boot.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + i64::try_from(ticks / rustix::param::clock_ticks_per_second()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_who_is_attached() {
        let table = "key shmid perms size cpid lpid nattch uid\n  10047569 196608 600 56 27627 27627 0 101\n 7 65536 600 56 1 2 5 101\n";
        assert_eq!([65_536, 196_608, 7].map(|id| attached(table, id)), [5, 0, 0]);
    }

    /// PostgreSQL takes the process for alive, and neither a server nor single-user mode starts beside it.
    #[tokio::test]
    async fn a_postmaster_that_died_and_was_not_waited_for_is_left() {
        let data_dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        fs::write(data_dir.path().join("postmaster.pid"), format!("{pid}\n/data\n")).unwrap();
        Postmaster::open(pid).unwrap().unwrap().exited().await;
        assert!(Postmaster::left_processes(data_dir.path()));
        child.wait().unwrap();
        assert!(!Postmaster::left_processes(data_dir.path()));
    }

    #[test]
    fn pid_files_are_read_line_by_line() {
        let full = "123\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001 3\nready   \n";
        let (start_time, shared_memory) = (Some(1_700_000_000), Some(3));
        let expected = PidFile { pid: 123, start_time, shared_memory, status: PidFileStatus::Ready };
        assert_eq!(PidFile::parse(full), Some(expected));
        let short = PidFile { pid: 123, start_time: None, shared_memory: None, status: PidFileStatus::Starting };
        assert_eq!(PidFile::parse("123\n/data\n"), Some(short));
        assert_eq!(PidFile::parse("-7\n").map(|f| f.pid), Some(-7));
        for garbage in ["", "\n", "x\n", "0\n"] {
            assert_eq!(PidFile::parse(garbage), None, "{garbage:?}");
        }
    }
}
