//! The baseline: Gorilla's encoding of one series (Pelkonen et al., VLDB 2015, section 4.1).
//!
//! A series carries its own timestamps; they and the values are interleaved bit by bit. The number
//! of points is not stored.

/// Bits of the first point's distance from the header.
const FIRST_DELTA_BITS: u32 = 14;

/// What the differences of the distances between two timestamps cost: prefix, its length, bits of
/// the difference.
const CLASSES: [(u64, u32, u32); 4] = [
    (0b10, 2, 7),
    (0b110, 3, 9),
    (0b1110, 4, 12),
    (0b1111, 4, 32),
];

/// Writes a series whose block begins at `header`, and pads it to a whole byte. `None` when a
/// timestamp leaves the ranges of the format.
pub(super) fn encode(
    header: i64,
    points: impl IntoIterator<Item = (i64, f64)>,
    out: &mut BitWriter,
) -> Option<()> {
    out.put(header.cast_unsigned(), 64);
    let mut times = Times {
        last: header,
        delta: None,
    };
    let mut values = Values::default();
    for (time, value) in points {
        times.put(time, out)?;
        values.put(value, out);
    }
    out.pad();
    Some(())
}

/// Reads a series of `count` points and its padding; `None` when the bytes end too early.
pub(super) fn decode(count: usize, bits: &mut BitReader<'_>) -> Option<Vec<(i64, f64)>> {
    let header = bits.take(64)?.cast_signed();
    let mut times = Times {
        last: header,
        delta: None,
    };
    let mut values = Values::default();
    let mut points = Vec::with_capacity(count);
    for _ in 0..count {
        points.push((times.take(bits)?, values.take(bits)?));
    }
    bits.skip_padding();
    Some(points)
}

struct Times {
    last: i64,
    /// The last distance; `None` before the first point.
    delta: Option<i64>,
}

impl Times {
    fn put(&mut self, time: i64, out: &mut BitWriter) -> Option<()> {
        let delta = time.checked_sub(self.last)?;
        match self.delta {
            None if (0..1 << FIRST_DELTA_BITS).contains(&delta) => {
                out.put(delta.cast_unsigned(), FIRST_DELTA_BITS);
            }
            None => return None,
            Some(before) => put_difference(delta.checked_sub(before)?, out)?,
        }
        (self.last, self.delta) = (time, Some(delta));
        Some(())
    }

    fn take(&mut self, bits: &mut BitReader<'_>) -> Option<i64> {
        let delta = match self.delta {
            None => bits.take(FIRST_DELTA_BITS)?.cast_signed(),
            Some(before) => before.wrapping_add(take_difference(bits)?),
        };
        self.delta = Some(delta);
        self.last = self.last.wrapping_add(delta);
        Some(self.last)
    }
}

fn put_difference(difference: i64, out: &mut BitWriter) -> Option<()> {
    if difference == 0 {
        out.put(0, 1);
        return Some(());
    }
    // The paper's ranges are -63..=64 and so on; two's complement holds -64..=63 in as many bits.
    let fits = |bits: u32| (-(1 << (bits - 1))..1 << (bits - 1)).contains(&difference);
    let (prefix, prefix_len, bits) = *CLASSES.iter().find(|class| fits(class.2))?;
    out.put(prefix, prefix_len);
    out.put(difference.cast_unsigned(), bits);
    Some(())
}

fn take_difference(bits: &mut BitReader<'_>) -> Option<i64> {
    let mut ones = 0;
    while ones < CLASSES.len() && bits.take(1)? == 1 {
        ones += 1;
    }
    let Some(class) = ones.checked_sub(1) else {
        return Some(0);
    };
    let width = CLASSES[class].2;
    let unused = 64 - width;
    Some((bits.take(width)? << unused).cast_signed() >> unused)
}

#[derive(Default)]
struct Values {
    /// The last value's bits; `None` before the first.
    last: Option<u64>,
    /// Leading zeros and length of the meaningful bits in use.
    window: Option<(u32, u32)>,
}

impl Values {
    fn put(&mut self, value: f64, out: &mut BitWriter) {
        let value = value.to_bits();
        let Some(last) = self.last.replace(value) else {
            out.put(value, 64);
            return;
        };
        let xor = value ^ last;
        if xor == 0 {
            out.put(0, 1);
            return;
        }
        // 5 bits hold up to 31 leading zeros.
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        match self.window {
            Some((zeros, len)) if leading >= zeros && trailing >= 64 - zeros - len => {
                out.put(0b10, 2);
                out.put(xor >> (64 - zeros - len), len);
            }
            _ => {
                let len = 64 - leading - trailing;
                out.put(0b11, 2);
                out.put(u64::from(leading), 5);
                // 64 is written as 0: no length is 0.
                out.put(u64::from(len % 64), 6);
                out.put(xor >> trailing, len);
                self.window = Some((leading, len));
            }
        }
    }

