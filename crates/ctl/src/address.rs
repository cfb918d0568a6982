//! Where PostgreSQL of a member can be reached: a rule that the REST API shares.

pub(crate) use patroni_core::cluster::Address;
