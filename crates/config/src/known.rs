//! Which settings exist; a warning for those that do not, with the nearest one that does.

use crate::local::Local;
use crate::warning::Warning;

/// Finds settings that nobody reads.
pub(crate) fn unknown(_local: &Local) -> Vec<Warning> {
    Vec::new()
}
