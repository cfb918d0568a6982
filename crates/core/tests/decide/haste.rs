//! No rule keeps the loop busy: ticks without a pause end after a few, however badly everything goes on going.

use std::time::Duration;

use patroni_core::facts::{Answers, JobFact};
use patroni_core::job::JobOutcome;
use patroni_core::plan::JobOrder;

use crate::scene::{BASELINES, JOBS, Scene};
use crate::walk::{SITUATIONS, scene};

/// More ticks in a row without a pause are a busy loop.
const AT_MOST: usize = 6;

/// What goes wrong with everything in turn, besides what the situation says.
const MISFORTUNES: [&[&str]; 5] = [
    &[],
    &["renew refused", "acquire refused", "release refused"],
    &["renew unknown", "acquire unknown", "release unknown"],
    &["renew failed", "acquire failed", "release failed", "initialize-write failed"],
    &["peers unreachable", "initialize-write refused"],
];

/// Ticks in a world in which nothing changes and every job fails at once. Its end wakes the loop, so that no pause lies before the
/// next tick.
fn longest_haste(mut scene: Scene) -> (usize, String) {
    let (mut run, mut longest, mut story) = (0, 0, String::new());
    for _ in 0..3 * AT_MOST {
        let (_, plan) = scene.play();
        let ends = |job: &patroni_core::job::Job| JobFact::Ended(job.clone(), JobOutcome::Failed("it cannot".into()));
        scene.facts.job = match (&plan.job, &scene.facts.job) {
            (JobOrder::Start(job) | JobOrder::Replace(job), _) => ends(job),
            (JobOrder::Cancel | JobOrder::Keep, JobFact::Running(view)) => JobFact::Running(view.clone()),
            (JobOrder::Cancel | JobOrder::Keep, JobFact::Idle | JobFact::Ended(..)) => JobFact::Idle,
        };
        let at_once = plan.wake_after.is_zero() || matches!(scene.facts.job, JobFact::Ended(..));
        run = if at_once { run + 1 } else { 0 };
        longest = longest.max(run);
        story += &format!("{} {:?}\n", plan.verdict, plan.job);
        scene.facts.now.boot.0 += plan.wake_after.max(Duration::from_millis(1));
        scene.facts.requests.clear();
        scene.facts.answers = Answers::default();
        scene.memory = plan.memory;
        if plan.exit.is_some() {
            break;
        }
    }
    (longest, story)
}

#[test]
fn nothing_is_tried_again_and_again_without_a_pause() {
    for baseline in BASELINES {
        for (index, first) in SITUATIONS.iter().enumerate() {
            for second in &SITUATIONS[index..] {
                for misfortune in MISFORTUNES {
                    let Some(scene) = scene(baseline, &[first, second, misfortune]) else { continue };
                    let (longest, story) = longest_haste(scene);
                    assert!(longest <= AT_MOST, "{baseline}, {first:?}, {second:?}, {misfortune:?}:\n{story}");
                }
            }
        }
    }
}

#[test]
fn no_job_that_fails_is_repeated_without_a_pause() {
    for baseline in BASELINES {
        for job in JOBS {
            let ended = format!("ended {job} failed");
            for situation in SITUATIONS {
                let Some(scene) = scene(baseline, &[situation, &[ended.as_str()]]) else { continue };
                let (longest, story) = longest_haste(scene);
                assert!(longest <= AT_MOST, "{baseline}, {job}, {situation:?}:\n{story}");
            }
        }
    }
}
