//! Bringing a server that diverged back: does it have WAL that the primary has not, and pg_rewind.
//!
//! The primary is asked by plain SQL with the credentials of `rewind`: its timeline (by the name of its WAL file) and its history file
//! (`pg_read_binary_file`, which pg_rewind needs anyway). That takes one connection and one statement, so timeline and
//! history belong together. Only the timeline of a local *running* standby needs `IDENTIFY_SYSTEM`; `psql` sends it.

mod archive;
mod beforehand;
mod local;
mod program;
mod same_timeline;
mod source;
mod waldump;

use std::path::PathBuf;
use std::time::Duration;

use patroni_core::facts::RewindCheck;
use patroni_core::history::{Divergence, LocalPosition, divergence, excerpt};
use patroni_core::job::RewindSource;
use patroni_core::lsn::Timeline;
use patroni_core::name::SystemId;
use patroni_core::settings::StandbyCluster;

use crate::cancel::{Cancel, Progress};
use crate::conf::Conf;
use crate::copying::Copying;
use crate::options::ServerOptions;
use crate::programs::Programs;
use crate::unfinished::{Unfinished, wait_for_rewind};
use crate::{Error, Result, blocking};

pub use archive::{archive_ready_wals, archive_shutdown_checkpoint, cleanup_archive_status};
pub use local::{can_rewind, local_position};
use source::{PrimaryTimeline, Source};

/// What checking and rewinding need to know of this node.
#[derive(Clone, Debug)]
pub struct RewindContext {
    options: std::sync::Arc<ServerOptions>,
    programs: Programs,
    version: u32,
    config_dir: PathBuf,
    postgresql_conf: PathBuf,
    use_pg_rewind: bool,
    standby_cluster: Option<StandbyCluster>,
    restore_command: Option<String>,
    system_id: Option<SystemId>,
    limit: Duration,
}

impl RewindContext {
    /// `system_id` is that of the local data directory, where known: a primary of another cluster is refused. `limit` bounds each query
    /// and each short program.
    pub fn new(conf: &Conf, use_pg_rewind: bool, system_id: Option<SystemId>, limit: Duration) -> Self {
        RewindContext {
            options: conf.server_options().clone(),
            programs: conf.server_options().programs(),
            version: conf.version(),
            config_dir: conf.config_dir().to_owned(),
            postgresql_conf: conf.postgresql_conf(),
            use_pg_rewind,
            standby_cluster: conf.standby_cluster().cloned(),
            restore_command: conf.restore_command(),
            system_id,
            limit,
        }
    }
}

/// Compares this node with a primary. `local` comes from [`local_position`]. Anything that cannot be found out, or that does not fit together,
/// is [`RewindCheck::Unclear`]; what another answer of the primary would not change is [`RewindCheck::Impossible`].
pub async fn check(context: &RewindContext, upstream: &RewindSource, local: &LocalPosition) -> RewindCheck {
    compare(context, upstream, local).await.unwrap_or_else(|error| match &error {
        Error::Sql(refused) if refused.is_refusal() => RewindCheck::Impossible(error.to_string()),
        _ => RewindCheck::Unclear(error.to_string()),
    })
}

