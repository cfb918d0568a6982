//! `patronictl store backup`: the contents of the embedded store in a file.

use std::io::Write;
use std::path::Path;

use crate::cli::definition::{Argument, Arity, Command, FORCE};
use crate::cli::parse::Matches;
use crate::context::Context;
use crate::embedded::{self, backup_file};
use crate::error::{CtlError, failed};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "store backup",
    help: "Write the contents of the embedded store to a file; - is standard output",
    arguments: &[Argument { key: "file", arity: Arity::Required, choices: &[] }],
    options: &[FORCE],
    examples: &["patronictl store backup /var/backups/patroni-store.json --force"],
    run: |context, matches| Box::pin(run(context, matches)),
};

async fn run(context: &Context, matches: &Matches) -> Result<(), CtlError> {
    let file = matches.text("file").unwrap_or_default();
    let path = Path::new(file);
    if file != "-" && path.exists() && !matches.flag("force") {
        return failed(format!("{file} exists: name another file, or replace it with --force"));
    }
    let (admin, _) = context.embedded_store()?;
    let backup = embedded::change(admin.backup()).await?;
    let text = backup_file::text(&backup, &jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    if file == "-" {
        output::write(&text);
        return Ok(());
    }
    replace(path, &text).or_else(|error| failed(format!("{file} cannot be written: {error}")))?;
    output::echo(&format!("Success: {} keys of revision {} are in {file}", backup.keys.len(), backup.revision.0));
    Ok(())
}

/// All of the new file or all of the old one, readable for its owner alone: settings may hold passwords.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}
