//! What the fuzzer found worth keeping (`fuzz/corpus`), run as an ordinary test.

use std::fs;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::{fuzz_link, fuzz_raft};

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

#[test]
fn messages_of_the_corpus_are_taken_as_written_or_refused_and_so_are_their_mutants() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/raft_wire");
    let (mut count, mut taken, mut mutants_taken) = (0, 0, 0);
    let mut random = SmallRng::seed_from_u64(1);
    for entry in fs::read_dir(folder).expect("each target has a corpus") {
        let path = entry.expect("a listed file").path();
        // Shown when the check fails.
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("a listed file can be read");
        taken += usize::from(fuzz_raft::raft(&bytes));
        count += 1;
        for _ in 0..2_000 {
            let mut mutant = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..mutant.len());
                match random.random_range(0..4) {
                    0 => mutant[at] ^= 1 << random.random_range(0..8),
                    1 => mutant[at] = [0, 1, 2, 127, 255][random.random_range(0..5)],
                    2 => mutant.insert(at, random.random()),
                    _ if mutant.len() > 1 => drop(mutant.remove(at)),
                    _ => {}
                }
            }
            mutants_taken += usize::from(fuzz_raft::raft(&mutant));
        }
    }
    assert!(count >= 10, "{count} inputs are no corpus");
    assert!(taken >= 10, "{taken} messages can be read");
    assert!(mutants_taken >= 100, "{mutants_taken} mutants can be read");
}
