//! `patronictl store get`: one key of a cluster, byte by byte.

use crate::cli::definition::{Argument, Arity, CLUSTER_NAME, Command, GROUP};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::error::{CtlError, failed};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "store get",
    help: "Print one key of a cluster as it is in the store; exit code 1 if it is absent",
    arguments: &[Argument { key: "key", arity: Arity::Required, choices: &[] }, CLUSTER_NAME],
    options: &[GROUP],
    examples: &["patronictl store get leader batman", "patronictl store get members/db1"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let store = context.open_default(matches)?;
    let asked = matches.text("key").unwrap_or_default();
    // Whoever copied the whole name from elsewhere means the same.
    let name = asked.strip_prefix(&store.prefix).unwrap_or(asked).trim_matches('/');
    let keys = store.read().await?;
    match keys.get(name) {
        Some(key) => output::write_bytes(&[&key.value[..], b"\n"].concat()),
        None if keys.is_empty() => return failed(format!("{} has no keys below {}", store.label, store.prefix)),
        None => {
            let there: Vec<&str> = keys.keys().map(String::as_str).collect();
            return failed(format!("there is no key {name} below {}; there are: {}", store.prefix, there.join(", ")));
        }
    }
    Ok(())
}
