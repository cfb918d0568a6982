//! The one connection that is kept, and the one query that runs on it at a time.

use std::sync::Arc;
use std::time::Duration;

use patroni_core::name::SystemId;
use patroni_core::server::Running;
use tokio::sync::{mpsc, oneshot, watch};

use super::status;
use crate::options::ServerOptions;
use crate::sql::{Connection, DEFAULT_OPTIONS, SqlError};

/// Longer than `statement_timeout` of the connection: only a hung server gets there.
const LIMIT: Duration = Duration::from_secs(3);

/// The status with the identifier of the system it came from.
pub(super) type Answer = (Running, SystemId);

/// A request for the status.
#[derive(Debug)]
pub(super) struct Request {
    /// The postmaster that has to answer: a connection to one before it is closed.
    pub(super) pid: i32,
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Result<Answer, SqlError>>,
}

/// Answers requests until all senders are gone. Those that wait at the same time get the same answer.
pub(super) async fn run(options: watch::Receiver<Arc<ServerOptions>>, mut requests: mpsc::Receiver<Request>) {
    let mut connection: Option<(i32, Connection)> = None;
    while let Some(request) = requests.recv().await {
        let pid = request.pid;
        let mut waiting = vec![request.reply];
        while let Ok(more) = requests.try_recv() {
            waiting.push(more.reply);
        }
        if waiting.iter().all(oneshot::Sender::is_closed) {
            continue;
        }
        let answer = answer(&mut connection, pid, &options).await;
        for reply in waiting {
            // Whoever does not wait any longer does not need it.
            let _ = reply.send(answer.clone());
        }
    }
}

async fn answer(
    connection: &mut Option<(i32, Connection)>,
    pid: i32,
    options: &watch::Receiver<Arc<ServerOptions>>,
) -> Result<Answer, SqlError> {
    if let Some((_, open)) = connection.as_ref().filter(|(of, open)| *of == pid && !open.is_closed()) {
        match ask(open).await {
            // It may have been closed by an administrator or by a restart: a new one is worth a try.
            Err(error) if error.code().is_none_or(|c| c.starts_with("57P")) && !error.is_timeout() => {}
            Err(error) => {
                *connection = None;
                return Err(error);
            }
            Ok(answer) => return Ok(answer),
        }
    }
    *connection = None;
    let options = options.borrow().clone();
    tracing::info!("establishing a new patroni heartbeat connection to postgres");
    let open = options.connect(None, "Patroni heartbeat", DEFAULT_OPTIONS).await?;
    let answer = ask(&open).await?;
    *connection = Some((pid, open));
    Ok(answer)
}

async fn ask(connection: &Connection) -> Result<Answer, SqlError> {
    let rows = connection.query_within(&status::query(connection.server_version()), LIMIT).await?;
    let row = rows.first().ok_or_else(|| SqlError::other("status", "no row"))?;
    status::read(row, connection.server_version())
}
