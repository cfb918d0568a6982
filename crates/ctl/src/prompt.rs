//! Questions to the operator. Ctrl-C and the end of input abort the command; nothing has happened then.

use std::io::{BufRead, IsTerminal, Write};

use crate::error::CtlError;
use crate::{interrupts, output};

/// What click says of an answer that it cannot use.
const NOT_TEXT: &str = "Error: invalid input";

/// Asks for a text. An empty answer means the default; without one the question is asked again.
pub(crate) async fn ask(question: &str, default: Option<&str>) -> Result<String, CtlError> {
    let shown = default.map_or(String::new(), |value| format!(" [{value}]"));
    loop {
        let Some(answer) = read_line(&format!("{question}{shown}: ")).await? else {
            output::echo(NOT_TEXT);
            continue;
        };
        match (answer.is_empty(), default) {
            (false, _) => return Ok(answer),
            (true, Some(value)) => return Ok(value.to_owned()),
            (true, None) => {}
        }
    }
}

/// Asks for a yes; an empty answer is a no.
pub(crate) async fn confirm(question: &str) -> Result<bool, CtlError> {
    loop {
        let answer = read_line(&format!("{question} [y/N]: ")).await?;
        match answer.map(|answer| answer.trim().to_lowercase()).as_deref() {
            Some("y" | "yes") => return Ok(true),
            Some("n" | "no" | "") => return Ok(false),
            Some(_) | None => output::echo(NOT_TEXT),
        }
    }
}

/// Asks for a password, which is not shown while it is typed. The question is on stderr, because results of queries
/// follow on stdout.
pub(crate) async fn password() -> Result<String, CtlError> {
    loop {
        let hidden = HiddenInput::start();
        eprint!("Password: ");
        let answer = read_line("").await;
        if hidden.is_some() {
            eprintln!();
        }
        drop(hidden);
        match answer? {
            Some(answer) if !answer.is_empty() => return Ok(answer),
            Some(_) => {}
            None => eprintln!("{NOT_TEXT}"),
        }
    }
}

/// Reads a line, with the time of the operator. `None`: it is not UTF-8.
async fn read_line(question: &str) -> Result<Option<String>, CtlError> {
    output::write(question);
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = Vec::new();
        std::io::stdin().lock().read_until(b'\n', &mut line).map(|_| line)
    });
    tokio::select! {
        biased;
        () = interrupts::pressed() => Err(CtlError::Abort),
        read = reading => match read {
            Ok(Ok(line)) if !line.is_empty() => {
                Ok(String::from_utf8(line).ok().map(|line| line.trim_end_matches(['\n', '\r']).to_owned()))
            }
            _ => Err(CtlError::Abort),
        },
    }
}

/// While it lives, the terminal does not show what is typed.
struct HiddenInput(rustix::termios::Termios);

impl HiddenInput {
    fn start() -> Option<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).ok()?;
        let _ = std::io::stderr().flush();
        Some(HiddenInput(before))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Flush, &self.0);
    }
}
