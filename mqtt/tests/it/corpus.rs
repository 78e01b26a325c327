//! What the fuzzer found worth keeping (`fuzz/corpus`), run as ordinary tests.

use std::fs;
use std::path::Path;

use crate::{fuzz_decode, fuzz_roundtrip};

#[test]
fn the_decoder_is_sound_on_its_corpus() {
    run("mqtt_decode", fuzz_decode::decode);
}

#[test]
fn packets_of_the_corpus_survive_encoding_and_decoding() {
    run("mqtt_roundtrip", fuzz_roundtrip::roundtrip);
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
