//! This node: how far it is, and whether pg_rewind can work on it.

use patroni_core::history::{LocalPosition, stopped_position};
use patroni_core::lsn::{Lsn, Timeline};

use super::RewindContext;
use crate::cancel::Cancel;
use crate::controldata::ControlValues;
use crate::monitor::Monitor;
use crate::options::ServerOptions;
use crate::postmaster::{Found, Postmaster};
use crate::sql::{Connection, Conninfo};
use crate::{Error, Result, blocking, data_dir};

/// How far this node is: by its own word while it runs (as a standby), by `pg_control` otherwise. `None` where it has to be
/// recovered first.
///
/// # Errors
/// It runs and does not answer, or `pg_control` cannot be read.
pub async fn local_position(context: &RewindContext, monitor: &Monitor) -> Result<Option<LocalPosition>> {
    if monitor.alive().await?.is_some() {
        match running_position(context, monitor).await {
            Ok(position) => return Ok(position),
            Err(Error::Sql(error)) if error.is_cannot_connect_now() => {
                tracing::info!("PostgreSQL is still starting, will use pg_controldata as a fallback");
            }
            Err(error) => return Err(error),
        }
    }
    let data_dir = &context.options.data_dir;
    let values = ControlValues::read(&context.programs, data_dir).await?;
    let control = values.control_data(data_dir::Marks::read(data_dir).await?)?;
    Ok(stopped_position(&control))
}

async fn running_position(context: &RewindContext, monitor: &Monitor) -> Result<Option<LocalPosition>> {
    let connection = monitor.connect("rewind").await?;
    let Some(lsn) = replayed(&connection, context).await? else { return Ok(None) };
    let timeline = identify_timeline(context, &monitor.options()).await?;
    Ok(Some(LocalPosition { in_recovery: true, timeline, lsn }))
}

/// `None` on a primary, which is not compared with others while it runs.
async fn replayed(connection: &Connection, context: &RewindContext) -> Result<Option<Lsn>> {
    let sql = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() END";
    let rows = connection.query_within(sql, context.limit).await?;
    Ok(rows.first().and_then(|row| row.parse(0)))
}

/// The timeline that the running standby replays. Only the replication protocol tells it: what SQL shows lags behind.
async fn identify_timeline(context: &RewindContext, options: &ServerOptions) -> Result<Timeline> {
    let mut refused = None;
    for conninfo in options.ways(ServerOptions::local_replication) {
        match identify_timeline_by(context, &conninfo).await {
            Ok(timeline) => return Ok(timeline),
            Err(error) => _ = refused.get_or_insert(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::Unexpected("there is no local address".to_owned())))
}

async fn identify_timeline_by(context: &RewindContext, conninfo: &Conninfo) -> Result<Timeline> {
    let mut command = context.programs.command("psql");
    command.env("LC_ALL", "C");
    if let Some(password) = conninfo.get("password") {
        command.env("PGPASSWORD", password);
    }
    let mut address = conninfo.clone();
    address.remove("password");
    address.set("dbname", "postgres");
    let dsn = format!("{} replication=1 connect_timeout=3", address.dsn(context.version));
    command.args(["-X", "-w", "-A", "-t", "-F", "\t", "-c", "IDENTIFY_SYSTEM", "-d"]).arg(dsn);
    let output = context.programs.capture(command, &Cancel::new(), Some(context.limit)).await?.success()?;
    let timeline = output.stdout.trim().split('\t').nth(1).and_then(|text| text.parse().ok()).map(Timeline);
    timeline.ok_or_else(|| Error::Unexpected(format!("IDENTIFY_SYSTEM answered {:?}", output.stdout.trim())))
}

/// Is pg_rewind configured and there, and has the server kept what it needs?
///
/// # Errors
/// It cannot be used; the text says why.
pub async fn can_rewind(context: &RewindContext) -> std::result::Result<(), String> {
    if !context.use_pg_rewind {
        return Err("use_pg_rewind is not set".to_owned());
    }
    let mut command = context.programs.command("pg_rewind");
    command.arg("--help");
    let help = context.programs.capture(command, &Cancel::new(), Some(context.limit)).await;
    help.and_then(|output| output.success()).map_err(|error| error.to_string())?;
    let values =
        ControlValues::read(&context.programs, &context.options.data_dir).await.map_err(|error| error.to_string())?;
    let inconsistent = values.is_inconsistent(&context.options.data_dir).await;
    if inconsistent.map_err(|error| error.to_string())? {
        return Err(
            "it was rewound or copied before, and has not yet replayed the WAL that makes it consistent".to_owned()
        );
    }
    let has_hints = values.get("wal_log_hints setting") == Some("on");
    let has_checksums = values.get("Data page checksum version").is_some_and(|version| version != "0");
    if has_hints || has_checksums {
        return Ok(());
    }
    Err("neither wal_log_hints nor data checksums are on: pg_rewind cannot tell which pages changed".to_owned())
}

pub(super) async fn refuse_if_running(context: &RewindContext) -> Result<()> {
    let data_dir = &context.options.data_dir;
    let pid = match blocking::at(data_dir, Postmaster::find).await? {
        Found::Alive(postmaster) => postmaster.pid(),
        Found::SingleUser { pid } => pid,
        Found::Nobody | Found::Foreign { .. } => return Ok(()),
    };
    tracing::warn!("Can not run pg_rewind because postgres is still running");
    Err(Error::PostmasterRuns { pid, data_dir: data_dir.clone() })
}
