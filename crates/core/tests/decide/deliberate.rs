//! Rows, walks and sequences of ticks find every deliberate mistake.

use std::panic::{AssertUnwindSafe, catch_unwind};

use patroni_core::decide::deliberate::{Bug, commit};

use crate::fence::wrong_fences;
use crate::rows::wrong_rows;
use crate::sequences::{
    a_lost_sync_key_is_remembered_while_somebody_still_holds_the_lease as remembered,
    a_standby_is_not_published_before_its_wal_sender_goes_by_the_setting as settled,
};
use crate::shown;
use crate::walk::walk_everything;

#[test]
fn every_mistake_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    println!("{:<22} {:>6}  walk   sequences", "mistake", "rows");
    for bug in Bug::ALL {
        commit(Some(bug));
        let rows = wrong_rows().len() + wrong_fences().len() + shown::wrong_rows().len();
        let walk = catch_unwind(AssertUnwindSafe(walk_everything)).is_err();
        let sequences = [remembered, settled].into_iter().any(|test| catch_unwind(test).is_err());
        commit(None);
        let word = |found| if found { "found" } else { "-" };
        println!("{:<22} {rows:>6}  {:<5}  {}", format!("{bug:?}"), word(walk), word(sequences));
        if rows == 0 && !walk && !sequences {
            missed.push(bug);
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "neither a row, a walk nor a sequence finds {missed:?}");
}
