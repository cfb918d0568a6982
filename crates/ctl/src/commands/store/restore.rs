//! `patronictl store restore`: the contents of the embedded store are replaced by those of a backup.

use patroni_dcs::raft::admin::Backup;

use crate::cli::definition::{Argument, Arity, Command, FORCE, Kind, Opt};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::embedded::{self, backup_file};
use crate::error::{CtlError, failed};
use crate::{output, prompt};

pub(crate) const COMMAND: Command = Command {
    name: "store restore",
    help: "Replace the contents of the embedded store by those of a backup; its clusters come back paused",
    arguments: &[Argument { key: "file", arity: Arity::Required, choices: &[] }],
    options: &[
        Opt {
            names: &["--overwrite-living"],
            key: "overwrite_living",
            kind: Kind::Flag,
            help: "Do it although agents use the store: their leaders lose the lease and start over",
        },
        FORCE,
    ],
    examples: &["patronictl store restore /var/backups/patroni-store.json"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let file = matches.text("file").unwrap_or_default();
    let text = std::fs::read_to_string(file).or_else(|error| failed(format!("{file} cannot be read: {error}")))?;
    let taken = backup_file::read(&text).or_else(|reason| failed(format!("{file} is not restored: {reason}")))?;
    let (admin, _) = context.embedded_store()?;
    let present = embedded::change(admin.backup()).await?;
    let living = backup_file::living(&present);
    if !living.is_empty() && !matches.flag("overwrite_living") {
        return failed(format!(
            "agents use the store, for {}: nothing was done. End them first; if the leader is to lose its lease, and \
             be paused, while it runs: --overwrite-living",
            living.join(", ")
        ));
    }
    let wanted = backup_file::to_restore(&taken.backup);
    output::echo(&format!("{file} was taken at {} at revision {}.", taken.at, taken.backup.revision.0));
    for line in differences(&present, &wanted) {
        output::echo(&line);
    }
    if !matches.flag("force") && !prompt::confirm("Are you sure you want to replace the contents of the store?").await?
    {
        return Err(CtlError::Abort);
    }
    embedded::change(admin.restore(&wanted)).await?;
    output::echo(&format!(
        "Success: {} keys are restored. The clusters are paused: look at them, then patronictl resume",
        wanted.keys.len()
    ));
    Ok(())
}

/// What happens to each key.
fn differences(present: &Backup, wanted: &Backup) -> Vec<String> {
    let find =
        |backup: &'_ Backup, name: &str| backup.keys.iter().find(|key| key.key == name).map(|key| key.value.clone());
    let mut names: Vec<&str> = present.keys.iter().chain(&wanted.keys).map(|key| key.key.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let line = |name: &str| match (find(present, name), find(wanted, name)) {
        (Some(old), Some(new)) if old == new => format!("  {name} stays the same"),
        (Some(_), Some(_)) => format!("  {name} is replaced"),
        (None, Some(_)) => format!("  {name} is created"),
        (_, None) => format!("  {name} is deleted"),
    };
    names.into_iter().map(line).collect()
}
