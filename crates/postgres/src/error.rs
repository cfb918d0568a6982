//! What can go wrong between the agent and its server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use patroni_core::units::in_words;

/// An operation on the server failed. The text says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Taken back on request.
    #[error("cancelled")]
    Cancelled,
    /// A program could not be started.
    #[error("cannot execute {program}: {source}; check postgresql.bin_dir, PATH, and the permissions of the file")]
    Spawn {
        /// The program, as configured.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} exited with {status}{}", tail(.stderr))]
    Program {
        /// The program, as configured.
        program: String,
        /// How it ended: `code=1`, `signal 9`.
        status: String,
        /// The end of what it wrote to its standard error.
        stderr: String,
    },
    /// Something took too long.
    #[error("{what} did not finish within {}", in_words(*.limit))]
    Timeout {
        /// What.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// `read`, `write`, `remove`, ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A connection to PostgreSQL could not be made, broke, or a statement failed.
    #[error("{0}")]
    Sql(#[from] crate::sql::SqlError),
    /// Not done because a postmaster runs on the data directory.
    #[error("postmaster pid={pid} runs on data directory {}; stop it first", .data_dir.display())]
    PostmasterRuns {
        /// Its process.
        pid: i32,
        /// Where.
        data_dir: PathBuf,
    },
    /// Something in the configuration cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// PostgreSQL did not start.
    #[error("PostgreSQL did not start: {0}")]
    StartFailed(String),
    /// Output of a program, or content of a file, that is not as expected.
    #[error("{0}")]
    Unexpected(String),
}

impl Error {
    /// An [`Error::File`].
    pub fn file(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::File { action, path: path.as_ref().to_owned(), source }
    }
}

fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
