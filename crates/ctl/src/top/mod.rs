//! The live view of a cluster: what is known ([`picture`]), what changed ([`events`]), what keys do ([`app`]), how it
//! is drawn ([`screen`]). Nothing here asks or does anything; that is left to the command.

pub(crate) mod app;
pub(crate) mod events;
pub(crate) mod picture;
pub(crate) mod screen;

#[cfg(test)]
mod tests;
