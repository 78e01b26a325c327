//! What must hold of what another member says, whatever it is; shared with `fuzz/`.

use tidewire_cluster::member::{CHANNELS, rewritten};

/// Reads a request or a reply: the first byte says of which channel, and which of both. Whether it
/// was taken.
///
/// # Panics
/// When what was taken is written otherwise.
pub(crate) fn member(bytes: &[u8]) -> bool {
    let [choice, bytes @ ..] = bytes else {
        return false;
    };
    // The kinds there are, and one that there is not.
    let kind = CHANNELS.start() + u16::from(choice & 7);
    let is_reply = choice & 8 != 0;
    match rewritten(kind, is_reply, bytes) {
        Ok(written) => {
            assert_eq!(written, bytes);
            true
        }
        Err(why) => {
            assert!(why.to_string().len() < 300);
            false
        }
    }
}