    fn take(&mut self, bits: &mut BitReader<'_>) -> Option<f64> {
        let value = match self.last {
            None => bits.take(64)?,
            Some(last) if bits.take(1)? == 0 => last,
            Some(last) => {
                if bits.take(1)? == 1 {
                    let (leading, len) = (bits.take(5)? as u32, bits.take(6)? as u32);
                    self.window = Some((leading, if len == 0 { 64 } else { len }));
                }
                let (leading, len) = self.window?;
                let trailing = 64_u32.checked_sub(leading + len)?;
                last ^ (bits.take(len)? << trailing)
            }
        };
        self.last = Some(value);
        Some(f64::from_bits(value))
    }
}

/// Writes bits, the highest of each number first.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// The bits not yet in `bytes`, right-aligned; fewer than 8 between calls.
    pending: u128,
    pending_len: u32,
}

impl BitWriter {
    /// Writes the `len` low bits, at most 64.
    fn put(&mut self, bits: u64, len: u32) {
        let kept = u128::from(bits) & ((1 << len) - 1);
        self.pending = (self.pending << len) | kept;
        self.pending_len += len;
        while self.pending_len >= 8 {
            self.pending_len -= 8;
            self.bytes.push((self.pending >> self.pending_len) as u8);
        }
        self.pending &= (1 << self.pending_len) - 1;
    }

    fn pad(&mut self) {
        if self.pending_len > 0 {
            self.put(0, 8 - self.pending_len);
        }
    }

    /// Gives the bytes; what was not padded to a whole byte is left out.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads what [`BitWriter`] wrote.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, len: u32) -> Option<u64> {
        let (first, end) = (self.at, self.at + len as usize);
        if end > 8 * self.bytes.len() {
            return None;
        }
        let mut taken: u128 = 0;
        for &byte in &self.bytes[first / 8..end.div_ceil(8)] {
            taken = taken << 8 | u128::from(byte);
        }
        let after = end.next_multiple_of(8) - end;
        self.at = end;
        Some(((taken >> after) & ((1 << len) - 1)) as u64)
    }

    fn skip_padding(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 2 of the paper: a block of 02:00:00 with the points 02:01:02 12, 02:02:02 12 and
    /// 02:03:02 24 takes 64 + 14 + 64 + 9 + 1 + 1 + 14 bits.
    #[test]
    fn the_papers_example_has_the_papers_bits() {
        let header = 1_427_162_400;
        let points = [(62, 12.0), (122, 12.0), (182, 24.0)].map(|(s, v)| (header + s, v));
        let mut out = BitWriter::default();
        encode(header, points, &mut out).expect("times in range");
        let text = [
            format!("{header:064b}"),
            format!("{:014b}", 62),
            format!("{:064b}", 12_f64.to_bits()),
            // The distance is 2 less than before.
            "10".to_owned() + "1111110",
            "0".to_owned(),
            "0".to_owned(),
            // 11 leading zeros, 1 meaningful bit.
            "11".to_owned() + "01011" + "000001" + "1",
        ]
        .concat();
        assert_eq!(text.len(), 64 + 14 + 64 + 9 + 1 + 1 + 14);
        let bytes = out.into_bytes();
        let written: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
        assert_eq!(written, format!("{text:0<168}"));
    }

    #[test]
    fn a_series_comes_back_bit_by_bit_and_ends_on_a_whole_byte() {
        let odd = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            1e-320,
            f64::MIN,
            -1.5,
            1.0,
        ];
        let steps = [
            1,
            0,
            100,
            -100,
            300,
            2_047,
            -3_000,
            1 << 20,
            -(1 << 30),
            63,
            64,
            -64,
            -65,
        ];
        let mut time = 1_000;
        let points: Vec<(i64, f64)> = (0..200)
            .map(|i| {
                time += 10_000 + steps[i % steps.len()];
                (time, odd[i * i % odd.len()])
            })
            .collect();
        let mut out = BitWriter::default();
        for _ in 0..2 {
            encode(points[0].0 - 1, points.iter().copied(), &mut out).expect("times in range");
        }
        let bytes = out.into_bytes();
        let mut bits = BitReader::new(&bytes);
        for _ in 0..2 {
            let read = decode(points.len(), &mut bits).expect("whole");
            let same = read
                .iter()
                .zip(&points)
                .all(|(a, b)| (a.0, a.1.to_bits()) == (b.0, b.1.to_bits()));
            assert!(same && read.len() == points.len());
        }
        assert_eq!(bits.at, 8 * bytes.len());
        let cut = &bytes[..bytes.len() / 2 - 1];
        assert!(decode(points.len(), &mut BitReader::new(cut)).is_none());
    }

    #[test]
    fn a_time_outside_the_format_is_refused() {
        let refused = |points: &[(i64, f64)]| {
            encode(0, points.iter().copied(), &mut BitWriter::default()).is_none()
        };
        assert!(refused(&[(1 << FIRST_DELTA_BITS, 1.0)]));
        assert!(refused(&[(-1, 1.0)]));
        assert!(refused(&[(0, 1.0), (1 << 31, 1.0)]));
    }
}
