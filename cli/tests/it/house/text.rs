//! What the text of the files must hold, and what it must not.

use super::metadata::Metadata;
use super::tree::{File, files};
use super::{none, one, root};

/// A longer file makes its reader scroll to remember; it is split along the data.
const LINES_MAX: usize = 750;

/// Modules that may hold unsafe code, two at most; `ARCHITECTURE.md` names them too.
const UNSAFE_MODULES: [&str; 1] = ["mqtt/src/text.rs"];

/// Files that name an unbounded channel all the same, each with the reason.
const UNBOUNDED_EXCEPTIONS: [&str; 2] = [
    // The journal's writer never refuses; what waits for it is bounded in bytes at the proposer, by
    // `queue_bytes_limit`.
    "storage/src/journal/writer.rs",
    // This very check.
    "cli/tests/it/house/text.rs",
];

/// Crates whose code takes `now` as an argument or from `runtime`, so that it can be simulated.
const CLOCKLESS: [&str; 7] = [
    "mqtt/",
    "telemetry/",
    "fleet/",
    "session/",
    "storage/",
    "bridge/",
    "broker/",
];

/// Files of these crates that read the clock all the same, each with the reason.
const CLOCK_EXCEPTIONS: [&str; 1] = [
    // A reader waits on a condition variable, which takes a deadline; nothing it returns depends on it.
    "storage/src/log/consumer.rs",
];

#[test]
fn every_dependency_says_why_it_is_there() {
    none(&unexplained_dependencies(&manifest()));
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    one(
        &unexplained_dependencies("[workspace.dependencies]\nserde = \"1\"\n[profile.dev]\nx = 1"),
        "serde",
    );
    none(&unexplained_dependencies(
        "[workspace.dependencies]\nserde = \"1\" # JSON\nmqtt = { path = \"mqtt\" }",
    ));
}

#[test]
fn every_dependency_of_the_table_has_a_user() {
    none(&idle_dependencies(Metadata::read(), &manifest()));
}

#[test]
fn a_dependency_that_nobody_uses_is_found() {
    let table = "[workspace.dependencies]\nserde = \"1\" # JSON\nsea-shells = \"1\" # pretty\n";

    one(&idle_dependencies(Metadata::read(), table), "sea-shells");
}

#[test]
fn the_map_names_every_crate() {
    none(&unmapped_crates(Metadata::read(), &architecture()));
}

#[test]
fn a_crate_missing_on_the_map_is_found() {
    let map = architecture().replace("`bridge/`", "the bridge");

    one(&unmapped_crates(Metadata::read(), &map), "bridge/");
}

#[test]
fn no_source_file_makes_its_reader_scroll() {
    none(&long_files(&files()));
}

#[test]
fn a_long_source_file_is_found() {
    let long = File::new("mqtt/src/long.rs", &"\n".repeat(LINES_MAX + 1));

    one(&long_files(&[long]), "mqtt/src/long.rs");
}

#[test]
fn nothing_names_a_place_outside_the_repository() {
    none(&outside_places(&files()));
}

#[test]
fn a_place_outside_the_repository_is_found() {
    let text = ["see ..", "shared"].join("/");

    one(
        &outside_places(&[File::new("docs/x.md", &text)]),
        "docs/x.md:1",
    );
}

#[test]
fn no_channel_is_unbounded() {
    none(&unbounded_channels(&files()));
}

#[test]
fn an_unbounded_channel_is_found() {
    let file = |text: &str| [File::new("broker/src/x.rs", text)];

    one(
        &unbounded_channels(&file(
            "let (tx, rx) = tokio::sync::mpsc::unbounded_channel();",
        )),
        "broker/src/x.rs:1",
    );
    one(
        &unbounded_channels(&file("\nlet (tx, rx) = std::sync::mpsc::channel::<u8>();")),
        "broker/src/x.rs:2",
    );
    one(
        &unbounded_channels(&file("let (tx, rx) = crossbeam_channel::unbounded();")),
        "broker/src/x.rs:1",
    );
    none(&unbounded_channels(&file(
        "let (tx, rx) = mpsc::channel(16);",
    )));
}

#[test]
fn the_clock_is_read_in_runtime_only() {
    none(&clock_reads(&files()));
}

#[test]
fn a_read_of_the_clock_elsewhere_is_found() {
    let code = "let now = std::time::Instant::now();";

    one(
        &clock_reads(&[File::new("session/src/live.rs", code)]),
        "session/src/live.rs:1",
    );
    one(
        &clock_reads(&[File::new("broker/src/x.rs", "SystemTime::now()")]),
        "broker/src/x.rs:1",
    );
    none(&clock_reads(&[File::new("runtime/src/clock.rs", code)]));
    none(&clock_reads(&[File::new("broker/tests/it/x.rs", code)]));
}

