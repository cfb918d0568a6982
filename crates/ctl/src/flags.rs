//! What the dynamic configuration says about the cluster: a rule that the REST API shares.

pub(crate) use patroni_core::cluster::{Flags, is_synchronous, settings};
