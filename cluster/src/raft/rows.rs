//! The rows of a state as a stream of bytes, which is cut where it suits the link.
//!
//! A row is its kind (1), the lengths of key and value (4 each, little-endian), key, value.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, BytesMut};

const HEADER_BYTES: usize = 9;
/// More than any row has: a row comes of an entry of the log.
const ROW_BYTES_MAX: usize = storage::journal::ENTRY_BYTES_MAX;

/// Writes a row.
pub(super) fn put(out: &mut BytesMut, kind: u8, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a row comes of an entry");
    out.reserve(HEADER_BYTES + key.len() + value.len());
    out.put_u8(kind);
    out.put_u32_le(length(key));
    out.put_u32_le(length(value));
    out.put_slice(key);
    out.put_slice(value);
}

/// Takes rows from what has come so far; holds the beginning of one row at most.
#[derive(Default)]
pub(super) struct RowReader {
    begun: BytesMut,
    rows: u64,
}

/// Why the rows of a peer are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRows {
    #[error("a row of {0} B is too long")]
    Long(usize),
    #[error("a row is cut short")]
    Cut,
    #[error("{there} rows came, and not {said}")]
    Count { there: u64, said: u64 },
}

impl RowReader {
    /// Takes bytes, and hands out the rows that are whole now, until one is refused.
    pub(super) fn handle_bytes<E>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(u8, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, BadRows> {
        self.begun.extend_from_slice(bytes);
        loop {
            match self.next(&mut take)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(outcome) => return Ok(outcome),
            }
        }
    }

    fn next<E>(
        &mut self,
        take: &mut impl FnMut(u8, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<ControlFlow<Result<(), E>>, BadRows> {
        let Some((header, rest)) = self.begun.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(ControlFlow::Break(Ok(())));
        };
        let [kind, k0, k1, k2, k3, v0, v1, v2, v3] = *header;
        let key_len = u32::from_le_bytes([k0, k1, k2, k3]) as usize;
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
        let len = key_len.saturating_add(value_len);
        if len > ROW_BYTES_MAX {
            return Err(BadRows::Long(len));
        }
        let Some(row) = rest.get(..len) else {
            return Ok(ControlFlow::Break(Ok(())));
        };
        let (key, value) = row.split_at(key_len);
        if let Err(error) = take(kind, key, value) {
            return Ok(ControlFlow::Break(Err(error)));
        }
        self.rows += 1;
        self.begun.advance(HEADER_BYTES + len);
        Ok(ControlFlow::Continue(()))
    }

    /// Whether all came that was said.
    pub(super) fn handle_end(&self, said: u64) -> Result<(), BadRows> {
        match (self.begun.is_empty(), self.rows) {
            (false, _) => Err(BadRows::Cut),
            (true, there) if there != said => Err(BadRows::Count { there, said }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn rows_come_back_however_they_are_cut() {
        let rows = [(1, "a", ""), (2, "", "value"), (255, "key", "longer value")];
        let mut stream = BytesMut::new();
        for (kind, key, value) in rows {
            put(&mut stream, kind, key.as_bytes(), value.as_bytes());
        }
        for step in 1..=stream.len() {
            let (mut reader, mut read) = (RowReader::default(), Vec::new());
            for chunk in stream.chunks(step) {
                let taken = reader.handle_bytes(chunk, |kind, key, value| {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    read.push((kind, text(key), text(value)));
                    Ok::<(), Infallible>(())
                });
                taken.unwrap().unwrap();
            }
            let rows = rows.map(|(kind, key, value)| (kind, key.to_owned(), value.to_owned()));
            assert_eq!(read, rows);
            assert_eq!(reader.handle_end(3), Ok(()));
            let count = BadRows::Count { there: 3, said: 4 };
            assert_eq!(reader.handle_end(4), Err(count));
        }
    }

    #[test]
    fn a_row_that_is_cut_or_refused_or_endless_is_not_taken() {
        let mut stream = BytesMut::new();
        put(&mut stream, 1, b"key", b"value");
        let mut reader = RowReader::default();
        let all_but_one = &stream[..stream.len() - 1];
        let taken = reader.handle_bytes(all_but_one, |_, _, _| Err::<(), _>("too early"));
        assert_eq!(taken, Ok(Ok(())));
        assert_eq!(reader.handle_end(0), Err(BadRows::Cut));
        let taken = reader.handle_bytes(&stream[stream.len() - 1..], |_, _, _| Err("full"));
        assert_eq!(taken, Ok(Err("full")));

        let endless = [1, 255, 255, 255, 255, 255, 255, 255, 255];
        let taken = RowReader::default().handle_bytes(&endless, |_, _, _| Ok::<(), ()>(()));
        assert!(matches!(taken, Err(BadRows::Long(_))), "{taken:?}");
    }
}
