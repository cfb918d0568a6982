//! `patronictl remove`: everything about a cluster is deleted from the store. Data directories stay.

use crate::cli::definition::{CLUSTER_NAME_REQUIRED, Command, FORMAT, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::{CtlError, failed};
use crate::members::{self, Show};
use crate::output::rows::Format;
use crate::{output, prompt};

const AWARE: &str = "Yes I am aware";

pub(crate) const COMMAND: Command = Command {
    name: "remove",
    help: "Remove cluster from DCS",
    arguments: &[CLUSTER_NAME_REQUIRED],
    options: &[GROUP, FORMAT],
    examples: &["patronictl remove batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let format = Format::parse(matches.text("format").unwrap_or("pretty"))?;
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    if store.citus == Some(None) {
        return failed("For Citus clusters the --group must me specified");
    }
    let scope = store.scope.as_str();
    let citus = store.citus.map(|_| None);
    output::write(&members::render(&cluster, Show { scope, extended: false, format, citus }));

    if prompt::ask("Please confirm the cluster name to remove", None).await? != scope {
        return failed("Cluster names specified do not match");
    }
    let question = format!("You are about to remove all information in DCS for {scope}, please type: \"{AWARE}\"");
    if prompt::ask(&question, None).await? != AWARE {
        return failed(format!("You did not exactly type \"{AWARE}\""));
    }
    if let Some(leader) = cluster.leader_name() {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if prompt::ask(question, None).await? != leader.as_str() {
            return failed("You did not specify the current leader of the cluster");
        }
    }
    store.delete_cluster().await
}
