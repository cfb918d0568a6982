//! `patronictl`: the command line for clusters of Patroni 4.1 and of patroni-rs alike.

mod by_members;
mod candidates;
mod cli;
mod commands;
mod context;
mod dcs_url;
mod difflib;
mod doctor;
mod editor;
mod embedded;
mod error;
mod interrupts;
mod members;
mod moving;
mod output;
mod place;
mod progress;
mod prompt;
mod python_value;
mod remote;
mod schedule;
mod selection;
mod sql;
mod statuses;
#[cfg(feature = "top")]
mod top;
mod watching;

#[cfg(test)]
mod golden;

use std::process::ExitCode;

use cli::definition::HELP;
use cli::help;
use cli::parse::{self, Named};
use context::Context;
use error::CtlError;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            result = run(&words) => result,
            () = interrupts::pressed() => {
                eprintln!();
                Err(CtlError::Abort)
            }
        }
    });
    // A read of the terminal that was given up cannot be cancelled; nothing else is left to wait for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.show();
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(words: &[String]) -> Result<(), CtlError> {
    let global = parse::parse_global(words, commands::ALL)?;
    if global.matches.flag(HELP.key) {
        output::write(&help::overview(commands::ALL));
        return Ok(());
    }
    let (command, rest) = match parse::find_command(&global.rest, commands::ALL)? {
        Named::Command(command, rest) => (command, rest),
        Named::Help(group) => {
            output::write(&help::group(group, commands::ALL));
            return Ok(());
        }
    };
    let context = Context::load(&global.matches)?;
    let matches = parse::parse_command(rest, command)?;
    if matches.flag(HELP.key) {
        output::write(&help::command(command));
        return Ok(());
    }
    (command.run)(&context, &matches).await
}
