//! Requests from the REST API on their way through the loop.

use std::collections::BTreeMap;

use patroni_core::request::{Answer, Request, RequestId};
use tokio::sync::{mpsc, oneshot};

use crate::api::Envelope;

/// Requests that the loop has taken and not yet answered.
pub struct Requests {
    incoming: mpsc::Receiver<Envelope>,
    waiting: BTreeMap<RequestId, (Request, oneshot::Sender<Answer>)>,
    next: u64,
}

impl Requests {
    /// Nothing waits yet.
    pub fn new(incoming: mpsc::Receiver<Envelope>) -> Self {
        Requests { incoming, waiting: BTreeMap::new(), next: 0 }
    }

    /// Waits for the next request and takes it in. Cancel-safe. Never completes once the API is gone.
    pub async fn arrived(&mut self) {
        match self.incoming.recv().await {
            Some(envelope) => self.take(envelope),
            None => std::future::pending().await,
        }
    }

    /// All that wait for an answer, those that have just come included.
    pub fn facts(&mut self) -> BTreeMap<RequestId, Request> {
        while let Ok(envelope) = self.incoming.try_recv() {
            self.take(envelope);
        }
        self.waiting.iter().map(|(id, (request, _))| (*id, request.clone())).collect()
    }

    /// Hands out answers. Whoever asked and went away does not get one.
    pub fn answer(&mut self, answers: &BTreeMap<RequestId, Answer>) {
        for (id, answer) in answers {
            if let Some((_, reply)) = self.waiting.remove(id) {
                let _ = reply.send(answer.clone());
            }
        }
    }

    fn take(&mut self, envelope: Envelope) {
        self.next += 1;
        self.waiting.insert(RequestId(self.next), (envelope.request, envelope.reply));
    }
}
