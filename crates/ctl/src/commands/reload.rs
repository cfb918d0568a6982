//! `patronictl reload`: members read their configuration again.

use http::Method;

use crate::cli::definition::{CLUSTER_NAME_REQUIRED, Command, FORCE, GROUP, MEMBER_NAMES, Opt, ROLES};
use crate::cli::parse::Matches;
use crate::context::{Context, SHORT};
use crate::error::CtlError;
use crate::{output, selection};
use patroni_core::settings::Dynamic;

pub(crate) const COMMAND: Command = Command {
    name: "reload",
    help: "Reload cluster member configuration",
    arguments: &[CLUSTER_NAME_REQUIRED, MEMBER_NAMES],
    options: &[
        GROUP,
        Opt { names: &["--role", "-r"], key: "role", kind: ROLES, help: "Reload only members with this role" },
        FORCE,
    ],
    examples: &["patronictl reload batman postgres-1"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_given(matches)?;
    let cluster = store.load().await?;
    let request = context.selection(matches, &store, "reload")?;
    let members = selection::pick(&cluster, request).await?;
    selection::confirm(&members, request.force, "reload").await?;
    let loop_wait = Dynamic::of_cluster(&cluster).loop_wait.as_secs();
    for member in members {
        let answer = context.ask(member, Method::POST, "reload", None, SHORT).await?;
        let name = &member.name;
        output::echo(&match answer.status {
            200 => format!("No changes to apply on member {name}"),
            202 => {
                format!("Reload request received for member {name} and will be processed within {loop_wait} seconds")
            }
            status => format!("Failed: reload for member {name}, status code={status}, ({})", answer.body),
        });
    }
    Ok(())
}
