//! How members and clients talk: connections, who may open them, and what goes over them.

mod channel;
mod messages;
mod pool;
mod sealing;
mod transport;
mod version_1;

pub(crate) use channel::{Channel, LARGE_FRAME, SMALL_FRAME, Secret};
pub(crate) use messages::{Call, Hello, Peer, Refusal, Return, Welcome};
pub(crate) use pool::{CallError, Pool};
#[cfg(test)]
pub(crate) use transport::Stream;
pub use transport::TransportError;
pub(crate) use transport::{Bound, Greeted, Incoming, Tcp, Transport};
