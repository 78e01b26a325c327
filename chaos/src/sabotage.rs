//! Sabotage: a checker has to find each defect, and the same run without it has to be green.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use defects::Defect;
use serde::Serialize;

use crate::suite::{self, Outcome, Summary};
use crate::{Error, Options};

/// Seed of faults and clients unless another one is given.
const SEED: u64 = 11;

/// Is what provokes a defect.
struct Case {
    defect: Defect,
    /// A shipped scenario.
    scenario: &'static str,
    /// Strains of all nodes, with and without the defect.
    strain: &'static str,
    /// How long faults are drawn.
    seconds: u64,
    /// The checkers that look at the promise it breaks; one of them has to find it.
    by: &'static [&'static str],
}

/// Where each defect shows soonest; `docs/chaos-defects.md` says why.
const CASES: [Case; 16] = [
    Case {
        defect: Defect::PubrelBeforeRec,
        scenario: "kills",
        strain: "slow-sync=15",
        seconds: 40,
        by: &["exactly-once"],
    },
    Case {
        defect: Defect::PubcompBeforeQ2Out,
        scenario: "kills",
        strain: "slow-sync=15",
        seconds: 40,
        by: &["lost", "exactly-once"],
    },
    Case {
        defect: Defect::NoGapRefusal,
        scenario: "storms",
        strain: "lose-items=20",
        seconds: 30,
        by: &["lost", "order"],
    },
    Case {
        defect: Defect::RepeatRecomputed,
        scenario: "storms",
        strain: "lose-answers=20",
        seconds: 30,
        by: &["protocol"],
    },
    Case {
        defect: Defect::OpenWithoutExpectedEpoch,
        scenario: "late",
        strain: "",
        seconds: 60,
        by: &["owner", "session", "lost"],
    },
    Case {
        defect: Defect::RouteVersionIsLogIndex,
        scenario: "storms",
        strain: "",
        seconds: 20,
        by: &["lost"],
    },
    Case {
        defect: Defect::EpochsRestart,
        scenario: "storms",
        strain: "",
        seconds: 20,
        by: &["lost", "exactly-once"],
    },
    Case {
        defect: Defect::LeaderRestored,
        scenario: "outage",
        strain: "power-cut=1,slow-sync=20",
        seconds: 60,
        by: &["replicas", "lost", "session"],
    },
    Case {
        defect: Defect::SubackWithoutLease,
        scenario: "leases",
        strain: "",
        seconds: 60,
        by: &["lease", "suback"],
    },
    Case {
        defect: Defect::AckWithoutLease,
        scenario: "partitions",
        strain: "",
        seconds: 60,
        by: &["lease", "suback", "lost"],
    },
    Case {
        defect: Defect::ReaderAheadOfFsync,
        scenario: "kills",
        strain: "power-cut=1,slow-sync=50",
        seconds: 60,
        by: &["telemetry"],
    },
    Case {
        defect: Defect::OutboxNotResumed,
        scenario: "leaders",
        strain: "slow-sync=40",
        seconds: 60,
        by: &["wills", "lost", "shared"],
    },
    Case {
        defect: Defect::VoterAfterDamage,
        scenario: "damage",
        strain: "",
        seconds: 10,
        by: &["lost", "retained", "session"],
    },
    Case {
        defect: Defect::ExpireWithoutEpoch,
        scenario: "kills",
        strain: "slow-sync=15",
        seconds: 40,
        by: &["session", "lost"],
    },
    Case {
        defect: Defect::RetainUnstamped,
        scenario: "late",
        strain: "",
        seconds: 60,
        by: &["retained"],
    },
    Case {
        defect: Defect::AckBeforeCommit,
        scenario: "kills",
        strain: "slow-sync=15",
        seconds: 40,
        by: &["lost", "exactly-once"],
    },
];

