//! What the fuzzer found worth keeping (`fuzz/corpus`), run as ordinary tests.

use std::fs;
use std::path::Path;

use crate::{fuzz_block, fuzz_json};

#[test]
fn payloads_of_the_corpus_decode_in_a_stream_as_they_do_alone() {
    run("telemetry_json", fuzz_json::decode_stream);
}

#[test]
fn blocks_of_the_corpus_are_read_as_written() {
    run("telemetry_block", fuzz_block::blocks);
}

fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let entries = fs::read_dir(folder.join(target)).expect("each target has a corpus");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("a listed file").path();
        // Shown when the check fails.
        println!("{}", path.display());
        check(&fs::read(&path).expect("a listed file can be read"));
        count += 1;
    }
    assert!(count >= 10, "{count} inputs are no corpus");
}
