//! Seeds that pass, and defects that do not.

use crate::sim::{Defect, run};

const SEEDS: u64 = 500;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_misplaced_whatever_fails() {
    let mut crashes = 0;
    let mut acknowledged = 0;
    let mut failed = 0;
    let mut steps = 0;
    for seed in 0..SEEDS {
        let report = run(seed, Defect::None);
        if !report.violations.is_empty() {
            failed += 1;
            if failed < 8 {
                println!("seed {seed}: {:#?}", report.violations);
            }
        }
        crashes += report.crashes;
        steps += report.steps;
        acknowledged += report.acknowledged;
    }
    println!("{failed} failed; {steps} steps, {crashes} crashes, {acknowledged} acknowledged");
    assert!(failed == 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(7, Defect::None).trace, run(7, Defect::None).trace);
    assert_ne!(run(7, Defect::None).trace, run(8, Defect::None).trace);
}

#[test]
fn one() {
    let seed = std::env::var("SEED").unwrap().parse().unwrap();
    println!("{:#?}", run(seed, Defect::None).violations);
}

#[test]
fn defects() {
    for defect in [
        Defect::PubrelBeforeRec,
        Defect::PubcompBeforeQ2Out,
        Defect::NoGapRefusal,
        Defect::AttemptsMixed,
        Defect::RepeatRecomputed,
        Defect::OpenWithoutExpectedEpoch,
        Defect::RouteVersionIsLogIndex,
        Defect::EpochsRestart,
        Defect::OutboxNotResumed,
        Defect::ExpireWithoutEpoch,
        Defect::RetainUnstamped,
        Defect::AppliedBeforeSync,
        Defect::SubackBeforeRoutes,
        Defect::EndedEpochServed,
        Defect::ClockBelieved,
    ] {
        let found = (0..SEEDS).find_map(|seed| {
            let report = std::panic::catch_unwind(|| run(seed, defect));
            match report {
                Ok(report) if report.violations.is_empty() => None,
                Ok(report) => Some((seed, report.violations[0].clone())),
                Err(_) => Some((seed, "PANIC".to_owned())),
            }
        });
        println!("{defect:?}: {found:?}");
    }
}
