//! Seeds that pass, and defects that do not.
//!
//! `TIDEWIRE_SIM_SEEDS=200` runs more seeds, `TIDEWIRE_SIM_SEEDS=186..187` one of them again.

use std::process::Command;
use std::time::Instant;

use crate::sim::{Defect, Report, run};

/// Seeds that have to pass.
const SEEDS: u64 = 8;
/// Seeds within which every defect has to be caught. They pass without.
const CAUGHT: u64 = 200;
/// Seeds that are run again to compare the traces.
const SAMPLE: [u64; 2] = [2, 4];

/// Says that this process is the other one.
const TRACE_OF: &str = "TIDEWIRE_SIM_TRACE_OF";

fn seeds() -> std::ops::Range<u64> {
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
fn nothing_acknowledged_is_lost_on_whole_nodes_whatever_fails() {
    let began = Instant::now();
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    let mut failed = Vec::new();
    let (mut steps, mut faults, mut acknowledged, mut applied, mut bytes) = (0, 0, 0, 0, 0);
    for seed in seeds {
        let report = run(seed, Defect::None);
        steps += report.steps;
        faults += report.faults;
        acknowledged += report.acknowledged;
        applied += report.applied;
        bytes += report.delivered_bytes;
        if !report.violations.is_empty() {
            failed.push((seed, report.violations));
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{count} seeds, {steps} steps of three nodes in {seconds:.1} s");
    println!(
        "{faults} faults, {acknowledged} acknowledged, {applied} applied, {bytes} bytes delivered"
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(
        faults > 0 && acknowledged > 0,
        "nothing was put to the test"
    );
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in SAMPLE {
        let (one, other) = (run(seed, Defect::None), run(seed, Defect::None));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert_eq!(one.steps, other.steps, "seed {seed}");
    }
    assert_ne!(run(2, Defect::None).trace, run(4, Defect::None).trace);
}

/// Addresses, hash seeds and the like differ between processes.
#[test]
fn another_process_gives_the_same_run() {
    let seed = SAMPLE[0];
    let trace = run(seed, Defect::None).trace;
    if std::env::var(TRACE_OF).is_ok() {
        println!("trace {trace:016x}");
        return;
    }
    let text = again("another_process_gives_the_same_run");
    assert!(text.contains(&format!("trace {trace:016x}")), "{text}");
}

/// What another process says that runs a test of this file alone.
fn again(name: &str) -> String {
    let own = std::env::current_exe().expect("it runs");
    let output = Command::new(own)
        .args(["--exact", &format!("simulation::{name}"), "--nocapture"])
        .env(TRACE_OF, "1")
        .output()
        .expect("it can be run again");
    let (out, err) = (output.stdout, output.stderr);
    [out, err]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat()
}

fn caught(defect: Defect, kinds: &[&str]) {
    let mut first: Option<(u64, Report)> = None;
    for seed in 0..CAUGHT {
        let report = run(seed, defect);
        let is_caught = |violation: &String| kinds.iter().any(|kind| violation.contains(kind));
        if report.violations.iter().any(is_caught) {
            println!(
                "{defect:?} is caught by seed {seed}: {:?}",
                report.violations
            );
            return;
        }
        if !report.violations.is_empty() && first.is_none() {
            first = Some((seed, report));
        }
    }
    panic!("{defect:?} was not caught in {CAUGHT} seeds: {first:?}");
}

#[test]
fn a_voter_after_damage_is_caught() {
    if std::env::var(TRACE_OF).is_ok() {
        caught(Defect::VoterAfterDamage, &["is lost", "another"]);
        return;
    }
    let text = again("a_voter_after_damage_is_caught");
    // openraft may end the process first: what a replica has committed is rewritten.
    let is_rewritten = ["<= self.committed()", "contradicts locally committed logs"];
    let is_rewritten = is_rewritten.iter().any(|words| text.contains(words));
    assert!(is_rewritten || text.contains("is caught by seed"), "{text}");
}

#[test]
fn a_leader_restored_with_ids_it_had_not_synced_is_caught() {
    caught(Defect::LeaderRestored, &["is lost", "another"]);
}