#[test]
fn unsafe_code_lives_in_the_modules_named_for_it() {
    none(&misplaced_unsafe(&files()));
}

#[test]
fn unsafe_code_elsewhere_or_without_its_proof_is_found() {
    let block = ["    unsafe", "{ f() }"].join(" ");
    let proved = format!("    // SAFETY: f has no precondition.\n{block}");

    one(
        &misplaced_unsafe(&[File::new("broker/src/x.rs", &proved)]),
        "broker/src/x.rs:2",
    );
    one(
        &misplaced_unsafe(&[File::new("mqtt/src/text.rs", &block)]),
        "mqtt/src/text.rs:1",
    );
    none(&misplaced_unsafe(&[File::new("mqtt/src/text.rs", &proved)]));
}

fn manifest() -> String {
    std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest")
}

fn architecture() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the workspace has a map")
}

/// The lines of the table of dependencies.
fn table(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| line.contains(" = ") && !line.starts_with('#'))
}

fn unexplained_dependencies(manifest: &str) -> Vec<String> {
    table(manifest)
        // Our own crates are explained by their own documentation.
        .filter(|line| !line.contains(" path = ") && !line.contains(" # "))
        .map(|line| format!("Cargo.toml: {line}"))
        .collect()
}

fn idle_dependencies(metadata: &Metadata, manifest: &str) -> Vec<String> {
    let used = |name: &str| {
        let mut dependencies = metadata.members().flat_map(|member| &member.dependencies);
        dependencies
            .any(|dependency| dependency.rename.as_deref().unwrap_or(&dependency.name) == name)
    };
    table(manifest)
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| !used(name))
        .map(|(name, _)| format!("Cargo.toml: no crate uses {name}"))
        .collect()
}

fn unmapped_crates(metadata: &Metadata, map: &str) -> Vec<String> {
    metadata
        .members()
        .filter_map(|package| std::path::Path::new(&package.manifest_path).parent())
        .filter_map(|dir| dir.strip_prefix(root()).ok())
        .map(|folder| format!("`{}/`", folder.display()))
        .filter(|folder| !map.contains(folder))
        .map(|folder| format!("ARCHITECTURE.md does not name {folder}"))
        .collect()
}

fn long_files(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect()
}

fn outside_places(files: &[File]) -> Vec<String> {
    // Joined here, so that this file does not name them itself.
    let places = [["..", "shared"].join("/"), ["", "work", ""].join("/")];
    matching_lines(
        files,
        |_| true,
        |line| places.iter().any(|place| line.contains(place)),
    )
}

fn unbounded_channels(files: &[File]) -> Vec<String> {
    // What a test puts into a channel is bounded by the test.
    let code = |file: &File| {
        file.is_rust() && !is_test(file) && !UNBOUNDED_EXCEPTIONS.contains(&file.path.as_str())
    };
    matching_lines(files, code, |line| {
        let standard = line.contains("mpsc::channel()")
            || (line.contains("mpsc::channel::<") && line.contains(">()"));
        let unbounded =
            line.contains("unbounded_channel") || line.contains("crossbeam_channel::unbounded");
        standard || unbounded || line.contains("unbounded()") || line.contains("unbounded::<")
    })
}

fn clock_reads(files: &[File]) -> Vec<String> {
    let production = |file: &File| {
        let clockless = CLOCKLESS
            .iter()
            .any(|folder| file.path.starts_with(&format!("{folder}src/")));
        clockless && !is_test(file) && !CLOCK_EXCEPTIONS.contains(&file.path.as_str())
    };
    matching_lines(files, production, |line| {
        line.contains("Instant::now") || line.contains("SystemTime::now")
    })
}

fn is_test(file: &File) -> bool {
    file.path.contains("/tests/")
        || file.path.ends_with("_test.rs")
        || file.path.ends_with("/tests.rs")
}

fn misplaced_unsafe(files: &[File]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let lines: Vec<&str> = file.text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !["unsafe {", "unsafe fn", "unsafe impl"]
                .iter()
                .any(|form| holds_word(code, form))
            {
                continue;
            }
            let listed = UNSAFE_MODULES.contains(&file.path.as_str());
            let proved = lines[index.saturating_sub(6)..index]
                .iter()
                .any(|line| line.contains("// SAFETY:"));
            if !listed || !proved {
                violations.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    violations
}

/// Whether `form` stands in `code` outside a string of this very check.
fn holds_word(code: &str, form: &str) -> bool {
    code.match_indices(form)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c == '"' || c.is_alphanumeric() || c == '_'))
}

fn matching_lines(
    files: &[File],
    in_scope: impl Fn(&File) -> bool,
    matches: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| in_scope(file)) {
        for (number, line) in file.lines().filter(|(_, line)| matches(line)) {
            violations.push(format!("{}:{number}: {}", file.path, line.trim()));
        }
    }
    violations
}
