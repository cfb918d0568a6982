//! Making a replica.
