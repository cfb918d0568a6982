//! `patronictl list`: the members of clusters.

use std::time::Duration;

use crate::by_members::{self, Sight};
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
        let mut silence = None;
        if matches.flag("timestamp") {
            text.push_str(&format!("{}\n", output::timestamp_seconds()));
        }
        for store in &stores {
            let show = Show { scope: &store.scope, extended: matches.flag("extended"), format, citus: store.citus };
            match by_members::look(context, store).await? {
                Sight::Stored(cluster) => text.push_str(&members::render(&cluster, show)),
                Sight::Told(told) => {
                    text.push_str(&members::render(&told.cluster, show));
                    silence = Some(match format.is_table() {
                        true => {
                            text.push_str(&format!(" {}\n", told.mark()));
                            CtlError::Reported
                        }
                        false => CtlError::Failed(told.mark()),
                    });
                }
            }
        }
        if watch.period() > Duration::ZERO {
            watching::clear_screen();
        }
        output::write(&text);
        if !watch.next().await {
            return silence.map_or(Ok(()), Err);
        }
    }
}
