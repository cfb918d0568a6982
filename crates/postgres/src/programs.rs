//! Programs of PostgreSQL and scripts of the user: where they are, how they run, how they are ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::cancel::Cancel;
use crate::{Error, Result};

/// Time between the request to end and the kill.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// How long pipes are still read after a program ended.
const PIPE_GRACE: Duration = Duration::from_millis(200);

/// How much of a program's standard error is kept for the error text, in bytes.
const STDERR_KEPT: usize = 4096;

/// How much standard output is kept, in bytes.
const STDOUT_KEPT: u64 = 16 << 20;

/// Where the programs of PostgreSQL are.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    bin_dir: Option<PathBuf>,
    names: BTreeMap<String, String>,
}

impl Programs {
    /// With `postgresql.bin_dir` and `postgresql.bin_name`.
    pub fn new(bin_dir: Option<PathBuf>, names: BTreeMap<String, String>) -> Self {
        Programs { bin_dir, names }
    }

    /// The path of a program (`postgres`, `pg_rewind`, ...); only its name where PATH is to be searched.
    pub fn path(&self, program: &str) -> PathBuf {
        let name = self.names.get(program).map_or(program, String::as_str);
        self.bin_dir.as_deref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }

    /// A command that runs a program.
    pub fn command(&self, program: &str) -> Command {
        command_for(self.path(program))
    }

    /// `server_version_num` of the installed server, without its minor version.
    ///
    /// # Errors
    /// `postgres --version` cannot be run, or prints something else.
    pub async fn server_version(&self, cancel: &Cancel) -> Result<u32> {
        let mut command = self.command("postgres");
        command.arg("--version");
        let output = self.capture(command, cancel, Some(Duration::from_secs(10))).await?.success()?;
        let number = output.stdout.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        let major = number.and_then(|n| n.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
        let unknown = || Error::Unexpected(format!("postgres --version printed {:?}", output.stdout));
        Ok(major.ok_or_else(unknown)? * 10_000)
    }

    /// Runs a command and keeps what it writes. See [`run`].
    ///
    /// # Errors
    /// As [`run`].
    pub async fn capture(&self, command: Command, cancel: &Cancel, limit: Option<Duration>) -> Result<Output> {
        run(command, None, Stderr::Keep, cancel, limit).await
    }
}

/// How a command ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// The program.
    pub program: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// The last lines of its standard error.
    pub stderr: String,
}

impl Output {
    /// The output, if the command ended well.
    ///
    /// # Errors
    /// [`Error::Program`] if it did not.
    pub fn success(self) -> Result<Output> {
        if self.status.success() {
            return Ok(self);
        }
        Err(Error::Program { program: self.program, status: describe(self.status), stderr: self.stderr })
    }
}

/// `code=1` or `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code={code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// What happens to lines on the standard error.
#[derive(Clone, Copy)]
pub enum Stderr<'a> {
    /// Written to the log as they come, and kept.
    Log,
    /// Kept only.
    Keep,
    /// Shown to this function; those that it does not want are logged and kept.
    Watch(&'a (dyn Fn(&str) -> bool + Sync)),
}

/// A command as the user wrote it, split into words as a shell does, without being run by one.
///
/// # Errors
/// A quotation that does not end, or nothing at all.
pub fn split(command: &str) -> Result<Vec<String>> {
    match shlex::split(command) {
        Some(words) if !words.is_empty() => Ok(words),
        _ => Err(Error::Configuration(format!("cannot split command {command:?}: empty, or a quotation does not end"))),
    }
}

/// A command for any program that the agent starts. What is told to systemd is the agent's own business: PostgreSQL, which
/// would say there that it is ready and that it stops, and scripts do not inherit its socket.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn command_for(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    command
}

/// A command with arguments from its words.
pub fn command_of(words: &[String]) -> Command {
    let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut command = command_for(program);
    command.args(arguments);
    command
}

/// Runs a command to its end in a process group of its own. `stdin` is written to it and closed. When `cancel` fires or `limit` passes,
/// the group gets SIGTERM, and SIGKILL ten seconds later; when this future is dropped, SIGKILL at once.
///
/// # Errors
/// [`Error::Spawn`], [`Error::Cancelled`], [`Error::Timeout`]. A program that ends with an error is not one here: see
/// [`Output::success`].
pub async fn run(
    command: Command,
    stdin: Option<&str>,
    stderr: Stderr<'_>,
    cancel: &Cancel,
    limit: Option<Duration>,
) -> Result<Output> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let how = How { stdin, stderr, limit, is_ended: true, started: &|_| {} };
    drive(command, program, how, cancel).await
}

/// The same without a limit; `started` is told the process.
///
/// # Errors
/// As [`run`].
pub(crate) async fn run_known(
    command: Command,
    stdin: Option<&str>,
    stderr: Stderr<'_>,
    cancel: &Cancel,
    started: &(dyn Fn(i32) + Sync),
) -> Result<Output> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    drive(command, program, How { stdin, stderr, limit: None, is_ended: true, started }, cancel).await
}

