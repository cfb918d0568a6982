//! The log.

/// How the queue of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Lines that wait to be written.
    pub queued: usize,
    /// So many are normal.
    pub expected: usize,
    /// Lines that were lost because the queue was full, since that was last told.
    pub lost: u64,
}
