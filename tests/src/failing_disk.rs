//! A file system on a disk that can fail.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;
use crate::wait::{Limit, wait_for};

/// A file system on a loop device whose image lies on a second one: what happens to the lower one is what a disk does, the upper one
/// belongs to a server. Needs neither device mapper nor other modules of the kernel. Taken away at the end.
#[derive(Debug)]
pub struct FailingDisk {
    lowest: PathBuf,
    below: PathBuf,
    image: PathBuf,
    mounted: PathBuf,
}

impl FailingDisk {
    /// `None`, with a line that says so, where it cannot be made.
    pub fn new(sandbox: &Sandbox, name: &str) -> Option<Self> {
        let below = sandbox.directory(&format!("{name}.below"));
        let lowest = sandbox.path().join(format!("{name}.image"));
        let disk = FailingDisk { lowest, image: below.join("image"), mounted: sandbox.directory(name), below };
        let made = format(&disk.lowest, 1 << 30) && disk.make(sandbox) && disk.freeze() && disk.thaw();
        if !made {
            eprintln!("skipped: file systems cannot be mounted and frozen here");
        }
        made.then_some(disk)
    }

    fn make(&self, sandbox: &Sandbox) -> bool {
        let made = mount(&self.lowest, &self.below) && format(&self.image, 900 << 20) && self.mount_again();
        if made {
            sandbox.give(&self.mounted);
        }
        made
    }

    /// Where the file system is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Freezes the file system: writes wait, what is read is read.
    pub fn freeze(&self) -> bool {
        run("fsfreeze", &[Path::new("--freeze"), &self.mounted])
    }

    /// The end of [`FailingDisk::freeze`].
    pub fn thaw(&self) -> bool {
        run("fsfreeze", &[Path::new("--unfreeze"), &self.mounted])
    }

    /// The file system becomes read-only, as the kernel makes one in which it has found an error. What was written before is there.
    pub fn make_read_only(&self) -> bool {
        run("sync", &[Path::new("-f"), &self.mounted])
            && run("mount", &[Path::new("-o"), Path::new("remount,abort"), &self.mounted])
    }

    /// The disk answers every request with an error. What was on it is lost.
    pub fn fail(&self) -> bool {
        File::options().write(true).open(&self.image).is_ok_and(|image| image.set_len(0).is_ok())
            && run("mount", &[Path::new("-o"), Path::new("remount,abort"), &self.below])
    }

    /// Takes the file system away from under whoever uses it: they go on in it, and nobody else finds it.
    pub fn unmount(&self) -> bool {
        run("umount", &[Path::new("-l"), &self.mounted])
    }

    /// The end of [`FailingDisk::make_read_only`]: the file system is mounted anew, once nobody uses it.
    pub fn repair(&self) {
        wait_for("the file system is unmounted", Limit(20), || {
            run("umount", &[&self.mounted]).then_some(()).ok_or("it is in use")
        });
        assert!(self.mount_again());
    }

    /// The end of [`FailingDisk::unmount`].
    pub fn mount_again(&self) -> bool {
        mount(&self.image, &self.mounted)
    }

    /// Another disk, with an empty file system, in the place of one that failed.
    pub fn replace(&self, sandbox: &Sandbox) -> bool {
        self.unmount() && run("umount", &[Path::new("-l"), &self.below]) && self.make(sandbox)
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Processes of the server may still be leaving; a file system that is frozen keeps them.
        self.thaw();
        while self.unmount() {}
        run("umount", &[Path::new("-l"), &self.below]);
    }
}

fn format(image: &Path, size: u64) -> bool {
    File::create(image).is_ok_and(|file| file.set_len(size).is_ok())
        && run("mkfs.ext4", &[Path::new("-q"), Path::new("-E"), Path::new("lazy_itable_init=1"), image])
}

fn mount(image: &Path, to: &Path) -> bool {
    run("mount", &[Path::new("-o"), Path::new("loop"), image, to])
}

fn run(program: &str, arguments: &[&Path]) -> bool {
    Command::new(program).args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
