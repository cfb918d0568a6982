//! The embedded store, as those who look after it see it. What is asked is asked here; texts are pure functions.

pub(crate) mod backup_file;
pub(crate) mod findings;
pub(crate) mod picture;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use patroni_dcs::raft::admin::{AdminError, Administration};

use crate::error::CtlError;
use picture::{Picture, Seen};

/// How long a question about the state may take.
const LOOKING: Duration = Duration::from_secs(10);
/// How long a change may take: a new member has to catch up first.
const CHANGING: Duration = Duration::from_secs(180);

/// A store, through its members.
pub(crate) type Admin = Arc<dyn Administration + Send + Sync>;

/// Asks the store, then each member what it says itself.
pub(crate) async fn look(admin: &Admin, configured: &[String]) -> Result<Picture, CtlError> {
    let status = within(LOOKING, admin.status()).await?;
    let mut addresses: Vec<String> = status.members.iter().map(|member| member.address.clone()).collect();
    addresses.push(status.address.clone());
    if status.members.is_empty() {
        addresses.extend_from_slice(configured);
    }
    addresses.sort();
    addresses.dedup();
    let ask = |address: String| async {
        let answer = within(LOOKING, admin.status_of(&address)).await.map_err(|error| {
            let text = error.to_string();
            text.strip_prefix(&format!("{address}: ")).unwrap_or(&text).to_owned()
        });
        Seen { address, answer }
    };
    Ok(Picture { seen: join_all(addresses.into_iter().map(ask)).await, status })
}

/// Changes something.
pub(crate) async fn change<T>(work: impl Future<Output = Result<T, AdminError>>) -> Result<T, CtlError> {
    within(CHANGING, work).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, AdminError>>) -> Result<T, CtlError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(|error| CtlError::Failed(error.to_string())),
        Err(_) => Err(CtlError::Failed(format!(
            "the store has not answered within {} s; whether it was done is not known: patronictl store status",
            limit.as_secs()
        ))),
    }
}
