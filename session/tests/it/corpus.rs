//! What the fuzzer found worth keeping (`fuzz/corpus`), run as an ordinary test.

use std::fs;
use std::path::Path;

use crate::fuzz_live;

#[test]
fn a_connection_keeps_its_rules_on_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/session_live");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("each target has a corpus") {
        let path = entry.expect("a listed file").path();
        // Shown when the check fails.
        println!("{}", path.display());
        fuzz_live::live(&fs::read(&path).expect("a listed file can be read"));
        count += 1;
    }
    assert!(count >= 10, "{count} inputs are no corpus");
}
