//! The configuration of agent and patronictl: layers with their provenance, types, validation.

pub mod yaml;
