//! The table of MQTT clauses: which have code that names them, which a test named after them, which neither.
//!
//! A test is named `mqtt_3_3_1_4_…` after clause MQTT-3.3.1-4, and code names the clause in a comment. A number that
//! both versions have means that of MQTT 5; `mqtt311_3_3_1_4_…` and MQTT311-3.3.1-4 mean that of 3.1.1.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use crate::house::root;
use crate::house::tree::{File, files};

const TABLE: &str = "docs/mqtt/coverage.md";

/// Set to rewrite the table instead of comparing it.
const BLESS: &str = "TIDEWIRE_BLESS";

const VERSIONS: [Version; 2] = [
    Version {
        title: "MQTT 5",
        list: "docs/mqtt/normative-v5.tsv",
    },
    Version {
        title: "MQTT 3.1.1",
        list: "docs/mqtt/normative-v311.tsv",
    },
];

struct Version {
    title: &'static str,
    list: &'static str,
}

#[test]
fn the_table_of_clauses_is_up_to_date() {
    let table = table(&files());

    let path = root().join(TABLE);
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, &table).expect("the table can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == table,
        "{TABLE} is stale; write it anew with: {BLESS}=1 cargo test -p tidewire-cli --test it clauses, and commit it"
    );
}

#[test]
fn every_clause_that_code_or_a_test_names_exists() {
    let lists = lists();

    let strangers: Vec<String> = files()
        .iter()
        .flat_map(mentions)
        .filter(|mention| mention.version(&lists).is_none())
        .map(|mention| format!("{} in {}", mention.number, mention.place))
        .collect();

    assert!(strangers.is_empty(), "no such clause: {strangers:#?}");
}

#[test]
fn a_named_test_and_a_quoted_clause_fill_their_row() {
    let code = File::new(
        "session/src/live.rs",
        "//# [MQTT-3.1.2-5] ... stored\nfn f() {}\n",
    );
    let test = File::new(
        "session/tests/it/x.rs",
        "#[test]\nfn mqtt_3_1_2_5_the_rest_is_a_sentence() {}\n",
    );
    let old = File::new(
        "mqtt/tests/it/x.rs",
        "#[test]\nfn mqtt311_1_5_3_1_ill_formed_text_closes() {}\n",
    );

    let table = table(&[code, test, old]);

    let row = |title: &str, id: &str| {
        let section = table
            .split("\n## ")
            .find(|section| section.starts_with(&format!("{title}\n")));
        let mut lines = section.expect("each version has a section").lines();
        lines
            .find(|line| line.starts_with(&format!("| {id} |")))
            .expect("the clause is listed")
            .to_owned()
    };
    assert!(
        row("MQTT 5", "MQTT-3.1.2-5")
            .ends_with("| session/src/live.rs | mqtt_3_1_2_5_the_rest_is_a_sentence |")
    );
    assert!(
        row("MQTT 3.1.1", "MQTT-1.5.3-1")
            .ends_with("|  | mqtt311_1_5_3_1_ill_formed_text_closes |")
    );
}

#[test]
fn a_clause_that_does_not_exist_is_found() {
    let code = File::new("mqtt/src/x.rs", "// MQTT-9.9.9-9 and MQTT-3.1.2-5");

    let strangers: Vec<Mention> = mentions(&code)
        .into_iter()
        .filter(|mention| mention.version(&lists()).is_none())
        .collect();

    assert!(
        matches!(strangers.as_slice(), [only] if only.number == "9.9.9-9"),
        "{strangers:?}"
    );
}

struct Clause {
    /// Section and count, as in `3.3.1-4`.
    number: String,
    binds: String,
    summary: String,
}

/// The clauses of each version, in the order of [`VERSIONS`].
fn lists() -> Vec<Vec<Clause>> {
    VERSIONS.iter().map(clauses).collect()
}

fn clauses(version: &Version) -> Vec<Clause> {
    let list = fs::read_to_string(root().join(version.list))
        .expect("the list of clauses is in the repository");
    let clause = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let &[id, binds, summary] = columns.as_slice() else {
            panic!("{}: not three columns: {line}", version.list);
        };
        Clause {
            number: id.strip_prefix("MQTT-").expect("ids begin so").to_owned(),
            binds: binds.to_owned(),
            summary: summary.replace('|', "\\|"),
        }
    };
    list.lines().skip(1).map(clause).collect()
}

#[derive(Debug)]
struct Mention {
    number: String,
    /// The file that names it, or the test that is named after it.
    place: String,
    is_test: bool,
    is_311: bool,
}

