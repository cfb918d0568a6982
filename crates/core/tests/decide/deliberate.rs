//! The rows and the walks find every deliberate mistake.

use std::panic::{AssertUnwindSafe, catch_unwind};

use patroni_core::decide::deliberate::{Bug, commit};

use crate::rows::wrong_rows;
use crate::walk::walk_everything;

#[test]
fn every_mistake_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!("{:<20} {:>6}  walk", "mistake", "rows");
    for bug in Bug::ALL {
        commit(Some(bug));
        let rows = wrong_rows().len();
        let walk = catch_unwind(AssertUnwindSafe(walk_everything)).is_err();
        commit(None);
        println!("{:<20} {rows:>6}  {}", format!("{bug:?}"), if walk { "found" } else { "-" });
        if rows == 0 && !walk {
            missed.push(bug);
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "neither a row nor a walk finds {missed:?}");
}
