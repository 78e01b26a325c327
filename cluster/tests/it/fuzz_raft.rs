//! What must hold of the bytes of another member of a group, whatever they are; shared with `fuzz/`.

use bytes::Bytes;
use tidewire_cluster::raft::reread;

/// Reads a reply or a request: the first byte says of which kind. Whether it was taken.
///
/// # Panics
/// When what was taken is not the same after writing and reading it again.
pub(crate) fn raft(bytes: &[u8]) -> bool {
    let [choice, bytes @ ..] = bytes else {
        return false;
    };
    // A reply, the kinds there are, and two that there are not.
    let kind = match choice % 8 {
        0 => 0,
        nth => u16::from(nth) + 15,
    };
    let Some(written) = reread(kind, &Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    // A membership of an older version is written as one of the newest, and all else as it was.
    assert!(written.len() >= bytes.len());
    assert_eq!(reread(kind, &written).as_ref(), Some(&written));
    true
}
