//! PostgreSQL's own words for a start that failed, from its log: the file of its logging collector, or the output of the agent, where that
//! goes to a file.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// So much of a log is looked through, in bytes.
const LIMIT: u64 = 1 << 20;

/// How far the logs were at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark(Vec<(PathBuf, u64)>);

impl Mark {
    /// Now. Blocks.
    pub(crate) fn now(data_dir: &Path) -> Self {
        let length = |path: PathBuf| fs::metadata(&path).ok().map(|file| (path, file.len()));
        Mark(logs(data_dir).into_iter().filter_map(length).collect())
    }

    /// The first line since then that says why the postmaster ended. Blocks.
    pub(crate) fn reason(&self, data_dir: &Path) -> Option<String> {
        let mut reasons = logs(data_dir).into_iter().filter_map(|path| {
            let from = self.0.iter().find(|(known, _)| *known == path).map_or(0, |(_, length)| *length);
            reason_in(&read_from(&path, from)?)
        });
        reasons.next()
    }
}

/// Regular files that may be written to.
fn logs(data_dir: &Path) -> Vec<PathBuf> {
    let current = fs::read_to_string(data_dir.join("current_logfiles")).unwrap_or_default();
    let collected = current.lines().filter_map(|line| line.strip_prefix("stderr ")).map(|path| data_dir.join(path));
    let output = fs::read_link("/proc/self/fd/2").ok();
    collected.chain(output).filter(|path| fs::metadata(path).is_ok_and(|file| file.is_file())).collect()
}

fn read_from(path: &Path, from: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    // A file that is shorter now was begun anew.
    let from = if from > end { 0 } else { from }.max(end.saturating_sub(LIMIT));
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// `FATAL:  could not create lock file ...`, with the hint that follows. Sessions that are turned away meanwhile are not meant.
fn reason_in(text: &str) -> Option<String> {
    let severity = |line: &str| ["PANIC:  ", "FATAL:  "].iter().find_map(|word| line.find(word));
    let mut lines =
        text.lines().skip_while(|line| severity(line).is_none() || line.contains("the database system is "));
    let first = lines.next()?;
    let mut reason = first[severity(first)?..].trim_end().to_owned();
    for line in lines.take_while(|line| ["DETAIL:  ", "HINT:  "].iter().any(|word| line.contains(word))) {
        let words = ["DETAIL:  ", "HINT:  "].iter().find_map(|word| Some(&line[line.find(word)?..]));
        reason.push_str(&format!(" {}", words.unwrap_or_default().trim_end()));
    }
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fatal_line_after_the_start_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path();
        let log = data_dir.join("log.txt");
        fs::write(data_dir.join("current_logfiles"), "stderr log.txt\ncsvlog log.csv\n").expect("a file");
        fs::write(&log, "2026 [1] FATAL:  an old trouble\n").expect("a file");
        let mark = Mark::now(data_dir);
        let append = |text: &str| {
            let old = fs::read_to_string(&log).expect("the log");
            fs::write(&log, old + text).expect("the log");
        };
        append("2026 [2] LOG:  starting\n2026 [3] FATAL:  the database system is starting up\n");
        assert_eq!(mark.reason(data_dir), None);
        append(
            "2026 [2] FATAL:  could not map anonymous shared memory: Cannot allocate memory\n2026 [2] HINT:  Less.\n",
        );
        append("2026 [2] LOG:  database system is shut down\n2026 [9] PANIC:  another\n");
        let reason = "FATAL:  could not map anonymous shared memory: Cannot allocate memory HINT:  Less.";
        assert_eq!(mark.reason(data_dir).as_deref(), Some(reason));
        fs::write(&log, "PANIC:  begun anew\n").expect("the log");
        assert_eq!(mark.reason(data_dir).as_deref(), Some("PANIC:  begun anew"));
    }
}
