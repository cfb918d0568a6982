//! Connections to PostgreSQL, and how they are described.

mod conninfo;
mod tls;

use std::time::Duration;

use patroni_core::units::in_words;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage};

pub use conninfo::Conninfo;
use conninfo::Target;

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection that is no longer used may take to end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Server settings of the agent's connections: no statement is worth waiting for longer.
pub const DEFAULT_OPTIONS: &str = "-c statement_timeout=2000 -c pg_stat_statements.track=none";

/// Server settings for statements that take their time, such as CHECKPOINT.
pub const UNLIMITED: &str = "-c statement_timeout=0";

/// A connection to PostgreSQL. Statements are sent as they are (simple protocol): values that come from outside go through
/// [`quote_literal`] and [`quote_identifier`].
#[derive(Debug)]
pub struct Connection {
    client: Client,
    server_version: u32,
    /// Closed with this: what is left of the connection then has a moment to say goodbye.
    _open: oneshot::Sender<()>,
}

/// A row: its columns as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Vec<Option<String>>);

impl Row {
    /// The text of a column; `None` for NULL, and where there is no such column.
    pub fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// A column as a number or whatever else reads from text; `None` for NULL and what does not read.
    pub fn parse<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.get(column)?.parse().ok()
    }

    /// A boolean column; false for NULL.
    pub fn flag(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }
}

impl Connection {
    /// Connects. `options` are server settings such as [`DEFAULT_OPTIONS`].
    ///
    /// # Errors
    /// No connection within [`CONNECT_TIMEOUT`], or what the server says.
    pub async fn open(conninfo: &Conninfo, application_name: &str, options: &str) -> Result<Self, SqlError> {
        let target = conninfo.target(application_name, options)?;
        match timeout(CONNECT_TIMEOUT, Self::connect(&target)).await {
            Ok(result) => result,
            Err(_) => Err(SqlError::timeout(format!("connection to {}", target.address), CONNECT_TIMEOUT)),
        }
    }

    async fn connect(target: &Target) -> Result<Self, SqlError> {
        match Self::connect_once(target).await {
            Err(error) if target.may_retry_plain() && error.may_be_due_to_tls() => {
                Self::connect_once(&target.plain()).await.map_err(|_| error)
            }
            other => other,
        }
    }

    async fn connect_once(target: &Target) -> Result<Self, SqlError> {
        let failed = |error| SqlError::of(format!("connection to {}", target.address), &error);
        let (client, connection) = target.config.connect(target.tls.clone()).await.map_err(failed)?;
        let version = connection.parameter("server_version").map(parse_version).unwrap_or_default();
        let (open, closed) = oneshot::channel();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                // Whoever uses the connection sees the error too.
                Err(error) = &mut connection => tracing::debug!("connection to PostgreSQL ended: {error}"),
                // A hung server never lets go by itself.
                _ = closed => { let _ = timeout(GOODBYE, connection).await; }
            }
        });
        Ok(Connection { client, server_version: version, _open: open })
    }

    /// `server_version_num`
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs statements and returns the rows of all of them. Without a deadline of its own beyond `statement_timeout`: a
    /// hung server needs a limit around this.
    ///
    /// # Errors
    /// The server's error, or the loss of the connection.
    pub async fn query(&self, sql: &str) -> Result<Vec<Row>, SqlError> {
        let messages = self.client.simple_query(sql).await.map_err(|error| SqlError::of("query".into(), &error))?;
        Ok(messages.iter().filter_map(row).collect())
    }

    /// As [`Connection::query`], with a limit.
    ///
    /// # Errors
    /// As there, and when the limit passed.
    pub async fn query_within(&self, sql: &str, limit: Duration) -> Result<Vec<Row>, SqlError> {
        match timeout(limit, self.query(sql)).await {
            Ok(result) => result,
            Err(_) => Err(SqlError::timeout("query".into(), limit)),
        }
    }
}

fn row(message: &SimpleQueryMessage) -> Option<Row> {
    match message {
        SimpleQueryMessage::Row(row) => Some(Row((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())),
        // Ends of commands and descriptions of rows; the enum is open.
        _ => None,
    }
}

/// `15.14 (Debian 15.14-0+deb12u1)`, `18beta1` to `server_version_num`.
fn parse_version(text: &str) -> u32 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0u32));
    let major = numbers.next().unwrap_or(0);
    let minor = if text.split_whitespace().next().is_some_and(|v| v.contains('.')) { numbers.next() } else { None };
    major * 10_000 + minor.unwrap_or(0)
}

/// A literal of SQL.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// An identifier of SQL, always quoted.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A connection could not be made or broke, or a statement failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct SqlError {
    what: String,
    message: String,
    code: Option<String>,
    timed_out: bool,
}

impl SqlError {
    fn of(what: String, error: &tokio_postgres::Error) -> Self {
        let (message, code) = match error.as_db_error() {
            Some(db) => (format!("{}: {}", db.severity(), db.message()), Some(db.code().code().to_owned())),
            None => (chain(error), None),
        };
        SqlError { what, message, code, timed_out: false }
    }

    pub(crate) fn timeout(what: String, limit: Duration) -> Self {
        SqlError { what, message: format!("no answer within {}", in_words(limit)), code: None, timed_out: true }
    }

    pub(crate) fn other(what: impl Into<String>, message: impl Into<String>) -> Self {
        SqlError { what: what.into(), message: message.into(), code: None, timed_out: false }
    }

    /// The SQLSTATE, where the server answered.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// There was no answer in time.
    pub fn is_timeout(&self) -> bool {
        self.timed_out
    }

    /// The server is there but does not take connections now (`cannot_connect_now`): it starts, stops, or recovers.
    pub fn is_cannot_connect_now(&self) -> bool {
        self.code() == Some("57P03")
    }

    /// The server does not let this user in, or not read that, or wants a password that there is none of.
    pub fn is_refusal(&self) -> bool {
        let refuses = |code: &str| code.starts_with("28") || code == "42501";
        self.code().is_some_and(refuses) || self.message.contains("password missing")
    }

    /// Another user, password, certificate or address may be let in.
    pub(crate) fn may_be_due_to_address(&self) -> bool {
        let refuses_everybody = |code: &str| code.starts_with("57P") || code == "53300";
        !self.timed_out && !self.code().is_some_and(refuses_everybody)
    }

    fn may_be_due_to_tls(&self) -> bool {
        !self.timed_out && !matches!(self.code(), Some("57P03" | "28P01" | "53300"))
    }
}

/// The texts of an error and of its causes, without those that repeat.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_servers_read_as_numbers() {
        for (text, number) in [("15.14 (Debian 15.14-0+deb12u1)", 150_014), ("18beta1", 180_000), ("13.22", 130_022)] {
            assert_eq!(parse_version(text), number, "{text}");
        }
    }

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
    }
}
