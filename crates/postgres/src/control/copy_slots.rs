//! Logical slots on a standby: PostgreSQL before 17 cannot make them itself, so they are copied as files while it is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use patroni_core::job::UpstreamMember;
use patroni_core::server::SlotKind;

use super::{Control, StartOptions, Started, StopOptions};
use crate::callbacks::CallbackAction;
use crate::cancel::{Cancel, Progress};
use crate::slots::copy::{self, Copy};
use crate::{Error, Result, blocking};

/// How long a question to the local server may take.
const QUERY_LIMIT: Duration = Duration::from_secs(3);

/// How copying ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The server runs with the copies.
    Done(Started),
    /// There was nothing to be had, and nothing was done to the server.
    Nothing,
}

impl Control {
    /// Reads the slots from the primary and restarts this standby with them. It is not stopped before there is something to copy that it
    /// can use. A server that does not start with the copies is started without them.
    ///
    /// # Errors
    /// The primary does not tell; the server cannot be stopped or started; the copies cannot be written.
    pub async fn copy_slots(
        &mut self,
        primary: &UpstreamMember,
        slots: &BTreeMap<String, SlotKind>,
        cancel: &Cancel,
        progress: &Progress,
    ) -> Result<Copied> {
        let copies = self.obtain(primary, slots).await?;
        if copies.is_empty() {
            return Ok(Copied::Nothing);
        }
        self.stop(StopOptions::planned(), cancel, progress).await?;
        progress.committed(format!("copying logical slots from {}", primary.name));
        // The last checkpoint may have removed WAL.
        let installed = match self.usable(copies).await {
            Ok(copies) => self.install(copies.clone()).await.map(|()| copies),
            Err(error) => Err(error),
        };
        let callback = Some(CallbackAction::OnStart);
        let start = StartOptions { role: self.role, follow: None, timeout: None, callback };
        let started = self.start(start.clone(), cancel, progress).await;
        match (installed, started) {
            (Ok(_), Ok(started)) => Ok(Copied::Done(started)),
            (Err(error), started) => started.and(Err(error)),
            (Ok(_), Err(Error::Cancelled)) => Err(Error::Cancelled),
            (Ok(copies), Err(error)) => {
                tracing::error!("PostgreSQL does not start with copies of logical slots; starting it without them");
                self.uninstall(copies).await?;
                self.start(start, cancel, progress).await?;
                Err(error)
            }
        }
    }

    /// What can be copied, and used here.
    async fn obtain(
        &self,
        primary: &UpstreamMember,
        slots: &BTreeMap<String, SlotKind>,
    ) -> Result<BTreeMap<String, Copy>> {
        let mut copies = self.usable(copy::read(&self.options(), primary, slots).await?).await?;
        let connection = self.monitor.connect("slots").await?;
        let rows = connection
            .query_within(
                "SELECT slot_name, pg_catalog.current_setting('max_replication_slots') FROM (SELECT NULL AS slot_name \
                 UNION ALL SELECT slot_name FROM pg_catalog.pg_replication_slots) s",
                QUERY_LIMIT,
            )
            .await?;
        let limit = rows.first().and_then(|row| row.parse::<usize>(1)).unwrap_or(0);
        let mut present = rows.iter().filter(|row| row.get(0).is_some()).count();
        copies.retain(|name, _| {
            present += usize::from(!rows.iter().any(|row| row.get(0) == Some(name)));
            if present > limit {
                tracing::error!("Will not copy the logical slot \"{name}\": max_replication_slots is {limit}");
            }
            present <= limit
        });
        Ok(copies)
    }

    async fn usable(&self, mut copies: BTreeMap<String, Copy>) -> Result<BTreeMap<String, Copy>> {
        let data_dir = self.options().data_dir.clone();
        let segment_size = self.monitor.control_values().await?.wal_segment_size();
        let missing = || Error::Unexpected("pg_controldata did not print the size of WAL files".to_owned());
        let segment_size = segment_size.ok_or_else(missing)?;
        blocking::at(&data_dir, move |data_dir| {
            copy::retain_usable(data_dir, segment_size, &mut copies).map(|()| copies)
        })
        .await
    }

    async fn install(&self, copies: BTreeMap<String, Copy>) -> Result<()> {
        let data_dir = self.options().data_dir.clone();
        blocking::at(&data_dir, move |data_dir| copy::install(data_dir, &copies)).await
    }

    async fn uninstall(&self, copies: BTreeMap<String, Copy>) -> Result<()> {
        let data_dir = self.options().data_dir.clone();
        blocking::at(&data_dir, move |data_dir| {
            copy::uninstall(data_dir, &copies);
            Ok(())
        })
        .await
    }
}
