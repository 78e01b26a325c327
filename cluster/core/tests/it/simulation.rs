//! Seeds that pass, and defects that do not.
//!
//! `TIDEWIRE_SIM_SEEDS=10000` runs more seeds, `TIDEWIRE_SIM_SEEDS=186..187` one of them again.

use std::ops::Range;

use crate::sim::{Defect, run};

/// Seeds that have to pass, and within which every defect has to be caught.
const SEEDS: u64 = 500;

fn seeds() -> Range<u64> {
    let Ok(asked) = std::env::var("TIDEWIRE_SIM_SEEDS") else {
        return 0..SEEDS;
    };
    let number = |text: &str| text.parse().expect("TIDEWIRE_SIM_SEEDS is N or FROM..TO");
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&asked),
    }
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_misplaced_whatever_fails() {
    let mut failed = Vec::new();
    let (mut steps, mut crashes, mut acknowledged) = (0, 0, 0);
    for seed in seeds() {
        let report = run(seed, Defect::None);
        steps += report.steps;
        crashes += report.crashes;
        acknowledged += report.acknowledged;
        if !report.violations.is_empty() {
            failed.push((seed, report.violations));
        }
    }
    println!("{steps} steps, {crashes} crashes, {acknowledged} messages acknowledged");
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        crashes > 0 && acknowledged > 0,
        "nothing was put to the test"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = |seed| run(seed, Defect::None).trace;

    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

/// The first violation that a defect shows, among as many seeds as pass without it.
fn caught(defect: Defect) -> Option<String> {
    (0..SEEDS).find_map(|seed| run(seed, defect).violations.into_iter().next())
}

macro_rules! caught {
    ($($(#[$doc:meta])* $name:ident: $defect:ident,)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            assert!(caught(Defect::$defect).is_some(), "in none of {SEEDS} seeds");
        }
    )*};
}

caught! {
    pubrel_before_rec_is_caught: PubrelBeforeRec,
    pubcomp_before_q2_out_is_caught: PubcompBeforeQ2Out,
    a_machine_that_refuses_no_gaps_is_caught: NoGapRefusal,
    an_item_of_an_earlier_sending_is_caught: AttemptsMixed,
    a_repeat_that_is_recomputed_is_caught: RepeatRecomputed,
    an_open_without_expected_epoch_is_caught: OpenWithoutExpectedEpoch,
    a_route_version_that_is_the_log_index_is_caught: RouteVersionIsLogIndex,
    epochs_that_restart_after_deletion_are_caught: EpochsRestart,
    an_outbox_that_is_not_resumed_is_caught: OutboxNotResumed,
    an_expire_without_epoch_is_caught: ExpireWithoutEpoch,
    an_unstamped_retain_is_caught: RetainUnstamped,
    entries_applied_before_their_sync_are_caught: AppliedBeforeSync,
    a_suback_before_the_routes_is_caught: SubackBeforeRoutes,
    the_stream_of_an_ended_epoch_is_caught: EndedEpochServed,
    a_clock_that_is_believed_is_caught: ClockBelieved,
}
