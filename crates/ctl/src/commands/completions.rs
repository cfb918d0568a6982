//! `patronictl completions`: completions for shells.

use crate::cli::completions;
use crate::cli::definition::{Argument, Arity, Command};
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "completions",
    help: "Output completions for a shell",
    arguments: &[Argument { key: "shell", arity: Arity::Required, choices: &["bash", "zsh", "fish"] }],
    options: &[],
    examples: &["source <(patronictl completions bash)", "patronictl completions fish | source"],
    run: |_, matches| {
        Box::pin(async {
            output::write(&completions::script(matches.text("shell").unwrap_or_default(), super::ALL));
            Ok(())
        })
    },
};
