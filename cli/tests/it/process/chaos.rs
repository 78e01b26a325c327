//! `tidewire chaos`: what it runs, what it refuses, and that it leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::skip::outside;

use super::node::{is_empty, run, tidewire};
use super::wait::until;

/// A short run with one kill. The clients are few: the machine has to start three nodes beside them.
const ONE_KILL: &str = "\
name = \"one-kill\"
about = \"One node is killed and started again.\"
duration = \"5s\"
seed = 11

[config.cluster]
shards = 4

[[fault]]
at = \"1s\"
kind = \"kill\"
for = \"1s\"
";

/// The same for as long as nobody interrupts it.
const LONG: &str = "\
name = \"long\"
about = \"Nothing happens.\"
duration = \"10m\"

[config.cluster]
shards = 4
";

#[test]
fn a_node_that_is_killed_costs_nothing_and_the_report_says_what_was_checked() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    let file = written(folder.path(), ONE_KILL);

    let (code, text, error) = run(chaos(&out, &data).arg(&file).arg("--json"));

    assert_eq!(code, Some(0), "{text}{error}");
    let line = text.lines().last().expect("a line of JSON");
    let summary: Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(summary["kills"], 1, "{line}");
    assert_eq!(summary["violations"], 0, "{line}");
    assert!(summary["acked"].as_u64() > Some(0), "{line}");
    let report = fs::read_to_string(out.join("one-kill/report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    assert_eq!(report["seed"], 11);
    assert_eq!(report["faults"][0]["kind"], "kill");
    let verdicts = report["verdicts"].as_array().expect("verdicts");
    let checked = |name: &str| {
        let mut verdicts = verdicts.iter();
        let verdict = verdicts.find(|verdict| verdict["checker"] == name)?;
        verdict["checked"].as_u64()
    };
    assert!(checked("lost") > Some(0), "{report}");
    assert!(checked("liveness") > Some(0), "{report}");
    let page = fs::read_to_string(out.join("one-kill/report.md")).expect("a page");
    assert!(page.contains("every checker is green"), "{page}");
    let picture = fs::read(out.join("one-kill/timeline.png")).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG"));
    assert!(is_empty(&data), "the nodes' folders are removed");
}

#[test]
fn the_shipped_scenarios_are_listed_with_what_they_do() {
    let (code, text, error) = run(tidewire().args(["chaos", "list"]));

    assert_eq!(code, Some(0), "{error}");
    for name in ["kills", "partitions", "rolling", "scale"] {
        let mut lines = text.lines();
        let line = lines.find(|line| line.split_whitespace().next() == Some(name));
        assert!(
            line.is_some_and(|line| line.contains('.')),
            "{name}: {text}"
        );
    }
}

#[test]
fn a_wrong_scenario_file_is_refused_with_its_line_before_anything_is_started() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    let wrong = ONE_KILL.replace("\"kill\"", "\"kil\"");
    let file = written(folder.path(), &wrong);

    let (code, text, error) = run(chaos(&out, &data).arg(&file));

    assert_eq!(code, Some(2), "{text}{error}");
    let line = wrong
        .lines()
        .position(|line| line.contains("\"kil\""))
        .expect("it is there");
    let named = format!("scenario.toml:{}: ", line + 1);
    assert!(error.contains(&named), "{error}");
    assert!(is_empty(&out) && is_empty(&data));

    let (code, _, error) = run(chaos(&out, &data).arg("no-such"));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("chaos list"), "{error}");
}

#[test]
fn what_is_found_ends_with_1_and_is_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    // No cluster acknowledges so often that nothing is ever away for so short a time.
    let strict = ONE_KILL.replace("seed = 11", "seed = 11\nstall_max = \"1ms\"");
    let file = written(folder.path(), &strict);

    let (code, text, error) = run(chaos(&out, &data).arg(&file));

    assert_eq!(code, Some(1), "{text}{error}");
    assert!(text.contains("liveness"), "{text}");
    let page = fs::read_to_string(out.join("one-kill/report.md")).expect("a page");
    assert!(
        page.contains("no message is acknowledged for 1ms"),
        "{page}"
    );
    assert!(out.join("one-kill/history.jsonl").exists());
    assert!(
        !is_empty(&data),
        "somebody will want to look at the nodes' folders"
    );
}

#[test]
fn an_interruption_ends_the_nodes_too() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    let file = written(folder.path(), LONG);
    let mut child = chaos(&out, &data)
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    until("three nodes", || {
        (nodes_below(&data).len() == 3).then_some(())
    });

    let script = format!("kill -TERM {}", child.id());
    let status = Command::new("sh").args(["-c", &script]).status();
    assert!(status.expect("every machine has a shell").success());
    let ended = until("chaos to end", || {
        child.try_wait().expect("a child can be asked")
    });

    assert_eq!(ended.code(), Some(130));
    assert!(
        is_empty(&data),
        "nobody wants to look at the nodes' folders"
    );
    until("the nodes to end", || {
        nodes_below(&data).is_empty().then_some(())
    });
}

#[test]
fn nodes_end_with_a_run_that_is_killed() {
    if outside("chaos", "setpriv", "util-linux").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (out, data) = (folder.path().join("out"), folder.path().join("data"));
    let file = written(folder.path(), LONG);
    let mut child = chaos(&out, &data)
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program can be started");
    until("three nodes", || {
        (nodes_below(&data).len() == 3).then_some(())
    });

    child.kill().expect("it runs");
    child.wait().expect("a killed child can be waited for");

    until("the nodes to end", || {
        nodes_below(&data).is_empty().then_some(())
    });
}

/// The command, with its folders.
fn chaos(out: &Path, data: &Path) -> Command {
    let mut command = tidewire();
    command.arg("chaos").arg("--out").arg(out);
    command.arg("--data").arg(data);
    command
}

fn written(folder: &Path, scenario: &str) -> std::path::PathBuf {
    let file = folder.join("scenario.toml");
    fs::write(&file, scenario).expect("the temporary folder can be written");
    file
}

/// Processes that serve on a folder below this one.
fn nodes_below(data: &Path) -> Vec<String> {
    let is_node =
        |line: &String| line.contains("\0serve\0") && line.contains(&data.display().to_string());
    let entries = fs::read_dir("/proc").expect("Linux has it");
    let lines = entries.filter_map(|entry| {
        // A process may end meanwhile.
        fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()
    });
    lines.filter(is_node).collect()
}