async fn compare(context: &RewindContext, upstream: &RewindSource, local: &LocalPosition) -> Result<RewindCheck> {
    tracing::info!("Local timeline={} lsn={}", local.timeline, local.lsn);
    let source = Source::connect(context, upstream).await?;
    let primary = source.timeline().await?;
    tracing::info!("primary_timeline={}", primary.timeline);
    if local.timeline < primary.timeline {
        tracing::info!("primary: history={}", excerpt(&primary.history, local.timeline));
    }
    let data_dir = &context.options.data_dir;
    if let Some(unfinished) = Unfinished::rewind_in_force(data_dir).await? {
        return Ok(match mixed(&unfinished, upstream, &primary) {
            Some(why) => RewindCheck::Needed(Err(why)),
            None => RewindCheck::Needed(can_rewind(context).await),
        });
    }
    let diverged = match divergence(local, primary.timeline, &primary.history) {
        Divergence::None => false,
        Divergence::Diverged => true,
        Divergence::UnlessCheckpointEndsAt(switchpoint) => {
            let end = waldump::checkpoint_end(context, local.timeline, local.lsn).await?;
            end != Some(switchpoint)
        }
    };
    // pg_rewind goes by the same histories. Where these are no proof it would find nothing to do, or take the wrong pages.
    if let Some(why) = same_timeline::differs(context, &source, local, &primary).await? {
        return Ok(RewindCheck::OtherWal(why));
    }
    if diverged {
        return Ok(RewindCheck::Needed(can_rewind(context).await));
    }
    if local.in_recovery
        && let Some(file) = same_timeline::missing_on(context, &source, local).await?
    {
        let archive = program::restore_command_in_force(context).await.is_some();
        return Ok(RewindCheck::WalGone { file, archive });
    }
    Ok(RewindCheck::NotNeeded)
}

/// Whether pg_rewind, which was interrupted, may not be run again: pages that it took from another primary, and that this one never
/// changed, would stay. The same primary may have gone on to a timeline of its own.
fn mixed(unfinished: &Unfinished, upstream: &RewindSource, primary: &PrimaryTimeline) -> Option<String> {
    let Unfinished::Rewind { source, timeline, .. } = unfinished else {
        return None;
    };
    let parent = primary.history.last().map(|switch| switch.timeline);
    let is_same = upstream.to_string() == *source
        && (primary.timeline.0 == *timeline || parent.is_some_and(|parent| parent.0 == *timeline));
    (!is_same)
        .then(|| format!("pg_rewind from {source} on timeline {timeline} was interrupted, and leaves pages of both"))
}

/// Why a rewind did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// It was not begun, because the primary is not ready. Nothing was changed; try again soon.
    #[error("{0}")]
    NotYet(String),
    /// It was not begun, because it would stop half-way: files that it cannot replace, or no room. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// pg_rewind failed, and the primary cannot be reached any more. Whether pg_rewind can be run again, [`check`] finds out.
    #[error("Failed to rewind because primary {source_name} become unreachable: {error}")]
    SourceLost {
        /// The primary.
        source_name: String,
        /// What pg_rewind said.
        error: Error,
    },
    /// pg_rewind failed though the primary is healthy, or it left a data directory that cannot be rewound again.
    #[error("Failed to rewind from healthy primary: {source_name}: {error}")]
    Failed {
        /// The primary.
        source_name: String,
        /// What pg_rewind said.
        error: Error,
    },
    /// Called off. pg_rewind may be at work, and goes on: the data directory must not be started before it, or another one, has ended.
    #[error("cancelled")]
    Cancelled,
    /// This node cannot do it; nothing was changed.
    #[error("{0}")]
    Local(Error),
}

