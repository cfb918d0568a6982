//! The primary to rewind from.

use std::time::Duration;

use patroni_core::history::{Switch, parse_history};
use patroni_core::job::RewindSource;
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::SystemId;

use super::RewindContext;
use crate::conf::{primary_as_rewind_user, remote_address};
use crate::sql::{Connection, Conninfo, UNLIMITED};
use crate::{Error, Result};

/// A connection to the primary.
pub(super) struct Source {
    connection: Connection,
    name: String,
    user: String,
    limit: Duration,
}

/// The timeline of the primary and how it came about.
pub(super) struct PrimaryTimeline {
    pub(super) timeline: Timeline,
    /// Empty on timeline 1.
    pub(super) history: Vec<Switch>,
}

/// Something in the data directory of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// Within the data directory; tablespaces are below `pg_tblspc/OID`.
    pub(super) path: String,
    /// In bytes; `None` for a directory.
    pub(super) size: Option<u64>,
    /// Where a tablespace is.
    pub(super) location: Option<String>,
}

/// How pg_rewind, and this module, connect to the primary.
pub(super) fn conninfo(context: &RewindContext, source: &RewindSource) -> Result<Conninfo> {
    let mut conninfo = match source {
        RewindSource::Leader(member) => return primary_as_rewind_user(&context.options, member),
        RewindSource::Remote => {
            let section = context.standby_cluster.as_ref();
            section
                .and_then(|section| remote_address(section, false))
                .ok_or_else(|| Error::Configuration("standby_cluster names no host and no port".to_owned()))?
        }
    };
    if conninfo.get("dbname").is_none() {
        conninfo.set("dbname", &context.options.database);
    }
    conninfo.add_credentials(&context.options.rewind);
    conninfo.set("target_session_attrs", "read-write");
    Ok(conninfo)
}

impl Source {
    pub(super) async fn connect(context: &RewindContext, source: &RewindSource) -> Result<Self> {
        let conninfo = conninfo(context, source)?;
        let connection = Connection::open(&conninfo, context.options.name.as_str(), UNLIMITED).await?;
        let user = conninfo.get("user").unwrap_or_default().to_owned();
        let source = Source { connection, name: source.to_string(), user, limit: context.limit };
        source.check_system_id(context.system_id).await?;
        Ok(source)
    }

