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
}

const fn case(defect: Defect, scenario: &'static str, strain: &'static str, seconds: u64) -> Case {
    Case {
        defect,
        scenario,
        strain,
        seconds,
    }
}

/// Where each defect shows soonest; `docs/chaos-defects.md` says why.
const CASES: [Case; 16] = [
    case(Defect::PubrelBeforeRec, "kills", "slow-sync=15", 40),
    case(Defect::PubcompBeforeQ2Out, "kills", "slow-sync=15", 40),
    case(Defect::NoGapRefusal, "storms", "lose-items=20", 30),
    case(Defect::RepeatRecomputed, "storms", "lose-answers=20", 30),
    case(Defect::OpenWithoutExpectedEpoch, "late", "", 60),
    case(Defect::RouteVersionIsLogIndex, "storms", "", 20),
    case(Defect::EpochsRestart, "storms", "", 20),
    case(
        Defect::LeaderRestored,
        "outage",
        "power-cut=1,slow-sync=20",
        60,
    ),
    case(Defect::SubackWithoutLease, "leases", "", 60),
    case(Defect::AckWithoutLease, "partitions", "", 60),
    case(
        Defect::ReaderAheadOfFsync,
        "kills",
        "power-cut=1,slow-sync=50",
        60,
    ),
    case(Defect::OutboxNotResumed, "leaders", "slow-sync=40", 60),
    case(Defect::VoterAfterDamage, "damage", "", 40),
    case(Defect::ExpireWithoutEpoch, "kills", "slow-sync=15", 40),
    case(Defect::RetainUnstamped, "late", "", 60),
    case(Defect::AckBeforeCommit, "kills", "slow-sync=15", 40),
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
    /// What checkers found, by checker.
    pub found: BTreeMap<String, u64>,
    /// The first thing that was found.
    pub first: Option<String>,
    /// Why there is no verdict.
    pub failed: Option<String>,
}

impl Row {
    /// Returns whether it is as it has to be: found with a defect, and green without.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        self.failed.is_none() && self.found.is_empty() == self.defect.is_none()
    }

    fn of(case: &Case, defect: Option<Defect>, summary: &Summary) -> Self {
        let mut row = Self {
            defect: defect.map(Defect::name),
            scenario: case.scenario,
            strain: case.strain,
            acked: summary.acked,
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
    use crate::scenario::Scenario;

    #[test]
    fn every_defect_has_a_case_whose_scenario_and_strains_there_are() {
        for defect in Defect::ALL {
            let cases = CASES.iter().filter(|case| case.defect == defect);
            assert_eq!(cases.count(), 1, "{}", defect.name());
        }
        for case in &CASES {
            Scenario::find(case.scenario).expect("it is shipped");
            defects::Load::parse("", case.strain).expect("strains");
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
    }
}
