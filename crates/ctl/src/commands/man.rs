//! `patronictl man`: the manual page.

use crate::cli::definition::Command;
use crate::cli::man;
use crate::output;

pub(crate) const COMMAND: Command = Command {
    name: "man",
    help: "Output the manual page in troff",
    arguments: &[],
    options: &[],
    examples: &["patronictl man | man -l -"],
    run: |_, _| {
        Box::pin(async {
            output::write(&man::page(super::ALL));
            Ok(())
        })
    },
};
