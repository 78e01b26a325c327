//! The workload of `tidewire chaos` against a lone node: all its checkers are green, without a fault and over a kill.

use std::path::Path;
use std::time::{Duration, Instant};

use chaos::checkers::{self, Observed, Verdict, Window};
use chaos::history::History;
use chaos::workload::{Config, Workload};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::node::Place;
use super::wait::until;

/// Messages that are acknowledged before a node is killed, and again afterwards.
const ACKED: u64 = 3_000;

/// Time for everything to come after that; the checkers' T.
const DRAIN: Duration = Duration::from_secs(90);

/// Rows are sealed soon, so that the store's files alone say what it has.
const CONFIG: &str = "[telemetry]\nhead_age_max = \"1s\"\nblock_rows = 16\n";

#[test]
fn all_checkers_of_a_workload_are_green_without_a_fault() {
    let place = Place::new().with_config(CONFIG);
    let _node = place.start();
    let running = Running::start(&place, 11);
    running.until_acked(ACKED);

    let (history, ledger) = running.finish();

    none_found(&checkers::check(&history, &Observed::default()));
    none_found(&[compared(&ledger.path().join("ledger"), &place)]);
}

#[test]
fn all_checkers_of_a_workload_are_green_over_a_kill_9() {
    let place = Place::new().with_config(CONFIG);
    let node = place.start();
    let running = Running::start(&place, 12);
    running.until_acked(ACKED);
    let from_us = running.now_us();

    node.kill_9();
    let _node = place.start();

    let until_us = running.now_us();
    running.until_acked(running.acked() + ACKED);
    let (history, ledger) = running.finish();
    let observed = Observed {
        faults: vec![Window {
            from_us,
            until_us,
            is_pause: false,
        }],
        ..Observed::default()
    };
    none_found(&checkers::check(&history, &observed));
    none_found(&[compared(&ledger.path().join("ledger"), &place)]);
}

/// A workload that runs beside the test.
struct Running {
    runtime: Runtime,
    workload: Workload,
    ledger: tempfile::TempDir,
}

impl Running {
    fn start(place: &Place, seed: u64) -> Self {
        let runtime = Runtime::new().expect("a runtime can be made");
        let ledger = tempfile::tempdir().expect("a temporary folder can be made");
        let _inside = runtime.enter();
        let workload = Workload::start(
            Config::default(),
            &[place.mqtt],
            seed,
            Some(&ledger.path().join("ledger")),
            &CancellationToken::new(),
        );
        Self {
            workload: workload.expect("there is a node"),
            runtime,
            ledger,
        }
    }

    fn acked(&self) -> u64 {
        self.workload.counts().acked
    }

    fn now_us(&self) -> u64 {
        self.workload.now().as_micros() as u64
    }

    fn until_acked(&self, count: u64) {
        until("messages to be acknowledged", || {
            (self.acked() >= count).then_some(())
        });
    }

    fn finish(self) -> (History, tempfile::TempDir) {
        let begun = Instant::now();
        let counts = self.workload.counts();
        let history = self.runtime.block_on(self.workload.finish(DRAIN));
        let history = history.expect("no client panics");
        eprintln!("{counts:?}, drained in {:?}", begun.elapsed());
        (history, self.ledger)
    }
}

fn compared(ledger: &Path, place: &Place) -> Verdict {
    checkers::telemetry(ledger, &benches::demo::Kept::Answers(&[place.admin]))
}

fn none_found(verdicts: &[Verdict]) {
    let table: Vec<String> = verdicts.iter().map(|one| format!("{one:#?}")).collect();
    let found = verdicts.iter().filter(|one| !one.is_green()).count();
    eprintln!("{}", table.join("\n"));
    assert_eq!(found, 0, "checkers found something, see above");
}
