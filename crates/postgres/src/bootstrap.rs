//! Making a new cluster.
