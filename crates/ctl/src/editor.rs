//! The operator's editor, and the text they wrote in it, which is not lost whatever happens then.

use std::io::Write;
use std::path::PathBuf;

use crate::error::{CtlError, failed};

/// A file with what the operator wrote. It stays unless everything went well.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

/// Lets the operator edit a text.
pub(crate) async fn edit(text: &str, scope: &str) -> Result<Kept, CtlError> {
    let command = command()?;
    let kept = Kept::new(text, scope)?;
    let [program, arguments @ ..] = command.as_slice() else { return failed("EDITOR names no program") };
    let status = tokio::process::Command::new(program).args(arguments).arg(&kept.0).status().await;
    let problem = match status {
        Ok(status) if status.success() => return Ok(kept),
        Ok(status) => format!("Editor exited with return code {}", status.code().unwrap_or(-1)),
        Err(error) => format!("the editor {program} cannot be started: {error}"),
    };
    // Nothing was written: there is nothing to keep.
    if kept.read().is_ok_and(|now| now == text) {
        kept.remove();
        return failed(problem);
    }
    Err(kept.keep_for(problem))
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
        CtlError::Failed(format!("{problem}\n{}", self.told()))
    }

    fn told(&self) -> String {
        format!("What you edited is kept in {}", self.0.display())
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
                eprintln!("\n{}", self.told());
                Err(other)
            }
        }
    }

    fn remove(self) {
        // A file that stays behind harms nobody.
        let _ = std::fs::remove_file(&self.0);
    }
}
