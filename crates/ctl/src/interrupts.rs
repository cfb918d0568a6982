//! Ctrl-C ends a command, but not while another program has the terminal: then it is meant for that program.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

static IGNORED: AtomicBool = AtomicBool::new(false);

/// Waits for a Ctrl-C that is meant for this program.
pub(crate) async fn pressed() {
    loop {
        // Without a handler there is nothing to wait for: the signal ends this program.
        if tokio::signal::ctrl_c().await.is_err() {
            return std::future::pending().await;
        }
        if !IGNORED.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Does something during which Ctrl-C and Ctrl-\ do not end this program. They are caught, not ignored, so that a
/// program that is started meanwhile takes them as it likes. Ctrl-\ stays without effect afterwards.
pub(crate) async fn ignored_during<T>(work: impl Future<Output = T>) -> T {
    // Where it cannot be caught, it ends this program as ever.
    let _quit = signal(SignalKind::quit());
    IGNORED.store(true, Ordering::Relaxed);
    let result = work.await;
    // What the terminal sent to both programs may be seen here only after the other one has ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    IGNORED.store(false, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn only_what_is_meant_for_this_program_ends_it() {
        let mut waiting = tokio::spawn(pressed());
        tokio::task::yield_now().await;
        ignored_during(async {
            for signal in [Signal::INT, Signal::QUIT] {
                kill_process(getpid(), signal).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "it did not wait on");
        kill_process(getpid(), Signal::INT).unwrap();
        waiting.await.unwrap();
    }
}
