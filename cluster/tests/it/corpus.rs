//! What the fuzzer found worth keeping (`fuzz/corpus`), run as an ordinary test.

use std::fs;
use std::path::Path;

use crate::fuzz_link;

#[test]
fn bytes_of_the_corpus_are_taken_as_written_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/link_bytes");
    let (mut count, mut taken) = (0, 0);
    for entry in fs::read_dir(folder).expect("each target has a corpus") {
        let path = entry.expect("a listed file").path();
        // Shown when the check fails.
        println!("{}", path.display());
        taken += fuzz_link::link(&fs::read(&path).expect("a listed file can be read"));
        count += 1;
    }
    assert!(count >= 10, "{count} inputs are no corpus");
    assert!(taken >= 10, "{taken} messages passed the checksums");
}