/// Is what became of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The defect; none: the run without one.
    pub defect: Option<&'static str>,
    /// The scenario.
    pub scenario: &'static str,
    /// The strains.
    pub strain: &'static str,
    /// Messages acknowledged.
    pub acked: u64,
    /// The checkers of which one has to find something; none without a defect.
    pub wanted: &'static [&'static str],
    /// What checkers found, by checker.
    pub found: BTreeMap<String, u64>,
    /// The first thing that was found.
    pub first: Option<String>,
    /// Why there is no verdict.
    pub failed: Option<String>,
}

impl Row {
    /// Returns whether it is as it has to be: found with a defect, by a checker of the promise that it
    /// breaks, and green without.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        let is_caught = || self.wanted.iter().any(|by| self.found.contains_key(*by));
        self.failed.is_none()
            && match self.defect {
                None => self.found.is_empty(),
                Some(_) => is_caught(),
            }
    }

    fn of(case: &Case, defect: Option<Defect>, summary: &Summary) -> Self {
        let mut row = Self {
            defect: defect.map(Defect::name),
            scenario: case.scenario,
            strain: case.strain,
            acked: summary.acked,
            wanted: defect.map_or(&[], |_| case.by),
            found: BTreeMap::new(),
            first: None,
            failed: None,
        };
        for outcome in &summary.outcomes {
            match outcome {
                Outcome::Ran(report) => {
                    for verdict in report.verdicts.iter().filter(|verdict| verdict.count > 0) {
                        row.found.insert(verdict.checker.to_string(), verdict.count);
                        let first = verdict.violations.first().cloned();
                        row.first = row.first.or(first);
                    }
                }
                Outcome::Skipped { missing, .. } => row.failed = Some(format!("needs {missing}")),
                Outcome::Failed { how, .. } => row.failed = Some(how.clone()),
            }
        }
        row
    }

    fn line(&self) -> String {
        let found: Vec<String> = self
            .found
            .iter()
            .map(|(checker, count)| format!("{count} {checker}"))
            .collect();
        let verdict = match (&self.failed, self.defect, found.is_empty()) {
            (Some(how), ..) => format!("FAILED: {how}"),
            (None, Some(_), true) => "NOT CAUGHT".to_owned(),
            (None, Some(_), false) if !self.is_as_wanted() => format!(
                "NOT CAUGHT by {}: {}",
                self.wanted.join(" or "),
                found.join(", ")
            ),
            (None, Some(_), false) => format!("caught: {}", found.join(", ")),
            (None, None, true) => "green".to_owned(),
            (None, None, false) => format!("NOT GREEN: {}", found.join(", ")),
        };
        format!(
            "{:<28} {:<11} {:<26} {:>9}  {verdict}",
            self.defect.unwrap_or("(none)"),
            self.scenario,
            self.strain,
            self.acked
        )
    }
}

/// Runs each chosen defect (`options.scenarios`; empty: all) and, before, the same without one; writes
/// a row for each to `out`, or with `options.json` one object.
pub(crate) fn run(options: &Options, out: &mut dyn Write) -> Result<Vec<Row>, Error> {
    let cases = chosen(options)?;
    let seed = options.seed.unwrap_or(SEED);
    let folder = match &options.out {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("tidewire-sabotage-{}", std::process::id())),
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut say = |line: &str| match options.json {
        true => {
            eprintln!("{line}");
            Ok(())
        }
        false => writeln!(out, "{line}").and_then(|()| out.flush()),
    };
    let mut clean: Vec<(&str, &str, u64)> = Vec::new();
    for case in cases {
        let setting = (case.scenario, case.strain, case.seconds);
        let without = (!clean.contains(&setting)).then_some(None);
        clean.push(setting);
        for defect in without.into_iter().chain([Some(case.defect)]) {
            let options = Options {
                scenarios: vec![case.scenario.to_owned()],
                seed: Some(seed),
                duration: Some(Duration::from_secs(case.seconds)),
                json: false,
                out: Some(place(&folder, case, defect)),
                defect: defect.map(|defect| defect.name().to_owned()),
                strain: Some(case.strain.to_owned()),
                ..options.clone()
            };
            let row = Row::of(case, defect, &suite::run(&options, &mut Vec::new())?);
            say(&row.line()).map_err(|error| Error::Failed(format!("the output: {error}")))?;
            rows.push(row);
        }
    }
    if options.json {
        let line = serde_json::json!({ "seed": seed, "rows": rows });
        writeln!(out, "{line}").map_err(|error| Error::Failed(format!("the output: {error}")))?;
    }
    Ok(rows)
}

