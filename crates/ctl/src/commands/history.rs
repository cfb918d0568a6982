//! `patronictl history`: the timelines so far, and who began them.

use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, FORMAT, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::CtlError;
use crate::output;
use crate::output::rows::{Format, Rows};

const COLUMNS: [&str; 5] = ["TL", "LSN", "Reason", "Timestamp", "New Leader"];

pub(crate) const COMMAND: Command = Command {
    name: "history",
    help: "Show the history of failovers/switchovers",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP, FORMAT],
    examples: &["patronictl history batman -f tsv"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let format = Format::parse(matches.text("format").unwrap_or("pretty"))?;
    let store = context.open_default(matches)?;
    let cluster = store.load().await?;
    let lines = cluster.history.map(|history| history.lines).unwrap_or_default();
    output::write(&rows(lines.into_iter().map(|line| line.0).collect()).render(format, "\t"));
    Ok(())
}

/// The lines as rows; older versions wrote shorter lines.
pub(crate) fn rows(mut lines: Vec<Vec<Value>>) -> Rows {
    for line in &mut lines {
        let length = line.len().max(COLUMNS.len());
        line.resize(length, "".into());
    }
    Rows {
        columns: Some(COLUMNS.iter().map(ToString::to_string).collect()),
        rows: lines,
        right: &["TL", "LSN"],
        title: String::new(),
    }
}