impl Mention {
    /// Which of [`VERSIONS`] is meant.
    fn version(&self, lists: &[Vec<Clause>]) -> Option<usize> {
        let known = |version: &usize| {
            lists[*version]
                .iter()
                .any(|clause| clause.number == self.number)
        };
        if self.is_311 {
            Some(1).filter(known)
        } else {
            [0, 1].into_iter().find(known)
        }
    }
}

/// The clauses that a file's code names and those that its tests are named after.
fn mentions(file: &File) -> Vec<Mention> {
    // This module speaks of clauses without obeying any.
    if !file.is_rust() || file.path == "cli/tests/it/clauses.rs" {
        return Vec::new();
    }
    let mut mentions = Vec::new();
    for (prefix, is_311) in [("MQTT-", false), ("MQTT311-", true)] {
        for rest in file.text.split(prefix).skip(1).filter(|_| !is_test(file)) {
            let digits = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
            let number = rest
                .split(|c| !digits(c))
                .next()
                .unwrap_or_default()
                .trim_end_matches(['.', '-']);
            if number.matches('.').count() == 2 && number.contains('-') {
                mentions.push(Mention {
                    number: number.to_owned(),
                    place: file.path.clone(),
                    is_test: false,
                    is_311,
                });
            }
        }
    }
    for (prefix, is_311) in [("mqtt_", false), ("mqtt311_", true)] {
        for line in file.text.lines() {
            let line = line.trim();
            let name = line
                .strip_prefix("async fn ")
                .or_else(|| line.strip_prefix("fn "))
                .unwrap_or_default();
            let name = name.split('(').next().unwrap_or_default();
            let parts: Vec<&str> = name
                .strip_prefix(prefix)
                .unwrap_or_default()
                .split('_')
                .collect();
            let [a, b, c, n, ..] = parts.as_slice() else {
                continue;
            };
            if [a, b, c, n].iter().all(|part| part.parse::<u16>().is_ok()) {
                let number = format!("{a}.{b}.{c}-{n}");
                mentions.push(Mention {
                    number,
                    place: name.to_owned(),
                    is_test: true,
                    is_311,
                });
            }
        }
    }
    mentions
}

fn is_test(file: &File) -> bool {
    file.path.contains("/tests/") || file.path.ends_with("_test.rs")
}

fn table(files: &[File]) -> String {
    let lists = lists();
    let mut code = BTreeMap::new();
    let mut test = BTreeMap::new();
    for mention in files.iter().flat_map(mentions) {
        if let Some(version) = mention.version(&lists) {
            let places: &mut Places = if mention.is_test {
                &mut test
            } else {
                &mut code
            };
            places
                .entry((version, mention.number))
                .or_default()
                .insert(mention.place);
        }
    }
    let mut out = String::from(
        "# Clauses of MQTT and where they are obeyed and tested\n\n\
         Generated by `cli/tests/it/clauses.rs`; do not edit. *Code* lists the files that name a clause, *test* the\n\
         tests that are named after it; other code may obey it and other tests touch it without being listed. What\n\
         binds clients only is left out of the counts.\n",
    );
    for (version, clauses) in lists.iter().enumerate() {
        section(&mut out, version, clauses, &code, &test);
    }
    out
}

/// Where each clause, by version and number, is named.
type Places = BTreeMap<(usize, String), BTreeSet<String>>;

fn section(out: &mut String, version: usize, clauses: &[Clause], code: &Places, test: &Places) {
    let has =
        |places: &Places, clause: &Clause| places.contains_key(&(version, clause.number.clone()));
    let shown = |places: &Places, clause: &Clause| {
        let places = places.get(&(version, clause.number.clone()));
        places
            .map(|places| {
                places
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            })
            .unwrap_or_default()
    };
    let server: Vec<&Clause> = clauses
        .iter()
        .filter(|clause| clause.binds != "client")
        .collect();
    let count =
        |holds: &dyn Fn(&Clause) -> bool| server.iter().filter(|clause| holds(clause)).count();
    write!(
        out,
        "\n## {}\n\n{} clauses bind a server: {} have a test, {} have code that names them, {} have neither.\n\n\
         | clause | binds | what it says | code | test |\n|---|---|---|---|---|\n",
        VERSIONS[version].title,
        server.len(),
        count(&|clause| has(test, clause)),
        count(&|clause| has(code, clause)),
        count(&|clause| !has(code, clause) && !has(test, clause)),
    )
    .expect("writing to a string");
    for clause in clauses {
        let Clause {
            number,
            binds,
            summary,
        } = clause;
        writeln!(
            out,
            "| MQTT-{number} | {binds} | {summary} | {} | {} |",
            shown(code, clause),
            shown(test, clause)
        )
        .expect("writing to a string");
    }
}
