//! A temporary directory and everything that runs in it: owned by the user of PostgreSQL, swept on drop.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::wait::{Limit, wait_for};

/// A temporary directory; dropping it kills all processes which run in it or name it on their command line.
#[derive(Debug)]
pub struct Sandbox {
    directory: TempDir,
    owner: Option<(u32, u32)>,
}

impl Sandbox {
    /// A new one, owned by user `postgres` when we are root.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pt").tempdir().unwrap();
        let owner = geteuid().is_root().then(postgres_ids);
        let sandbox = Sandbox { directory, owner };
        sandbox.give(sandbox.path());
        std::fs::set_permissions(sandbox.path(), Permissions::from_mode(0o755)).unwrap();
        sandbox
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the user of PostgreSQL the owner of `path`.
    pub fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.owner {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A new directory below this one.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        self.give(&path);
        path
    }

    /// Writes a file which the user of PostgreSQL owns, with mode 0600, or 0755 for a script.
    pub fn file(&self, path: impl AsRef<Path>, text: &str) -> PathBuf {
        let path = self.path().join(path);
        std::fs::write(&path, text).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o600 };
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        self.give(&path);
        path
    }

    /// A command that runs as the user of PostgreSQL in this directory and dies with the thread that started it.
    /// The process is the program itself: signals sent to its PID reach it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if let Some((uid, gid)) = self.owner {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]).arg("--clear-groups");
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.current_dir(self.path()).env("HOME", self.path()).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    fn processes(&self) -> Vec<Pid> {
        let inside = self.path().to_str().unwrap();
        let names_us = |process: &Path| {
            let directory = std::fs::read_link(process.join("cwd")).unwrap_or_default();
            let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
            directory.starts_with(inside) || String::from_utf8_lossy(&command).contains(&format!("{inside}/"))
        };
        let own = std::process::id();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<i32>().ok()?, entry.path())))
            .filter(|(pid, path)| *pid != own.cast_signed() && names_us(path) && !is_zombie(path))
            .filter_map(|(pid, _)| Pid::from_raw(pid))
            .collect()
    }

    /// Kills what is left of the cluster, until nothing is.
    pub fn sweep(&self) {
        wait_for("the end of all processes of this cluster", Limit(20), || {
            let left = self.processes();
            for pid in &left {
                _ = kill_process(*pid, Signal::KILL);
            }
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A second panic while unwinding would abort the process and hide the first.
        if std::thread::panicking() {
            for _ in 0..20 {
                for pid in self.processes() {
                    _ = kill_process(pid, Signal::KILL);
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            if std::env::var_os("PATRONI_TEST_KEEP").is_some() {
                self.directory.disable_cleanup(true);
                eprintln!("logs and data of the failed test are in {}", self.path().display());
            }
        } else {
            self.sweep();
        }
        if let Some((uid, _)) = self.owner {
            remove_left_segments(uid);
        }
    }
}

/// Servers that were killed leave a segment of System V shared memory behind, and a machine has only 4096 of them. One that nobody
/// is in and whose creator is gone belongs to nobody: a server that is started again makes its own.
fn remove_left_segments(owner: u32) {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let left = table.lines().filter_map(|line| {
        let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let [_, id, _, _, creator, _, attached, uid, ..] = fields[..] else { return None };
        let gone = !Path::new("/proc").join(creator.to_string()).exists();
        (attached == 0 && gone && uid == u64::from(owner)).then_some(id)
    });
    for id in left {
        // Another test may have been faster.
        _ = Command::new("ipcrm").args(["-m", &id.to_string()]).stderr(Stdio::null()).status();
    }
}

fn is_zombie(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

fn postgres_ids() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.expect("no user postgres: apt-get install postgresql").split(':').skip(2);
    (fields.next().unwrap().parse().unwrap(), fields.next().unwrap().parse().unwrap())
}

/// Sends a signal; a process which is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a process has a positive number"), signal);
}

/// Whether a process with this number runs (a zombie does not).
pub fn process_exists(pid: u32) -> bool {
    let path = PathBuf::from(format!("/proc/{pid}"));
    path.exists() && !is_zombie(&path)
}
