//! `patronictl dsn`: how to connect to a member.

use crate::cli::definition::{CLUSTER_NAME, Command, GROUP, Kind, Opt, ROLES};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::{CtlError, failed};
use crate::{output, selection};
use patroni_core::cluster::Address;

pub(crate) const COMMAND: Command = Command {
    name: "dsn",
    help: "Generate a dsn for the provided member, defaults to a dsn of the leader",
    arguments: &[CLUSTER_NAME],
    options: &[
        Opt { names: &["--role", "-r"], key: "role", kind: ROLES, help: "Give a dsn of any member with this role" },
        Opt { names: &["--member", "-m"], key: "member", kind: Kind::Text, help: "Generate a dsn for this member" },
        GROUP,
    ],
    examples: &["psql \"$(patronictl dsn batman -r replica)\""],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let cluster = context.open_given(matches)?.load().await?;
    let role = matches.text("role").map(str::parse).transpose()?;
    let name = matches.text("member");
    match selection::one(&cluster, role, name)?.and_then(|member| Address::of(&member.data)) {
        Some(address) => output::echo(&format!("host={} port={}", address.host, address.port)),
        None => {
            let meant = selection::meant(name.as_slice(), &cluster);
            return failed(format!("Can not find a suitable member{meant}"));
        }
    }
    Ok(())
}
