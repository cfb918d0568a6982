//! Programs that an agent which was killed left at work on the data directory.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{Unfinished, boot};
use crate::cancel::{Cancel, Progress};
use crate::postmaster::Postmaster;
use crate::processes::{Stat, group, numbers};
use crate::programs::Programs;
use crate::{Error, Result, blocking};

/// How long a program of the agent's former life may take to end, asked to and then killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How often the processes of a group are looked at until they are gone.
const POLL: Duration = Duration::from_millis(20);

/// The first process of a process group, so that it is not mistaken for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    pid: i32,
    /// When it started, in clock ticks since boot.
    start: u64,
    /// The boot of the machine.
    boot: String,
}

impl Program {
    /// `None`: it is gone.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Program { pid, start: Stat::of(pid)?.start, boot: boot() })
    }

    /// It is there, and no other process that got its number.
    fn is_there(&self) -> bool {
        self.pid > 0 && Self::of(self.pid).is_some_and(|found| found == *self)
    }

    /// Ends its whole group. One whose first process is gone is left alone: whose it is cannot be known any more.
    async fn end(&self, data_dir: &Path) {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_there()) else { return };
        let number = self.pid;
        let path = data_dir.display();
        tracing::warn!("a program of an earlier run is still at work on {path}: ending process group {number}");
        for signal in [Signal::TERM, Signal::KILL] {
            // The only failure is that nobody is left.
            let _ = kill_process_group(pid, signal);
            let end = Instant::now() + END_LIMIT;
            while Instant::now() < end {
                if group(number).is_empty() {
                    return;
                }
                sleep(POLL).await;
            }
        }
        tracing::error!("processes of group {number} do not end");
    }
}

/// Ends a copy that an agent which was killed left behind, still at work on the data directory. pg_rewind is left to its work: it
/// cannot be repeated once it has removed the WAL that it goes by.
pub async fn end_leftover_copy(programs: &Programs, data_dir: &Path) {
    let copies: Vec<_> = all(data_dir).await.into_iter().filter_map(Unfinished::into_copy).collect();
    if copies.is_empty() {
        return;
    }
    // The same in all marks, unless one is older.
    for program in copies.into_iter().filter_map(|copy| copy.program) {
        program.end(data_dir).await;
    }
    end(&at_work(vec![programs.path("pg_basebackup")], data_dir).await, data_dir).await;
}

/// Ends everything of the kind, before the data directory is removed.
pub async fn end_leftovers(programs: &Programs, data_dir: &Path) {
    if all(data_dir).await.is_empty() {
        return;
    }
    end_leftover_copy(programs, data_dir).await;
    let programs = ["pg_basebackup", "pg_rewind"].map(|name| programs.path(name));
    end(&at_work(programs.into(), data_dir).await, data_dir).await;
}

/// Waits for pg_rewind that an agent which was killed left behind. True: there was one.
///
/// # Errors
/// Cancelled.
pub async fn wait_for_rewind(
    programs: &Programs,
    data_dir: &Path,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<bool> {
    let left = at_work(vec![programs.path("pg_rewind")], data_dir).await;
    for process in &left {
        progress.commit(cancel, "waiting for pg_rewind of an earlier run")?;
        tracing::info!("pg_rewind of an earlier run is still at work: waiting for process {}", process.pid());
        tokio::select! {
            () = process.exited() => {}
            () = cancel.cancelled() => return Err(Error::Cancelled),
        }
    }
    Ok(!left.is_empty())
}

async fn end(processes: &[Postmaster], data_dir: &Path) {
    for process in processes {
        let pid = process.pid();
        tracing::warn!("a program of an earlier run is still at work on {}: ending process {pid}", data_dir.display());
        if process.signal(Signal::KILL).is_err() || timeout(END_LIMIT, process.exited()).await.is_err() {
            tracing::error!("process {pid} does not end");
        }
    }
}

/// All marks; none where the disk does not say.
async fn all(data_dir: &Path) -> Vec<Unfinished> {
    blocking::at(data_dir, |data_dir| Ok(Unfinished::all(data_dir))).await.unwrap_or_else(|error| {
        tracing::error!("whether something is still at work on a data directory is not known: {error}");
        Vec::new()
    })
}

/// Processes that run one of these programs with the data directory as an argument.
async fn at_work(programs: Vec<PathBuf>, data_dir: &Path) -> Vec<Postmaster> {
    let wanted = data_dir.to_string_lossy().into_owned();
    let search = blocking::within(blocking::LIMIT, "looking through processes", move || {
        let is_one = |pid: &i32| is_at_work(*pid, &programs, &wanted);
        Ok(numbers().filter(is_one).filter_map(|pid| Postmaster::open(pid).ok().flatten()).collect())
    });
    search.await.unwrap_or_else(|error| {
        tracing::error!("programs of an earlier run may still be at work: {error}");
        Vec::new()
    })
}

fn is_at_work(pid: i32, programs: &[PathBuf], data_dir: &str) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    let words: Vec<&str> = command.split('\0').collect();
    // The second word, where the program is a script.
    let is_program = |word: &&str| programs.iter().any(|path| path.file_name() == Path::new(word).file_name());
    words.iter().take(2).any(is_program)
        && words.iter().any(|word| word.strip_prefix("--pgdata=").unwrap_or(word) == data_dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;
    use crate::unfinished::{CopyMark, Places, write};

    fn mark(data_dir: &Path, program: Program) {
        let mark = Unfinished::Clone(CopyMark { directory: None, program: Some(program) });
        write(&Places::of(data_dir).beside, &mark.text()).unwrap();
    }

    #[tokio::test]
    async fn the_group_of_a_copy_is_ended_and_no_other_that_has_its_number() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = parent.path().join("data");
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 600 & sleep 600; true"])
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        while group(pid).len() < 3 {
            sleep(POLL).await;
        }
        let program = Program::of(pid).unwrap();
        let programs = Programs::default();
        let other = Program { start: program.start + 1, ..program.clone() };
        let before = Program { boot: "another".into(), ..program.clone() };
        for stranger in [other, before, Program { pid: 0, ..program.clone() }] {
            mark(&data_dir, stranger);
            end_leftover_copy(&programs, &data_dir).await;
            assert_eq!(group(pid).len(), 3);
        }
        mark(&data_dir, program.clone());
        end_leftover_copy(&programs, &data_dir).await;
        assert!(group(pid).is_empty());
        child.wait().unwrap();
        assert!(!program.is_there());
    }
}
