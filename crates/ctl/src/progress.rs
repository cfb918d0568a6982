//! What is going on, told on a terminal while a request runs. Nothing is printed where stderr is no terminal.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A line on stderr that says what runs and for how long; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    /// Begins to tell after a second.
    pub(crate) fn start(what: String) -> Self {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        Progress(Some(tokio::spawn(async move {
            let begun = Instant::now();
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                show(&format!("{what} ... {} s", begun.elapsed().as_secs()));
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
            show("");
        }
    }
}

/// Shows a text in place of the last one, if stderr is a terminal.
pub(crate) fn show(text: &str) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }
}
