//! `patronictl store remove`: a member of the embedded store that is gone for good is forgotten.

use super::ADDRESS;
use crate::cli::definition::{Command, FORCE};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::embedded;
use crate::error::{CtlError, failed};
use crate::output::rows::Format;
use crate::{output, prompt};

pub(crate) const COMMAND: Command = Command {
    name: "store remove",
    help: "Remove a member from the embedded store for good",
    arguments: &[ADDRESS],
    options: &[FORCE],
    examples: &["patronictl store remove db3:9008"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let address = matches.text("address").unwrap_or_default();
    let (admin, configured) = context.embedded_store()?;
    let picture = embedded::look(&admin, &configured).await?;
    output::write(&picture.render(Format::Pretty));
    if !picture.status.members.iter().any(|member| member.address == address) {
        let known: Vec<&str> = picture.status.members.iter().map(|member| member.address.as_str()).collect();
        return failed(format!("{address} is no member of the store; its members are {}", known.join(", ")));
    }
    if !matches.flag("force") {
        if picture.answer_of(address).is_some() {
            output::echo(&format!("{address} is alive. It would end to vote, and come back only as a new member."));
        }
        if !prompt::confirm(&format!("Are you sure you want to remove the member {address}?")).await? {
            return Err(CtlError::Abort);
        }
    }
    embedded::change(admin.remove(address)).await?;
    output::echo(&format!("Success: {address} is no member any more"));
    Ok(())
}
