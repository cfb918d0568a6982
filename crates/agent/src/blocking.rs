//! Work with small files, on a thread for that and with a deadline: the loop and the REST API wait for no disk that hangs.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long such work may take. A healthy disk needs milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs the work. After the limit it goes on, and nobody waits for it. The error says why there is no result.
pub(crate) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match timeout(LIMIT, spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the disk does not answer".to_owned()),
    }
}