/// The same for a program that must not be interrupted: it goes on when `cancel` fires, and when the agent ends, and its pipes with it.
///
/// # Errors
/// As [`run`].
pub async fn run_to_its_end(command: Command, stderr: Stderr<'_>, cancel: &Cancel) -> Result<Output> {
    let program = command.as_std().get_program().to_owned();
    let mut ignoring = command_for("sh");
    ignoring.args(["-c", "trap '' PIPE; exec \"$0\" \"$@\""]).arg(&program).args(command.as_std().get_args());
    for (name, value) in command.as_std().get_envs() {
        match value {
            Some(value) => ignoring.env(name, value),
            None => ignoring.env_remove(name),
        };
    }
    let how = How { stdin: None, stderr, limit: None, is_ended: false, started: &|_| {} };
    drive(ignoring, program.to_string_lossy().into_owned(), how, cancel).await
}

/// How a program is run.
struct How<'a> {
    stdin: Option<&'a str>,
    stderr: Stderr<'a>,
    limit: Option<Duration>,
    /// It ends when it is cancelled.
    is_ended: bool,
    /// Told its process number.
    started: &'a (dyn Fn(i32) + Sync),
}

async fn drive(mut command: Command, program: String, how: How<'_>, cancel: &Cancel) -> Result<Output> {
    let How { stdin, stderr, limit, is_ended, started } = how;
    cancel.check()?;
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(|source| Error::Spawn { program: program.clone(), source })?;
    let group = Group::of(&child);
    started(group.0.load(Ordering::Relaxed));
    if !is_ended {
        group.forget();
    }
    let (pipe_in, pipe_out, pipe_err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut stdout, mut kept) = (Vec::new(), String::new());
    let status = {
        let pipes = async {
            tokio::join!(
                write_all(pipe_in, stdin),
                read_all(pipe_out, &mut stdout),
                read_lines(pipe_err, &program, stderr, &mut kept)
            )
        };
        let work = async {
            let mut pipes = std::pin::pin!(pipes);
            let status = tokio::select! {
                status = child.wait() => status,
                _ = &mut pipes => return child.wait().await,
            };
            // Whatever it left in the background may hold the pipes open for ever.
            let _ = timeout(PIPE_GRACE, pipes).await;
            status
        };
        let mut work = std::pin::pin!(work);
        tokio::select! {
            status = &mut work => status.map_err(|source| Error::Spawn { program: program.clone(), source }),
            () = cancel.cancelled() => {
                if is_ended {
                    group.end(work).await;
                }
                Err(Error::Cancelled)
            }
            () = passed(limit) => {
                group.end(work).await;
                Err(Error::Timeout { what: program.clone(), limit: limit.unwrap_or_default() })
            }
        }
    }?;
    group.forget();
    Ok(Output { program, status, stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr: kept })
}

async fn write_all(pipe: Option<ChildStdin>, text: Option<&str>) {
    if let (Some(mut pipe), Some(text)) = (pipe, text) {
        // A program that ends without reading its input is judged by its exit status.
        let _ = pipe.write_all(text.as_bytes()).await;
    }
}

async fn passed(limit: Option<Duration>) {
    match limit {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn read_all(pipe: Option<ChildStdout>, bytes: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        // What came before an error is still worth having.
        let _ = pipe.take(STDOUT_KEPT).read_to_end(bytes).await;
    }
}

async fn read_lines(pipe: Option<ChildStderr>, program: &str, mode: Stderr<'_>, kept: &mut String) {
    let Some(pipe) = pipe else { return };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        match mode {
            Stderr::Watch(wanted) if wanted(&text) => continue,
            Stderr::Log | Stderr::Watch(_) => tracing::info!("{program}: {text}"),
            Stderr::Keep => {}
        }
        kept.push_str(&text);
        kept.push('\n');
        if kept.len() > 2 * STDERR_KEPT {
            let least = kept.len() - STDERR_KEPT;
            let from = kept.char_indices().map(|(at, _)| at).find(|at| *at >= least);
            kept.drain(..from.unwrap_or(least));
        }
    }
}

/// A process group that is killed unless it ended by itself. Zero when there is none.
pub(crate) struct Group(AtomicI32);

impl Group {
    pub(crate) fn of(child: &Child) -> Self {
        Group(AtomicI32::new(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0)))
    }

    /// The leader has been waited for: its number may belong to somebody else now.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    async fn end<T>(&self, work: impl Future<Output = T>) {
        self.end_within(TERM_GRACE, work).await;
    }

    /// SIGTERM, then SIGKILL to whatever is left of the group: when `work` finished, or after `grace`.
    pub(crate) async fn end_within<T>(&self, grace: Duration, work: impl Future<Output = T>) {
        self.signal(Signal::TERM);
        let mut work = std::pin::pin!(work);
        if timeout(grace, &mut work).await.is_err() {
            self.signal(Signal::KILL);
            // Killed: it ends as soon as the kernel lets it.
            let _ = timeout(grace, work).await;
        }
        self.signal(Signal::KILL);
        self.forget();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.load(Ordering::Relaxed)) {
            // The only failure is that nobody is left.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
