//! The agent: the loop that drives decisions, the jobs that carry them out, the REST API that shows them.

pub mod api;
pub mod driver;
pub mod log;
pub mod peers;
