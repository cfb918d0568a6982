//! `patronictl store add`: a node becomes a member of the embedded store.

use super::ADDRESS;
use crate::cli::definition::{Command, FORCE};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::embedded;
use crate::error::CtlError;
use crate::output::rows::Format;
use crate::{output, prompt};

pub(crate) const COMMAND: Command = Command {
    name: "store add",
    help: "Take a node into the embedded store; it must run and belong to no store yet",
    arguments: &[ADDRESS],
    options: &[FORCE],
    examples: &["patronictl store add db4:9008"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let address = matches.text("address").unwrap_or_default();
    let (admin, configured) = context.embedded_store()?;
    output::write(&embedded::look(&admin, &configured).await?.render(Format::Pretty));
    if !matches.flag("force")
        && !prompt::confirm(&format!("Are you sure you want to add the member {address}?")).await?
    {
        return Err(CtlError::Abort);
    }
    embedded::change(admin.add(address)).await?;
    output::echo(&format!("Success: {address} is a member and votes"));
    Ok(())
}
