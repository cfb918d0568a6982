//! What is known in a tick, and how operations can end.

/// How an operation on the outside world ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome<T> {
    /// It happened.
    Done(T),
    /// It did not happen, and never will: somebody else holds the key, or the version was another. An answer, not
    /// an error.
    Refused,
    /// It did not happen: the text says why.
    Failed(String),
    /// A write that may or may not have happened: the connection broke or the deadline passed after it was sent.
    Unknown(String),
}

impl<T> Outcome<T> {
    /// It surely happened.
    pub fn is_done(&self) -> bool {
        matches!(self, Outcome::Done(_))
    }

    /// The result, if it surely happened.
    pub fn done(self) -> Option<T> {
        match self {
            Outcome::Done(value) => Some(value),
            Outcome::Refused | Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }
}
