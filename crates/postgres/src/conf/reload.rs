//! A new configuration for a running server.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::parameters::{Changes, Parameters, Setting, changes, pending_restart};

use super::upstream::setting;
use super::{Conf, FileOptions, log, wanted_parameters};
use crate::Result;
use crate::cancel::Cancel;
use crate::options::ServerOptions;
use crate::programs::Programs;
use crate::sql::{Connection, quote_literal};

/// What a new configuration brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// A file was written: the server has to be told (SIGHUP).
    pub written: bool,
    /// It was not written for the sake of `force` alone: settings differ from those of the server, or an access file was written,
    /// of which nobody can tell what the server has read.
    pub news: bool,
    /// What waits for a restart, as far as the comparison tells. After the server has reloaded, [`Conf::pending_restart`] knows
    /// better.
    pub pending_restart: JsonMap,
    /// Addresses wait for a restart: go on connecting to the old ones.
    pub address_changed: bool,
}

/// The query for the rows of `pg_settings` that [`changes`] needs.
fn settings_query(previous: &Parameters, wanted: &Parameters) -> String {
    let mut names: BTreeSet<String> =
        previous.iter().chain(wanted.iter()).map(|(name, _)| name.to_lowercase()).collect();
    if names.contains("wal_buffers") {
        names.extend(["shared_buffers", "wal_segment_size", "wal_block_size"].map(str::to_owned));
    }
    let names: Vec<_> = names.iter().map(|name| quote_literal(name)).collect();
    format!(
        "SELECT name, setting, unit, vartype, context, sourcefile FROM pg_catalog.pg_settings \
         WHERE pg_catalog.lower(name) IN ({})",
        names.join(", ")
    )
}

impl Conf {
    /// Takes a new configuration, compares it with the running server, and writes the files that changed, or all of them if
    /// `force` (an operator asked for it). The server is not told: that is the caller's.
    ///
    /// # Errors
    /// The server does not answer within `limit`: nothing changed. Or a file cannot be written: then the configuration is taken
    /// all the same, and a later call with `force` repairs the files.
    pub async fn reload(
        &mut self,
        server: Arc<ServerOptions>,
        options: Arc<FileOptions>,
        connection: &Connection,
        force: bool,
        limit: Duration,
    ) -> Result<Reload> {
        let hba_changed = !options.pg_hba.is_empty() && options.pg_hba != self.files.pg_hba;
        let ident_changed = !options.pg_ident.is_empty() && options.pg_ident != self.files.pg_ident;
        let mut wanted = wanted_parameters(&server, &options, &self.names);
        let found = self.compare(&wanted, connection, limit).await?;
        for name in &found.unknown {
            wanted.remove(name);
        }
        log(&found.notes);
        self.server = server;
        self.files = options;
        self.parameters = wanted;
        if self.custom_bootstrap.is_some() {
            tracing::info!("Skipping PostgreSQL configuration update while in custom bootstrap.");
            return Ok(Reload::default());
        }
        let conf_written = found.write || force;
        if conf_written {
            self.write_postgresql_conf(None).await?;
        }
        let hba_written = (hba_changed || force) && self.write_pg_hba().await?;
        let ident_written = (ident_changed || force) && self.write_pg_ident().await?;
        let reload = Reload {
            written: conf_written || hba_written || ident_written,
            news: found.write || hba_written || ident_written,
            pending_restart: found.pending_restart,
            address_changed: found.address_changed,
        };
        if !reload.written {
            tracing::info!("No PostgreSQL configuration items changed, nothing to reload.");
        }
        Ok(reload)
    }

    async fn compare(&self, wanted: &Parameters, connection: &Connection, limit: Duration) -> Result<Changes> {
        let rows = connection.query_within(&settings_query(&self.parameters, wanted), limit).await?;
        let rows: Vec<Setting> = rows.iter().map(setting).collect();
        Ok(changes(&self.parameters, wanted, &rows))
    }

    /// What waits for a restart by the server's own word; ask after it has reloaded. `expected` comes from [`Reload`].
    ///
    /// # Errors
    /// The server does not answer within `limit`.
    pub async fn pending_restart(
        &self,
        connection: &Connection,
        programs: &Programs,
        expected: &JsonMap,
        limit: Duration,
    ) -> Result<JsonMap> {
        let sql = "SELECT name, pg_catalog.current_setting(name), unit, vartype, context, sourcefile \
                   FROM pg_catalog.pg_settings WHERE pending_restart";
        let rows: Vec<Setting> = connection.query_within(sql, limit).await?.iter().map(setting).collect();
        let mut values = Vec::with_capacity(rows.len());
        for row in &rows {
            let value = guc_value(programs, self.data_dir(), &self.postgresql_conf(), &row.name, limit).await;
            values.push((row.name.as_str(), value));
        }
        let find = |name: &str| values.iter().find(|(n, _)| *n == name).and_then(|(_, value)| value.as_deref());
        let (differences, note) = pending_restart(&rows, expected, find);
        log(note.as_slice());
        Ok(differences)
    }
}

/// The value a parameter has by the files alone (`postgres -C`); `None` where that cannot be found out, which is logged.
pub(crate) async fn guc_value(
    programs: &Programs,
    data_dir: &Path,
    postgresql_conf: &Path,
    name: &str,
    limit: Duration,
) -> Option<String> {
    let mut command = programs.command("postgres");
    let mut config_file = OsString::from("--config-file=");
    config_file.push(postgresql_conf);
    command.arg("-D").arg(data_dir).args(["-C", name]).arg(config_file);
    match programs.capture(command, &Cancel::new(), Some(limit)).await.and_then(|output| output.success()) {
        Ok(output) => Some(output.stdout.trim().to_owned()),
        Err(error) => {
            tracing::error!("Failed to find out {name} by postgres -C: {error}");
            None
        }
    }
}