    async fn check_system_id(&self, expected: Option<SystemId>) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        let found = self.value("SELECT system_identifier FROM pg_catalog.pg_control_system()").await?;
        if found.as_deref() == Some(expected.to_string().as_str()) {
            return Ok(());
        }
        Err(Error::Unexpected(format!(
            "{} has system identifier {}, this node {expected}: it is no member of this cluster",
            self.name,
            found.unwrap_or_default()
        )))
    }

    async fn value(&self, sql: &str) -> Result<Option<String>> {
        let rows = self.connection.query_within(sql, self.limit).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    pub(super) async fn is_primary(&self) -> Result<bool> {
        Ok(self.value("SELECT NOT pg_catalog.pg_is_in_recovery()").await?.as_deref() == Some("t"))
    }

    /// Up to where its WAL is on disk: standbys have no more.
    pub(super) async fn position(&self) -> Result<Lsn> {
        let text = self.value("SELECT pg_catalog.pg_current_wal_flush_lsn()").await?;
        let unknown = || Error::Unexpected(format!("{} did not tell its position", self.name));
        text.and_then(|text| text.parse().ok()).ok_or_else(unknown)
    }

    /// In bytes.
    pub(super) async fn segment_size(&self) -> Result<u64> {
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'";
        let size = self.value(sql).await?.and_then(|text| text.parse().ok());
        let unknown = || Error::Unexpected(format!("{} did not tell the size of its WAL files", self.name));
        size.filter(|size| (1 << 20..=1 << 30).contains(size)).ok_or_else(unknown)
    }

    /// Part of a WAL file in hexadecimal; `None` where it has no such file.
    pub(super) async fn wal(&self, file: &str, from: u64, length: u64) -> Result<Option<String>> {
        let read = format!("pg_catalog.pg_read_binary_file('pg_wal/{file}', {from}, {length}, true)");
        self.value(&format!("SELECT pg_catalog.encode({read}, 'hex')")).await
    }

    /// All files and directories, by the functions that pg_rewind lists them with.
    pub(super) async fn files(&self, limit: Duration) -> Result<Vec<SourceFile>> {
        let sql = "WITH RECURSIVE tree AS ( \
                SELECT name AS path, (pg_catalog.pg_stat_file(name, true)).* \
                FROM pg_catalog.pg_ls_dir('.', true, false) AS name \
            UNION ALL \
                SELECT within.path, (pg_catalog.pg_stat_file(within.path, true)).* \
                FROM tree, LATERAL (SELECT tree.path || '/' || name AS path \
                    FROM pg_catalog.pg_ls_dir(tree.path, true, false) AS name) AS within \
                WHERE tree.isdir) \
            SELECT tree.path, CASE WHEN NOT tree.isdir THEN tree.size END, pg_catalog.pg_tablespace_location(spc.oid) \
            FROM tree LEFT JOIN pg_catalog.pg_tablespace AS spc ON tree.path = 'pg_tblspc/' || spc.oid::text \
            WHERE tree.isdir IS NOT NULL";
        let rows = self.connection.query_within(sql, limit).await?;
        let file = |path: &str, size, location: Option<&str>| SourceFile {
            path: path.to_owned(),
            size,
            location: location.map(str::to_owned),
        };
        Ok(rows.iter().filter_map(|row| Some(file(row.get(0)?, row.parse(1), row.get(2)))).collect())
    }

    /// It has this WAL file, be it on another timeline.
    pub(super) async fn has_segment(&self, file: &str) -> Result<bool> {
        let number = file.get(8..).unwrap_or_default();
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_ls_dir('pg_wal', true, false) AS file \
             WHERE pg_catalog.length(file) = 24 AND pg_catalog.substr(file, 9) = '{number}'"
        );
        Ok(self.value(&sql).await?.as_deref() != Some("0"))
    }

    /// Makes it write a record of WAL. pg_rewind takes the primary's insert position for the end of what has to be replayed;
    /// right after a switch of WAL files that lies behind a page header, where an idle primary writes nothing for
    /// minutes, and the rewound standby would not open until then.
    pub(super) async fn write_record(&self) -> Result<()> {
        self.value("SELECT pg_catalog.txid_current()").await.map(|_| ())
    }

    /// The timeline in which it writes, and its history file.
    pub(super) async fn timeline(&self) -> Result<PrimaryTimeline> {
        if !self.is_primary().await? {
            let text = "Leader is still in_recovery and therefore can't be used for rewind";
            return Err(Error::Unexpected(text.to_owned()));
        }
        let unreadable = || Error::Unexpected(format!("{} did not tell its timeline", self.name));
        let file = self.value("SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())").await?;
        let hex = file.as_deref().and_then(|name| name.get(..8)).ok_or_else(unreadable)?;
        let timeline = u32::from_str_radix(hex, 16).map(Timeline).map_err(|_| unreadable())?;
        if timeline.0 <= 1 {
            return Ok(PrimaryTimeline { timeline, history: Vec::new() });
        }
        let history = parse_history(&self.history_file(timeline).await?);
        // The last line tells where the present timeline began. Without it the file is not whole.
        if history.last().is_none_or(|switch| switch.timeline >= timeline) {
            return Err(Error::Unexpected(format!(
                "the history of timeline {timeline} on {} is not usable",
                self.name
            )));
        }
        Ok(PrimaryTimeline { timeline, history })
    }

    async fn history_file(&self, timeline: Timeline) -> Result<String> {
        let name = format!("{:08X}.history", timeline.0);
        let sql = format!(
            "SELECT pg_catalog.convert_from(pg_catalog.pg_read_binary_file('pg_wal/{name}', 0, 16777216, true), 'UTF8')"
        );
        match self.value(&sql).await {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(Error::Unexpected(format!("{} has no file pg_wal/{name}", self.name))),
            Err(Error::Sql(error)) if error.code() == Some("42501") => Err(Error::Configuration(format!(
                "user {} may not read pg_wal/{name} on {}; GRANT EXECUTE ON FUNCTION \
                 pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) to it, as pg_rewind needs",
                self.user, self.name
            ))),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that `pg_control` has the present timeline: with a checkpoint if the superuser is connected, otherwise by looking.
    pub(super) async fn ensure_checkpoint(&self, context: &RewindContext) -> Result<bool> {
        if context.options.superuser == context.options.rewind {
            // As long as it takes on a loaded server, within what the job allows.
            self.connection.query_within("CHECKPOINT", super::program::CHECKPOINT_LIMIT).await?;
            return Ok(true);
        }
        let sql = "SELECT ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)\
                   )::bit(32)::int = timeline_id FROM pg_catalog.pg_control_checkpoint()";
        Ok(self.value(sql).await?.as_deref() == Some("t"))
    }
}