fn place(folder: &std::path::Path, case: &Case, defect: Option<Defect>) -> PathBuf {
    let name = defect.map_or("without", Defect::name);
    let strain = case.strain.replace([',', '='], "-");
    let under = if strain.is_empty() { "" } else { "-" };
    folder.join(format!("{}{under}{strain}-{name}", case.scenario))
}

fn chosen(options: &Options) -> Result<Vec<&'static Case>, Error> {
    if options.program.is_none() && !defects::is_faulty_build() {
        return Err(Error::Usage(
            "sabotage: this program carries no defects; build it with --features tidewire-cli/faults, or name \
             one that does with --program"
                .to_owned(),
        ));
    }
    if options.scenarios.is_empty() {
        return Ok(CASES.iter().collect());
    }
    let find = |name: &String| {
        let mut cases = CASES.iter();
        let case = cases.find(|case| case.defect.name() == name);
        case.ok_or_else(|| Error::Usage(defects::Error::Defect(name.clone()).to_string()))
    };
    options.scenarios.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::{self, Observed};
    use crate::history::History;
    use crate::scenario::Scenario;

    #[test]
    fn every_defect_has_a_case_whose_scenario_and_strains_there_are() {
        for defect in Defect::ALL {
            let cases = CASES.iter().filter(|case| case.defect == defect);
            assert_eq!(cases.count(), 1, "{}", defect.name());
        }
        let nothing = (History::default(), Observed::default());
        let verdicts = checkers::check(&nothing.0, &nothing.1);
        let verdicts = verdicts.into_iter().chain([checkers::replicas(&[])]);
        let known = verdicts.map(|one| one.checker).chain(["telemetry"]);
        let known: Vec<&str> = known.collect();
        for case in &CASES {
            Scenario::find(case.scenario).expect("it is shipped");
            defects::Load::parse("", case.strain).expect("strains");
            for by in case.by {
                assert!(known.contains(by), "{by}");
            }
        }
    }

    #[test]
    fn a_clean_program_and_an_unknown_defect_are_refused() {
        let refused = |options: &Options| chosen(options).map(drop).unwrap_err().to_string();

        assert!(refused(&Options::default()).contains("faults"));
        let unknown = Options {
            program: Some(PathBuf::from("tidewire")),
            scenarios: vec!["no-such".to_owned()],
            ..Options::default()
        };
        assert!(refused(&unknown).contains("\"no-such\""));
    }

    #[test]
    fn a_row_is_as_wanted_when_the_defect_is_found_and_nothing_else() {
        let row = |defect, found: &[(&str, u64)]| Row {
            defect,
            scenario: "kills",
            strain: "",
            acked: 1,
            wanted: &["lost", "session"],
            found: found
                .iter()
                .map(|(by, count)| ((*by).to_owned(), *count))
                .collect(),
            first: None,
            failed: None,
        };
        assert!(row(None, &[]).is_as_wanted());
        assert!(row(Some("x"), &[("lost", 1)]).is_as_wanted());
        assert!(!row(None, &[("lost", 1)]).is_as_wanted());
        assert!(!row(Some("x"), &[]).is_as_wanted());
        assert!(row(Some("x"), &[]).line().contains("NOT CAUGHT"));
        let other = row(Some("x"), &[("liveness", 3)]);
        assert!(!other.is_as_wanted());
        let line = other.line();
        assert!(
            line.contains("NOT CAUGHT by lost or session: 3 liveness"),
            "{line}"
        );
    }
}
