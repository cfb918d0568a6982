//! Looking at the server. Nothing here writes, and every answer comes by its deadline.

mod heartbeat;
mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patroni_core::server::{DataDir, Postmaster as PostmasterState, Running, Server};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::controldata::ControlValues;
use crate::data_dir;
use crate::options::ServerOptions;
use crate::postmaster::{Found, PidFileStatus, Postmaster};
use crate::programs::Programs;
use crate::sql::{Connection, DEFAULT_OPTIONS, SqlError};
use crate::{Error, Result};
use heartbeat::Request;

/// Requests for the status that may wait at the same time; more are told that the server does not answer.
const WAITING_REQUESTS: usize = 256;

/// Looks at the data directory, the postmaster, and what PostgreSQL says of itself. Cheap to clone; all clones share one
/// connection to the server.
#[derive(Clone, Debug)]
pub struct Monitor {
    options: watch::Receiver<Arc<ServerOptions>>,
    postmaster: Arc<Mutex<Option<Arc<Postmaster>>>>,
    heartbeat: mpsc::Sender<Request>,
}

impl Monitor {
    /// Watches the server that `options` describe, and follows their changes. Needs a tokio runtime; ends with its last clone.
    pub fn new(options: watch::Receiver<Arc<ServerOptions>>) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_REQUESTS);
        tokio::spawn(heartbeat::run(options.clone(), receiver));
        Monitor { options, postmaster: Arc::default(), heartbeat: sender }
    }

    /// The whole state of the server, at the latest at `deadline`: a server that does not answer until then is
    /// [`PostmasterState::Unreachable`].
    pub async fn inspect(&self, deadline: Instant) -> Server {
        let options = self.options();
        let postmaster = match self.postmaster() {
            Ok(Found::Alive(postmaster)) => Some(postmaster),
            Ok(Found::SingleUser { pid }) => {
                return Server { data_dir: self.data_dir(deadline).await.0, postmaster: unreachable_single_user(pid) };
            }
            Ok(Found::Nobody | Found::Foreign { .. }) => None,
            Err(error) => return inaccessible(&error),
        };
        let Some(postmaster) = postmaster else {
            let (data_dir, values) = self.data_dir(deadline).await;
            return Server { data_dir, postmaster: PostmasterState::Stopped(control_data(&options, values)) };
        };
        self.inspect_alive(&postmaster, deadline).await
    }

    async fn inspect_alive(&self, postmaster: &Postmaster, deadline: Instant) -> Server {
        let state = match PidFileStatus::read(&self.options().data_dir) {
            Err(error) => return inaccessible(&error),
            Ok(None | Some(PidFileStatus::Starting)) => PostmasterState::Starting,
            Ok(Some(PidFileStatus::Stopping)) => PostmasterState::Stopping,
            Ok(Some(PidFileStatus::Ready | PidFileStatus::Standby)) => {
                match self.ask(postmaster.pid(), deadline).await {
                    Ok((running, system_id)) if self.has_control_file() => {
                        return Server { data_dir: DataDir::Present(system_id), postmaster: PostmasterState::Running(running) };
                    }
                    Ok((running, _)) => PostmasterState::Running(running),
                    Err(error) => self.why_no_answer(postmaster, &error),
                }
            }
        };
        let (data_dir, values) = self.data_dir(deadline).await;
        if !postmaster.is_alive() {
            let options = self.options();
            return Server { data_dir, postmaster: PostmasterState::Stopped(control_data(&options, values)) };
        }
        Server { data_dir, postmaster: state }
    }

    /// What PostgreSQL says of itself, newly asked. Callers that come while a query runs share the next one.
    ///
    /// # Errors
    /// No postmaster, no answer until `deadline`, or what the server says.
    pub async fn status(&self, deadline: Instant) -> Result<Running> {
        match self.postmaster()? {
            Found::Alive(postmaster) => Ok(self.ask(postmaster.pid(), deadline).await?.0),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => {
                Err(SqlError::other("query", "no postmaster runs on the data directory").into())
            }
        }
    }

    /// Completes within milliseconds of the exit of the postmaster seen last; never, where there is none.
    pub async fn exit_of_postmaster(&self) {
        match self.cached().or_else(|| self.alive().ok().flatten()) {
            Some(postmaster) => postmaster.exited().await,
            None => std::future::pending().await,
        }
    }

    /// A connection of its own to the local server, as superuser, with the default limits on statements. `name` is shown as
    /// `Patroni NAME` in `pg_stat_activity`.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(&self, name: &str) -> Result<Connection> {
        let conninfo = self.options().local_superuser();
        Ok(Connection::open(&conninfo, &format!("Patroni {name}"), DEFAULT_OPTIONS).await?)
    }

    /// `pg_control`, read with `pg_controldata`.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn control_values(&self) -> Result<ControlValues> {
        let options = self.options();
        ControlValues::read(&options.programs(), &options.data_dir).await
    }

    /// The options as they are now.
    pub fn options(&self) -> Arc<ServerOptions> {
        self.options.borrow().clone()
    }

    /// The programs of PostgreSQL.
    pub fn programs(&self) -> Programs {
        self.options().programs()
    }

    /// The postmaster, if one is alive on the data directory.
    ///
    /// # Errors
    /// The pid file cannot be read.
    pub fn alive(&self) -> Result<Option<Arc<Postmaster>>> {
        match self.postmaster()? {
            Found::Alive(postmaster) => Ok(Some(postmaster)),
            Found::Nobody | Found::Foreign { .. } | Found::SingleUser { .. } => Ok(None),
        }
    }

    /// The one that was found before as long as it is alive, else what the pid file says.
    fn postmaster(&self) -> Result<Found<Arc<Postmaster>>> {
        if let Some(postmaster) = self.cached().filter(|p| p.is_alive()) {
            return Ok(Found::Alive(postmaster));
        }
        let found = Postmaster::find(&self.options().data_dir)?.map(Arc::new);
        let alive = if let Found::Alive(postmaster) = &found { Some(postmaster.clone()) } else { None };
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = alive;
        Ok(found)
    }

    /// Remembers the postmaster that was just started, before it wrote its pid file.
    pub(crate) fn started(&self, postmaster: &Arc<Postmaster>) {
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(postmaster.clone());
    }

    fn cached(&self) -> Option<Arc<Postmaster>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self, pid: i32, deadline: Instant) -> std::result::Result<heartbeat::Answer, SqlError> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| SqlError::other("query", "too many requests for the status wait for PostgreSQL");
        self.heartbeat.try_send(Request { pid, reply }).map_err(busy)?;
        let limit = deadline.saturating_duration_since(Instant::now());
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SqlError::other("query", "the agent is stopping")),
            Err(_) => Err(SqlError::timeout("query".into(), limit)),
        }
    }

    fn why_no_answer(&self, postmaster: &Postmaster, error: &SqlError) -> PostmasterState {
        let status = PidFileStatus::read(&self.options().data_dir).ok().flatten();
        if status == Some(PidFileStatus::Stopping) || !postmaster.is_alive() {
            return PostmasterState::Stopping;
        }
        // Between a crash of a backend and the end of recovery the pid file goes on saying `ready`.
        if error.is_cannot_connect_now() || status != Some(PidFileStatus::Ready) {
            return PostmasterState::Starting;
        }
        PostmasterState::Unreachable(error.to_string())
    }

    fn has_control_file(&self) -> bool {
        self.options().data_dir.join("global/pg_control").exists()
    }

    async fn data_dir(&self, deadline: Instant) -> (DataDir, Option<ControlValues>) {
        let options = self.options();
        // One small file is read: only a broken disk takes longer than the least time given here.
        let deadline = deadline.max(Instant::now() + Duration::from_millis(200));
        match timeout_at(deadline, data_dir::inspect(&options.programs(), &options.data_dir)).await {
            Ok(result) => result,
            Err(_) => (DataDir::Inaccessible("pg_controldata did not finish in time".into()), None),
        }
    }
}

fn control_data(options: &ServerOptions, values: Option<ControlValues>) -> Option<patroni_core::server::ControlData> {
    let standby = data_dir::has_standby_signal(&options.data_dir);
    values?.control_data(standby, data_dir::has_backup_label(&options.data_dir)).ok()
}

fn inaccessible(error: &Error) -> Server {
    Server { data_dir: DataDir::Inaccessible(error.to_string()), postmaster: PostmasterState::Unreachable(error.to_string()) }
}

fn unreachable_single_user(pid: i32) -> PostmasterState {
    PostmasterState::Unreachable(format!("PostgreSQL runs in single-user mode (pid={pid})"))
}
