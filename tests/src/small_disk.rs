//! File systems that are too small.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox::Sandbox;

/// A small file system in memory, below the directory of a test; it is taken away at the end.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of this size (`12m`). `None`, with a line that says so, for users who cannot mount one.
    pub fn new(sandbox: &Sandbox, name: &str, size: &str) -> Option<Self> {
        let disk = SmallDisk(sandbox.directory(name));
        if !disk.mount(&format!("size={size}")) {
            eprintln!("skipped: a small file system can only be mounted by root");
            return None;
        }
        sandbox.give(&disk.0);
        Some(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it larger: `500m`.
    pub fn grow(&self, size: &str) {
        assert!(self.mount(&format!("remount,size={size}")));
    }

    fn mount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&self.0).status().is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes that still use it keep it until they end.
        let ended = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
