//! Seeds that pass, and defects that do not.
//!
//! `TIDEWIRE_SIM_SEEDS=10000` runs more seeds, `TIDEWIRE_SIM_SEEDS=186..187` one of them again.

use std::process::Command;
use std::time::Instant;

use crate::sim::{
    Defect, Report, run, run_apart, run_cluster, run_cluster_owned, run_diligent, run_owned,
    run_shared,
};

/// Seeds that have to pass, and within which every defect has to be caught.
const SEEDS: u64 = 500;
/// The same with clients that share a filter, each of which is much more work.
const SHARED_SEEDS: u64 = 200;

/// The same with clients that have topics of their own.
const OWNED_SEEDS: u64 = 100;

/// The same with connections as of several nodes.
const APART_SEEDS: u64 = 100;

/// The same with several nodes.
const CLUSTER_SEEDS: u64 = 100;
/// The same with clients that have topics of their own.
const CLUSTER_OWNED_SEEDS: u64 = 40;
/// Seeds within which the defects of several nodes have to be caught. They pass without.
const CLUSTER_CAUGHT: u64 = 500;

/// Seeds beyond those that once failed.
const KEPT: [u64; 1] = [
    // A clock that stepped before the first entry of a life, after a pause.
    5974,
];

/// Names the seed whose trace another process asks for.
const TRACE_OF: &str = "TIDEWIRE_SIM_TRACE_OF";

fn seeds(count: u64) -> Vec<u64> {
    let Ok(asked) = std::env::var("TIDEWIRE_SIM_SEEDS") else {
        return (0..count).chain(KEPT).collect();
    };
    let number = |text: &str| text.parse().expect("TIDEWIRE_SIM_SEEDS is N or FROM..TO");
    match asked.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None => (0..number(&asked)).collect(),
    }
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_misplaced_whatever_fails() {
    nothing_is_violated(run, SEEDS);
}

#[test]
fn the_same_holds_with_groups_whose_members_come_and_go() {
    nothing_is_violated(run_shared, SHARED_SEEDS);
}

/// A CONNECT that was read after that of the client's next connection ended what that one was promised. Seeds that showed
/// it, where the node does more between two events.
#[test]
fn a_connect_that_is_read_late_unseats_no_later_connection() {
    for seed in [322, 337, 917, 1208, 1328, 1964, 3294, 3933, 4049, 4528] {
        assert_eq!(
            run_diligent(seed, Defect::None).violations,
            [""; 0],
            "{seed}"
        );
    }
}

#[test]
fn the_same_holds_in_a_cluster_whose_nodes_and_links_fail() {
    nothing_is_violated(run_cluster, CLUSTER_SEEDS);
}

/// `docs/adr/016`: what a client subscribes to of its own has no row.
#[test]
fn the_same_holds_of_topics_that_belong_to_one_client() {
    nothing_is_violated(run_owned, OWNED_SEEDS);
}

#[test]
fn the_same_holds_of_such_topics_in_a_cluster() {
    nothing_is_violated(run_cluster_owned, CLUSTER_OWNED_SEEDS);
}

/// `docs/adr/009`: connections of several nodes are in no order.
#[test]
fn a_connect_that_is_read_late_at_another_node_unseats_no_later_connection() {
    nothing_is_violated(run_apart, APART_SEEDS);
}

/// What the expected epoch alone does not prevent: a clean start ends a session whose SUBACK was
/// sent, and what was acknowledged to publishers afterwards is lost to it.
#[test]
fn a_clean_start_that_is_read_late_is_caught_ending_a_session_after_its_suback() {
    let violations = run_apart(2092, Defect::LateConnectTaken).violations;

    assert!(
        violations.iter().any(|v| v.contains("unseated")),
        "{violations:?}"
    );
    assert!(
        violations.iter().any(|v| v.ends_with("is lost")),
        "{violations:?}"
    );
}

