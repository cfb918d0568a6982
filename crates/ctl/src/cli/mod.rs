//! The command line: definitions, parsing, help. The grammar and the texts are those of Patroni's command line
//! (made with click), because scripts and habits depend on both.

pub(crate) mod completions;
pub(crate) mod definition;
pub(crate) mod help;
pub(crate) mod man;
pub(crate) mod parse;
