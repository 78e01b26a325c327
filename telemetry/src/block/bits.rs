//! A stream of bits: the lowest bit of a byte comes first, fields have their lowest bit first.

/// Writes bits.
#[derive(Debug)]
pub(super) struct BitWriter {
    out: Vec<u8>,
    /// Bits not yet written out, the earliest lowest.
    held: u64,
    /// How many of them: below 64.
    count: u32,
}

impl BitWriter {
    /// Begins with one whole byte.
    pub(super) fn with_header(header: u8) -> Self {
        Self {
            out: vec![header],
            held: 0,
            count: 0,
        }
    }

    /// Writes the lowest `width` bits of a value, at most 64; the others must be zero.
    pub(super) fn put(&mut self, value: u64, width: u32) {
        debug_assert!(width <= 64 && (width == 64 || value >> width == 0));
        if width == 0 {
            return;
        }
        self.held |= value << self.count;
        let free = 64 - self.count;
        if width < free {
            self.count += width;
            return;
        }
        self.out.extend_from_slice(&self.held.to_le_bytes());
        self.held = value.checked_shr(free).unwrap_or(0);
        self.count = width - free;
    }

    /// Writes a number as its length in bits (7 bits, 0 for the number 0) and its bits below the
    /// highest one.
    pub(super) fn put_var(&mut self, value: u64) {
        let len = 64 - value.leading_zeros();
        self.put(u64::from(len), 7);
        if len > 1 {
            self.put(value & !(1 << (len - 1)), len - 1);
        }
    }

    /// Ends with zero bits up to a whole byte.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let bytes = self.count.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&self.held.to_le_bytes()[..bytes]);
        self.out
    }
}

/// How many bits [`BitWriter::put_var`] takes.
pub(super) fn var_len(value: u64) -> u64 {
    let len = 64 - value.leading_zeros();
    7 + u64::from(len.saturating_sub(1))
}

/// The bits end before the field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CutOff;

/// Reads bits.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next bit; at most `8 * bytes.len()`.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, as many as one load gives (at least 57 unless the end is near), zeros after
    /// the end.
    fn window(&self) -> u64 {
        let rest = &self.bytes[self.at / 8..];
        let word = match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => {
                let mut word = [0; 8];
                word[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(word)
            }
        };
        word >> (self.at % 8)
    }

    fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    /// Reads a field of `width` bits, at most 64.
    pub(super) fn take(&mut self, width: u32) -> Result<u64, CutOff> {
        debug_assert!(width <= 64);
        if self.left() < width as usize {
            return Err(CutOff);
        }
        if width <= 56 {
            let value = self.window() & ((1 << width) - 1);
            self.at += width as usize;
            return Ok(value);
        }
        let low = self.window() & 0xffff_ffff;
        self.at += 32;
        let high = self.window() & (u64::MAX >> (96 - width));
        self.at += width as usize - 32;
        Ok(low | high << 32)
    }

    /// Reads what [`BitWriter::put_var`] writes.
    pub(super) fn take_var(&mut self) -> Result<u64, VarError> {
        match self.take(7)? as u32 {
            len @ 0..=1 => Ok(u64::from(len)),
            len @ 2..=64 => Ok(self.take(len - 1)? | 1 << (len - 1)),
            _ => Err(VarError::TooLong),
        }
    }

    /// Reads one bits up to a zero bit or up to `max` of them (at most 56), and the zero bit.
    pub(super) fn take_ones(&mut self, max: u32) -> Result<u32, CutOff> {
        debug_assert!(max <= 56);
        let ones = self.window().trailing_ones();
        let (ones, width) = if ones >= max {
            (max, max)
        } else {
            (ones, ones + 1)
        };
        if self.left() < width as usize {
            return Err(CutOff);
        }
        self.at += width as usize;
        Ok(ones)
    }

    /// Checks that nothing follows but the zero bits of the last byte.
    pub(super) fn end(mut self) -> Result<(), super::BlockError> {
        let left = self.left();
        if left >= 8 {
            return Err(super::BlockError::Damaged("bytes after the end"));
        }
        if self.take(left as u32)? != 0 {
            return Err(super::BlockError::Damaged("bits after the end"));
        }
        Ok(())
    }
}

/// Why bits are no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VarError {
    CutOff,
    TooLong,
}

impl From<CutOff> for VarError {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}

impl From<VarError> for super::BlockError {
    fn from(error: VarError) -> Self {
        match error {
            VarError::CutOff => Self::CutOff,
            VarError::TooLong => Self::Damaged("a number of more than 64 bits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_width_come_back_across_word_borders() {
        let mut writer = BitWriter::with_header(9);
        let fields: Vec<(u64, u32)> = (0..=64)
            .chain((0..=64).rev())
            .map(|width| {
                (
                    0x9e37_79b9_7f4a_7c15_u64
                        .checked_shr(64 - width)
                        .unwrap_or(0),
                    width,
                )
            })
            .collect();
        for &(value, width) in &fields {
            writer.put(value, width);
        }
        let bytes = writer.finish();
        assert_eq!(bytes[0], 9);
        let mut reader = BitReader::new(&bytes[1..]);
        for &(value, width) in &fields {
            assert_eq!(reader.take(width), Ok(value), "width {width}");
        }
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn numbers_come_back_and_cost_what_var_len_says() {
        let numbers = [0, 1, 2, 3, 255, 256, u64::MAX >> 1, u64::MAX];
        let mut writer = BitWriter::with_header(0);
        let mut bits = 0;
        for number in numbers {
            writer.put_var(number);
            bits += var_len(number);
        }
        let bytes = writer.finish();
        assert_eq!(bytes.len() as u64 - 1, bits.div_ceil(8));
        let mut reader = BitReader::new(&bytes[1..]);
        for number in numbers {
            assert_eq!(reader.take_var(), Ok(number));
        }
    }

    #[test]
    fn a_cut_off_field_is_an_error_and_not_zero() {
        let mut reader = BitReader::new(&[0xff]);
        assert_eq!(reader.take(9), Err(CutOff));
        assert_eq!(reader.take(8), Ok(255));
        assert_eq!(reader.take(1), Err(CutOff));
        assert_eq!(reader.take_ones(3), Err(CutOff));
    }

    #[test]
    fn ones_end_at_a_zero_or_at_the_most() {
        let mut reader = BitReader::new(&[0b0011_1011]);
        assert_eq!(reader.take_ones(20), Ok(2));
        assert_eq!(reader.take_ones(3), Ok(3));
        assert_eq!(reader.take_ones(3), Ok(0));
    }
}
