//! `patronictl store status`: the members of the embedded store and what they are about.

use std::time::Duration;

use crate::cli::definition::{Command, FORMAT, WATCH, WATCH_TWO};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::embedded;
use crate::error::CtlError;
use crate::output;
use crate::output::rows::Format;
use crate::watching::{self, Watch};

pub(crate) const COMMAND: Command = Command {
    name: "store status",
    help: "Show the members of the embedded store: leader, term, log, snapshot",
    arguments: &[],
    options: &[FORMAT, WATCH_TWO, WATCH],
    examples: &[
        "patronictl -c /etc/patroni.yml store status",
        "patronictl -d raft://db1:9008,db2:9008 store status -f json",
    ],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let format = Format::parse(matches.text("format").unwrap_or("pretty"))?;
    let (admin, configured) = context.embedded_store()?;
    let mut watch = Watch::new(watching::period(matches));
    loop {
        let text = embedded::look(&admin, &configured).await?.render(format);
        if watch.period() > Duration::ZERO {
            watching::clear_screen();
        }
        output::write(&text);
        if !watch.next().await {
            return Ok(());
        }
    }
}
