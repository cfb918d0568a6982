//! Comparing this node with a primary, and pg_rewind: the configuration and the limits they need.

use std::time::Duration;

use patroni_core::facts::RewindCheck;
use patroni_core::job::{JobOutcome, RewindSource};
use patroni_core::name::SystemId;
use patroni_core::settings::Settings;
use patroni_postgres::Error;
use patroni_postgres::cancel::{Cancel, Progress};
use patroni_postgres::control::{Control, Mode, StopOptions};
use patroni_postgres::rewind::{self, RewindContext, RewindError};

/// How long a query or a short program may take.
const QUERY_LIMIT: Duration = Duration::from_secs(5);

/// Compares timeline and position with those of a primary.
pub async fn check(
    control: &mut Control,
    source: &RewindSource,
    settings: &Settings,
    system_id: Option<SystemId>,
) -> RewindCheck {
    let monitor = control.monitor().clone();
    if let Err(error) = control.learn_version().await {
        return RewindCheck::Unclear(error.to_string());
    }
    let context = RewindContext::new(control.conf(), settings.rewind.use_pg_rewind, system_id, QUERY_LIMIT);
    match rewind::local_position(&context, &monitor).await {
        Ok(Some(local)) => rewind::check(&context, source, &local).await,
        Ok(None) => RewindCheck::Unclear("where the WAL of this node ends is known only after recovery".to_owned()),
        Err(error) => RewindCheck::Unclear(error.to_string()),
    }
}

/// Archives the WAL file that ends with the shutdown checkpoint of this former primary. Who replays the archive on the other
/// side then has everything, and is promoted from where this node can follow. That it cannot be archived is logged.
///
/// # Errors
/// Cancelled.
pub async fn archive_last_wal(control: &mut Control, cancel: &Cancel) -> Result<(), Error> {
    control.learn_version().await?;
    let context = RewindContext::new(control.conf(), false, None, QUERY_LIMIT);
    rewind::archive_shutdown_checkpoint(&context, cancel).await
}

/// Stops the server and rewinds it. What was postponed, or called off, is no failure.
///
/// # Errors
/// pg_rewind failed, or this node cannot do it.
pub async fn run(
    control: &mut Control,
    source: &RewindSource,
    settings: &Settings,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<JobOutcome, Error> {
    let stop =
        StopOptions { mode: Mode::Fast, checkpoint: false, report_shutdown: false, timeout: None, callback: true };
    control.stop(stop, cancel, progress).await?;
    control.learn_version().await?;
    let context = RewindContext::new(control.conf(), settings.rewind.use_pg_rewind, None, QUERY_LIMIT);
    match rewind::run(&context, source, None, cancel, progress).await {
        Ok(timeline) => {
            rewind::cleanup_archive_status(&context).await?;
            Ok(JobOutcome::Rewound(timeline))
        }
        Err(RewindError::Failed { source_name, error }) => {
            Ok(JobOutcome::Failed(format!("Failed to rewind from healthy primary: {source_name}: {error}")))
        }
        Err(RewindError::Refused(why)) => Ok(JobOutcome::Refused(why)),
        Err(RewindError::Local(error)) => Err(error),
        Err(postponed @ (RewindError::NotYet(_) | RewindError::SourceLost { .. })) => {
            tracing::info!("{postponed}; will try again");
            Ok(JobOutcome::Cancelled)
        }
        Err(RewindError::Cancelled) => Ok(JobOutcome::Cancelled),
    }
}
