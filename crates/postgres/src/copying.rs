//! How far pg_basebackup, pg_rewind or a script that copies is: told to whoever watches the job, and to the log now and then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use patroni_core::job::{Copied, Stage};
use tokio::time::Instant;

use crate::cancel::Progress;

/// The pause between two lines in the log.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// A copy that is being made.
pub(crate) struct Copying<'a> {
    from: String,
    progress: &'a Progress,
    start: Instant,
    logged: Mutex<Instant>,
    began: AtomicBool,
}

impl<'a> Copying<'a> {
    pub(crate) fn new(from: &str, progress: &'a Progress) -> Self {
        let start = Instant::now();
        Copying { from: from.to_owned(), progress, start, logged: Mutex::new(start), began: AtomicBool::new(false) }
    }

    /// Takes a line that a program prints for `--progress`; false if it is another.
    pub(crate) fn take(&self, line: &str) -> bool {
        if line.contains("need to copy ") {
            self.began.store(true, Ordering::Relaxed);
        }
        let Some((bytes, total)) = parse(line) else { return false };
        self.report(bytes, total);
        true
    }

    /// So much is there.
    pub(crate) fn report(&self, bytes: u64, total: Option<u64>) {
        self.began.store(true, Ordering::Relaxed);
        let copied = Copied { from: self.from.clone(), bytes, total, took: self.start.elapsed() };
        if let Ok(mut logged) = self.logged.lock()
            && logged.elapsed() >= LOG_PAUSE
        {
            *logged = Instant::now();
            tracing::info!("{copied}");
        }
        self.progress.report(Stage::Copying(copied));
    }

    /// It has begun to write, as far as can be seen.
    pub(crate) fn began(&self) -> bool {
        self.began.load(Ordering::Relaxed)
    }
}

/// `  12345/67890 kB (18%), 0/1 tablespace`, `12345/67890 kB (18%) copied`; `12345 kB, 0/1 tablespace` with `--no-estimate-size`.
fn parse(line: &str) -> Option<(u64, Option<u64>)> {
    let (numbers, rest) = line.trim_start().split_once(" kB")?;
    if !rest.starts_with([' ', ',']) {
        return None;
    }
    let kilobytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    match numbers.split_once('/') {
        Some((done, total)) => Some((kilobytes(done)?, Some(kilobytes(total)?))),
        None => Some((kilobytes(numbers)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_both_programs_is_read() {
        for (line, expected) in [
            ("  12345/67890 kB (18%), 0/1 tablespace (...a/base/5/2840_vm)", Some((12345, Some(67890)))),
            ("67890/67890 kB (100%) copied", Some((67890, Some(67890)))),
            (" 12345 kB, 0/1 tablespace", Some((12345, None))),
            ("pg_rewind: need to copy 12 MB (total source directory size is 99 MB)", None),
            ("pg_rewind: error: could not fetch 3 kB", None),
            ("", None),
        ] {
            let expected = expected.map(|(done, total): (u64, Option<u64>)| (done * 1024, total.map(|t| t * 1024)));
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_copy_is_told_with_its_share_of_the_whole() {
        let (progress, stage) = Progress::new();
        let copying = Copying::new("a", &progress);
        assert!(!copying.take("pg_rewind: connected to server") && !copying.began());
        assert!(copying.take("51200/204800 kB (25%) copied") && copying.began());
        let shown = stage.borrow().clone();
        let Stage::Copying(copied) = shown else { panic!("{shown:?}") };
        assert_eq!(copied.to_string(), "copied 50 MB of 200 MB (25 %) from a, 50 MB/s");
    }
}
