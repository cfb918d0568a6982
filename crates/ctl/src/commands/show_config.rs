//! `patronictl show-config`: the dynamic configuration.

use serde_json::Value;

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::CtlError;
use crate::output::{self, yaml};

pub(crate) const COMMAND: Command = Command {
    name: "show-config",
    help: "Show cluster configuration",
    arguments: &[CLUSTER_NAME],
    options: &[GROUP],
    examples: &["patronictl show-config batman"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let cluster = context.open_default(matches)?.load().await?;
    if let Some(config) = cluster.config {
        output::echo(&yaml::block(&Value::Object(config.data.unwrap_or_default())));
    }
    Ok(())
}
