//! The operator's editor, and the text they wrote in it, which is not lost whatever happens then.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::error::{CtlError, failed};
use crate::interrupts;

/// A file with what the operator wrote. It stays unless everything went well.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

/// Lets the operator edit a text.
pub(crate) async fn edit(text: &str, scope: &str) -> Result<Kept, CtlError> {
    let command = command()?;
    let kept = Kept::new(text, scope)?;
    let [program, arguments @ ..] = command.as_slice() else { return failed("EDITOR names no program") };
    #[allow(clippy::disallowed_methods, reason = "no service is told of by a person's editor")]
    let mut editor = tokio::process::Command::new(program);
    editor.args(arguments).arg(&kept.0);
    // Started inside, because it may be interrupted as soon as it runs.
    let status = interrupts::ignored_during(async { editor.status().await }).await;
    let problem = match status {
        Ok(status) if status.success() => return Ok(kept),
        Ok(status) => format!("Editor exited with return code {}", return_code(status)),
        Err(error) => format!("the editor {program} cannot be started: {error}"),
    };
    // Nothing was written: there is nothing to keep.
    if kept.read().is_ok_and(|now| now == text) {
        kept.remove();
        return failed(problem);
    }
    Err(kept.keep_for(problem))
}

/// A signal is a negative code, as Python has it.
fn return_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(1))
}

/// `EDITOR` with its arguments, or the first of the usual ones.
fn command() -> Result<Vec<String>, CtlError> {
    if let Some(given) = std::env::var("EDITOR").ok().filter(|text| !text.is_empty()) {
        return match shlex::split(&given) {
            Some(words) if !words.is_empty() => Ok(words),
            _ => failed(format!("EDITOR is not a command: {given}")),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["editor", "vi"].iter().find(|name| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()));
    match found {
        Some(name) => Ok(vec![(*name).to_owned()]),
        None => failed("EDITOR environment variable is not set. editor or vi are not available"),
    }
}

impl Kept {
    fn new(text: &str, scope: &str) -> Result<Self, CtlError> {
        let prefix = format!("{}-config-", scope.replace('/', "_"));
        let write = || {
            let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".yaml").tempfile()?;
            file.write_all(text.as_bytes())?;
            let (_, path) = file.keep().map_err(|error| error.error)?;
            Ok(path)
        };
        write().map(Kept).or_else(|error: std::io::Error| failed(format!("cannot write a file to edit: {error}")))
    }

    /// The text.
    pub(crate) fn read(&self) -> Result<String, CtlError> {
        std::fs::read_to_string(&self.0).or_else(|error| failed(format!("cannot read {}: {error}", self.0.display())))
    }

    /// The problem, and where the text is.
    fn keep_for(self, problem: String) -> CtlError {
        CtlError::Failed(format!("{problem}{}", self.told()))
    }

    /// Where the text is, on a line of its own; nothing if the editor has removed the file.
    fn told(&self) -> String {
        if self.0.exists() { format!("\nWhat you edited is kept in {}", self.0.display()) } else { String::new() }
    }

    /// Removes the file after success; says where it is otherwise.
    pub(crate) fn settle(self, result: Result<(), CtlError>) -> Result<(), CtlError> {
        match result {
            Ok(()) => {
                self.remove();
                Ok(())
            }
            Err(CtlError::Failed(text)) => Err(self.keep_for(text)),
            Err(other) => {
                eprintln!("{}", self.told());
                Err(other)
            }
        }
    }

    fn remove(self) {
        // A file that stays behind harms nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_where_it_is_told_to_be() {
        let kept = Kept::new("ttl: 30\n", "a/b").expect("kept");
        let path = kept.0.clone();
        let told = kept.settle(failed("wrong")).map_err(|error| error.to_string());
        assert_eq!(told, Err(format!("wrong\nWhat you edited is kept in {}", path.display())));
        assert!(path.exists());
        let again = Kept(path.clone());
        std::fs::remove_file(&path).expect("the editor removes it");
        let told = again.settle(failed("wrong")).map_err(|error| error.to_string());
        assert_eq!(told, Err("wrong".to_owned()));
    }

    #[test]
    fn codes_of_editors() {
        for (raw, code) in [(1 << 8, 1), (9, -9), (2, -2)] {
            assert_eq!(return_code(ExitStatus::from_raw(raw)), code);
        }
    }
}
