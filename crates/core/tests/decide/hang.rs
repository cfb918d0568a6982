//! Who watches whether the server hangs: a leader, where that was asked for.

use patroni_core::effects::Effect;

use crate::scene::Scene;

fn watches(words: &[&str]) -> bool {
    let (baseline, others) = words.split_first().expect("a baseline");
    let mut scene = Scene::baseline(baseline).expect("a baseline");
    others.iter().for_each(|word| scene.apply(word));
    let (_, plan) = scene.play();
    let told = plan.effects.iter().find_map(|effect| match effect {
        Effect::WatchForHang(wanted) => Some(*wanted),
        _ => None,
    });
    told.expect("every tick says whether it is watched")
}

#[test]
fn the_leader_is_watched_unless_that_is_turned_off() {
    assert!(watches(&["leader"]));
    assert!(!watches(&["leader", "primary-hang-timeout 0"]));
    assert!(watches(&["leader", "primary-hang-timeout 15"]));
    assert!(!watches(&["leader", "primary-hang-timeout 15", "paused"]));
    assert!(!watches(&["replica", "primary-hang-timeout 15"]), "it has no lease that could hang");
}
