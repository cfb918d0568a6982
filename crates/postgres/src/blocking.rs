//! Work with files and `/proc`, on threads for that and with a deadline. On a disk that hangs nothing ever ends, not even looking whether a file
//! is there: so the runtime does none of it, and nobody waits for it for ever. `clippy.toml` of this crate keeps it so: where a file may block,
//! its first lines say that it does, and what others call in it is asynchronous, or says "Blocks".

use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::{Error, Result};

/// How long a few small files may take. A healthy disk needs milliseconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Runs work that blocks. After the limit it goes on, and nobody waits for it. `what` completes the sentence of the error: WHAT did not finish.
#[expect(clippy::disallowed_methods, reason = "with a deadline")]
pub(crate) async fn within<T: Send + 'static>(
    limit: Duration,
    what: impl Into<String>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match timeout(limit, spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Error::Unexpected(format!("internal error: {error}"))),
        Err(_) => Err(Error::Timeout { what: what.into(), limit }),
    }
}

/// The same for what takes a moment in a directory, or with a file.
pub(crate) async fn at<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T> + Send + 'static,
) -> Result<T> {
    let path = path.to_owned();
    within(LIMIT, format!("work with files in {}", path.display()), move || work(&path)).await
}

/// Removes or moves a data directory. This alone has no deadline: it is as large as the database, and if nobody waited for it, it would go on beside
/// the copy that takes its place. A job waits, never the loop.
#[expect(clippy::disallowed_methods, reason = "see above")]
pub(crate) async fn to_its_end<T: Send + 'static>(path: &Path, work: fn(&Path) -> Result<T>) -> Result<T> {
    let path = path.to_owned();
    match spawn_blocking(move || work(&path)).await {
        Ok(result) => result,
        Err(error) => Err(Error::Unexpected(format!("internal error: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "blocks")]
    async fn nobody_waits_for_a_disk_that_hangs() {
        let (end, hangs) = std::sync::mpsc::channel::<()>();
        let late = within(Duration::from_millis(20), "looking", move || Ok(hangs.recv().is_ok())).await;
        assert_eq!(late.expect_err("it hangs").to_string(), "looking did not finish within 20 ms");
        drop(end);
        assert_eq!(at(Path::new("/"), |path| Ok(path.is_dir())).await.ok(), Some(true));
    }
}