/// Rewinds the stopped server of this node to the primary `source`, and returns the timeline of that, where it is known. `checkpoint_done` is what the primary's member key says: `Some(false)`
/// while it has not yet written its first checkpoint as primary; `None` where that is unknown, then it is asked.
///
/// pg_rewind itself has no time limit: it copies what has to be copied. `cancel` ends the waiting for it: it works on, and whoever calls this next
/// waits for it. So it is with one that an agent left behind.
///
/// # Errors
/// See [`RewindError`]. The server must be stopped: [`RewindError::Local`] if a postmaster runs.
pub async fn run(
    context: &RewindContext,
    source: &RewindSource,
    checkpoint_done: Option<bool>,
    cancel: &Cancel,
    progress: &Progress,
) -> std::result::Result<Option<Timeline>, RewindError> {
    local::refuse_if_running(context).await.map_err(RewindError::Local)?;
    let data_dir = &context.options.data_dir;
    let waited = wait_for_rewind(&context.programs, data_dir, cancel, progress).await.map_err(cancelled_or_local)?;
    if waited && Unfinished::rewind_in_force(data_dir).await.map_err(RewindError::Local)?.is_none() {
        let finished = blocking::at(data_dir, |data_dir| Ok(Unfinished::rewind_of(data_dir))).await;
        let timeline = finished.map_err(RewindError::Local)?.and_then(|finished| finished.timeline());
        Unfinished::clear(data_dir).await;
        ask_to_write(context, source).await;
        return Ok(timeline);
    }
    archive_ready_wals(context, cancel).await.map_err(cancelled_or_local)?;
    let timeline = is_ready(context, source, checkpoint_done).await?;
    if let Some(why) = beforehand::refusal(context, source, cancel).await.map_err(cancelled_or_local)? {
        return Err(RewindError::Refused(why));
    }
    progress.commit(cancel, format!("running pg_rewind from {source}")).map_err(cancelled_or_local)?;
    let torn = blocking::at(data_dir, |data_dir| Ok(Unfinished::rewind_of(data_dir).is_some())).await;
    let was_torn = torn.map_err(RewindError::Local)?;
    Unfinished::mark_rewind(data_dir, &source.to_string(), timeline).await.map_err(RewindError::Local)?;
    let copying = Copying::new(&source.to_string(), progress);
    let result = program::pg_rewind(context, source, &copying, cancel).await;
    if result.is_ok() || !(copying.began() || was_torn) {
        Unfinished::clear(data_dir).await;
    }
    let Err(error) = result else {
        ask_to_write(context, source).await;
        return Ok(Some(timeline));
    };
    if matches!(error, Error::Cancelled) {
        return Err(RewindError::Cancelled);
    }
    let source_name = source.to_string();
    let is_healthy = match Source::connect(context, source).await {
        Ok(connected) => connected.is_primary().await.unwrap_or(false),
        Err(_) => false,
    };
    // The attempt may have damaged pg_control: then it cannot be repeated.
    if is_healthy || can_rewind(context).await.is_err() {
        return Err(RewindError::Failed { source_name, error });
    }
    Err(RewindError::SourceLost { source_name, error })
}

async fn ask_to_write(context: &RewindContext, source: &RewindSource) {
    let asked = async { Source::connect(context, source).await?.write_record().await };
    if let Err(error) = asked.await {
        tracing::info!("{source} was not asked to write WAL, which may delay the start: {error}");
    }
}

fn cancelled_or_local(error: Error) -> RewindError {
    if matches!(error, Error::Cancelled) { RewindError::Cancelled } else { RewindError::Local(error) }
}

/// pg_rewind reads the primary's timeline from its `pg_control`: it has to have written a checkpoint since its promotion.
async fn is_ready(
    context: &RewindContext,
    source: &RewindSource,
    checkpoint_done: Option<bool>,
) -> std::result::Result<Timeline, RewindError> {
    if checkpoint_done == Some(false) {
        return Err(RewindError::NotYet(format!("Waiting for checkpoint on {source} before rewind")));
    }
    let unusable = |why: String| RewindError::NotYet(format!("Can not use {source} for rewind: {why}"));
    let connected = Source::connect(context, source).await.map_err(|error| unusable(error.to_string()))?;
    if !connected.is_primary().await.map_err(|error| unusable(error.to_string()))? {
        return Err(unusable("Leader is still in_recovery and therefore can't be used for rewind".to_owned()));
    }
    let timeline = connected.timeline().await.map_err(|error| unusable(error.to_string()))?.timeline;
    if checkpoint_done == Some(true) {
        return Ok(timeline);
    }
    match connected.ensure_checkpoint(context).await {
        Ok(true) => Ok(timeline),
        Ok(false) => Err(unusable("leader has not run a checkpoint yet".to_owned())),
        Err(error) => Err(unusable(error.to_string())),
    }
}