fn nothing_is_violated(run: fn(u64, Defect) -> Report, count: u64) {
    let began = Instant::now();
    let seeds = seeds(count);
    let count = seeds.len();
    let mut failed = Vec::new();
    let (mut steps, mut crashes, mut acknowledged) = (0, 0, 0);
    for seed in seeds {
        let report = run(seed, Defect::None);
        steps += report.steps;
        crashes += report.crashes;
        acknowledged += report.acknowledged;
        if !report.violations.is_empty() {
            failed.push((seed, report.violations));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{count} seeds, {steps} steps in {seconds:.1} s");
    println!("{crashes} crashes, {acknowledged} messages acknowledged");
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

#[test]
fn another_process_gives_the_same_trace() {
    let trace = |seed| format!("seed {seed}: {:?}", run(seed, Defect::None).trace);
    if let Ok(asked) = std::env::var(TRACE_OF) {
        let seed = asked.parse().expect("the number of a seed");
        return println!("{}", trace(seed));
    }
    let name = "simulation::another_process_gives_the_same_trace";
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", name, "--nocapture"]);

    let output = other.env(TRACE_OF, "9").output().unwrap();

    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&trace(9)), "{text}");
}

/// It takes a short session, a pause and two steps: too much for the first seeds.
#[test]
fn a_log_time_that_catches_up_is_caught_by_the_seed_that_showed_it() {
    let report = run(5974, Defect::ClockCatchesUp);

    assert_eq!(
        report.violations,
        ["brief-e: the session is gone after 4517 ms"]
    );
}

/// The first violation that a defect shows, and its seed, among as many as pass without it; the seed
/// that showed it when it was looked for last comes first.
fn caught(
    run: fn(u64, Defect) -> Report,
    defect: Defect,
    (last, count): (u64, u64),
) -> Option<(u64, String)> {
    std::iter::once(last).chain(0..count).find_map(|seed| {
        let violation = run(seed, defect).violations.into_iter().next()?;
        Some((seed, violation))
    })
}

macro_rules! caught {
    ($run:ident, $count:ident: $($(#[$doc:meta])* $name:ident: $defect:ident $(at $seed:literal)?,)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let seeds = (0 $(+ $seed)?, $count);
            let found = caught($run, Defect::$defect, seeds);
            let (seed, violation) = found.expect("within these seeds");
            println!("{:?}: seed {seed}: {violation}", Defect::$defect);
        }
    )*};
}

caught! {
    run, SEEDS:
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

caught! {
    run_apart, APART_SEEDS:
    a_late_connect_that_is_taken_is_caught: LateConnectTaken,
}

caught! {
    run_owned, OWNED_SEEDS:
    a_message_that_goes_only_where_rows_say_is_caught: OwnerNotComputed,
    a_retained_message_that_is_not_with_its_owner_is_caught: OwnedRetainedElsewhere,
}

caught! {
    run_cluster_owned, CLUSTER_OWNED_SEEDS:
    a_message_of_another_node_that_goes_only_where_rows_say_is_caught: OwnerNotComputed,
}

caught! {
    run_shared, SHARED_SEEDS:
    a_suback_before_the_membership_is_caught: SubackBeforeMembership,
    a_shared_message_that_counts_as_acknowledged_once_sent_is_caught: SharedAckedAtOnce,
}

caught! {
    run_cluster, CLUSTER_CAUGHT:
    a_suback_without_the_lease_is_caught: SubackWithoutLease at 407,
    a_suback_before_other_nodes_see_the_routes_is_caught: SubackBeforeOthers,
    a_puback_without_the_lease_is_caught: AckWithoutLease at 109,
    a_leader_that_hands_nothing_out_again_is_caught: NothingHandedAgain,
    a_connection_that_sends_again_what_it_sent_is_caught: LiveResends,
    a_late_connect_at_another_node_is_caught: LateConnectTaken at 57,
    an_outbox_that_a_new_leader_does_not_resume_is_caught: OutboxNotResumed,
    the_end_of_an_epoch_that_meta_does_not_show_yet_is_caught: NewEpochGone,
    an_item_of_an_epoch_that_ended_is_caught: EndedEpochServed,
    what_an_ended_connection_asked_for_and_is_sent_again_is_caught: EndedSentAgain at 184,
    a_leader_that_needs_no_majority_is_caught: MinorityCommits,
    a_will_that_is_published_before_the_routes_are_known_is_caught: WillBeforeRoutes at 237,
    a_suback_before_a_group_of_another_node_has_the_member_is_caught: SubackBeforeMembership,
}
