//! How a command ends when it does not end well, and the exit code that says so.

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The command line is wrong: exit code 2. The usage line comes first, where the command is known.
    #[error("{message}")]
    Usage {
        /// The usage of the command and where to find help.
        hint: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// The command line is only asked for help: shown on stderr, exit code 2.
    #[error("{0}")]
    NoArguments(String),
    /// It cannot or must not be done: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Already told on stdout or stderr: exit code 1.
    #[error("")]
    Reported,
    /// Ctrl-C or end of input at a prompt: exit code 1.
    #[error("Aborted!")]
    Abort,
}

/// A failure with this text.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T, CtlError> {
    Err(CtlError::Failed(text.into()))
}

impl CtlError {
    /// Tells about it on stderr.
    pub(crate) fn show(&self) {
        match self {
            CtlError::Usage { hint, message } => {
                if let Some(hint) = hint {
                    eprintln!("{hint}\n");
                }
                eprintln!("Error: {message}");
            }
            CtlError::NoArguments(help) => eprint!("{help}"),
            CtlError::Failed(message) => eprintln!("Error: {message}"),
            CtlError::Reported => {}
            CtlError::Abort => eprintln!("Aborted!"),
        }
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CtlError::Usage { .. } | CtlError::NoArguments(_) => 2,
            CtlError::Failed(_) | CtlError::Reported | CtlError::Abort => 1,
        }
    }
}
