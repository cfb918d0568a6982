//! `patronictl list`: the members of clusters.

use std::time::Duration;

use crate::cli::definition::{CLUSTER_NAMES, Command, FORMAT, GROUP, Kind, Opt, WATCH, WATCH_TWO};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::CtlError;
use crate::members::{self, Show};
use crate::output::rows::Format;
use crate::watching::Watch;
use crate::{output, watching};

pub(crate) const COMMAND: Command = Command {
    name: "list",
    help: "List the Patroni members for a given Patroni",
    arguments: &[CLUSTER_NAMES],
    options: &[
        GROUP,
        Opt { names: &["--extended", "-e"], key: "extended", kind: Kind::Flag, help: "Show some extra information" },
        Opt { names: &["--timestamp", "-t"], key: "timestamp", kind: Kind::Flag, help: "Print timestamp" },
        FORMAT,
        WATCH_TWO,
        WATCH,
    ],
    examples: &["patronictl -c /etc/patroni.yml list", "patronictl list batman -e -f json"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let format = Format::parse(matches.text("format").unwrap_or("pretty"))?;
    show(context, matches, format).await
}

/// Shows the clusters, again and again where that was asked for.
pub(crate) async fn show(context: &Context, matches: &Matches, format: Format) -> Result<(), CtlError> {
    let mut scopes = matches.many("cluster_names").to_vec();
    scopes.extend(context.scope().filter(|_| matches.many("cluster_names").is_empty()));
    if scopes.is_empty() {
        output::warn("Listing members: No cluster names were provided");
        return Ok(());
    }
    let mut stores = Vec::new();
    for scope in &scopes {
        stores.push(context.open(scope, matches.integer("group"))?);
    }
    let mut watch = Watch::new(watching::period(matches));
    loop {
        // The screen is cleared once the new picture is there, so that it does not flicker.
        let mut text = String::new();
        if matches.flag("timestamp") {
            text.push_str(&format!("{}\n", output::timestamp_seconds()));
        }
        for store in &stores {
            let cluster = store.load().await?;
            let extended = matches.flag("extended");
            text.push_str(&members::render(
                &cluster,
                Show { scope: &store.scope, extended, format, citus: store.citus },
            ));
        }
        if watch.period() > Duration::ZERO {
            watching::clear_screen();
        }
        output::write(&text);
        if !watch.next().await {
            return Ok(());
        }
    }
}
