//! The agent: the loop that drives decisions, the jobs that carry them out, the REST API that shows them.

pub mod api;
pub mod driver;
mod json;
pub mod log;
pub mod peers;
