//! The encodings that are set beside each other; each takes the rows of one block.

use std::hint::black_box;

use telemetry::{Row, Schemas, block};

use super::Error;
use super::gorilla::{self, BitReader, BitWriter};

/// Is an encoding of a block of rows that all have the same metrics.
pub(super) trait Codec {
    /// What decoding gives.
    type Decoded;

    /// Encodes a block.
    fn encode(&mut self, rows: &[Row]) -> Result<Vec<u8>, Error>;

    /// Decodes a block of so many rows and metrics.
    fn decode(&mut self, bytes: &[u8], rows: usize, metrics: usize)
    -> Result<Self::Decoded, Error>;

    /// Whether these are the rows, bit by bit.
    fn is_same(decoded: &Self::Decoded, rows: &[Row]) -> bool;

    /// Bytes that all blocks share.
    fn shared_bytes(&self) -> usize {
        0
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error(error.to_string())
}

/// Tidewire's blocks.
#[derive(Default)]
pub(super) struct Blocks {
    schemas: Schemas,
}

impl Codec for Blocks {
    type Decoded = Vec<Row>;

    fn encode(&mut self, rows: &[Row]) -> Result<Vec<u8>, Error> {
        block::encode(rows, &mut self.schemas).map_err(failed)
    }

    fn decode(&mut self, bytes: &[u8], _: usize, _: usize) -> Result<Vec<Row>, Error> {
        block::decode(bytes, &self.schemas).map_err(failed)
    }

    fn is_same(decoded: &Vec<Row>, rows: &[Row]) -> bool {
        decoded == rows
    }

    fn shared_bytes(&self) -> usize {
        self.schemas.to_bytes().len()
    }
}

/// Gorilla: each metric is a series with its own timestamps.
pub(super) struct Gorilla {
    /// The block begins at a multiple of it, milliseconds.
    pub(super) align_ms: i64,
}

impl Codec for Gorilla {
    type Decoded = Vec<Vec<(i64, f64)>>;

    fn encode(&mut self, rows: &[Row]) -> Result<Vec<u8>, Error> {
        let mut out = BitWriter::default();
        let first_ms = rows.first().map_or(0, |row| row.ts_ms);
        let header = first_ms - first_ms.rem_euclid(self.align_ms);
        for at in 0..rows.first().map_or(0, Row::len) {
            let points = rows.iter().map(|row| (row.ts_ms, row.values()[at]));
            gorilla::encode(header, points, &mut out)
                .ok_or_else(|| failed("a time is outside Gorilla's format"))?;
        }
        Ok(out.into_bytes())
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        rows: usize,
        metrics: usize,
    ) -> Result<Self::Decoded, Error> {
        let mut bits = BitReader::new(bytes);
        (0..metrics)
            .map(|_| gorilla::decode(rows, &mut bits))
            .collect::<Option<_>>()
            .ok_or_else(|| failed("a Gorilla series is cut off"))
    }

    fn is_same(decoded: &Self::Decoded, rows: &[Row]) -> bool {
        decoded.iter().enumerate().all(|(at, series)| {
            series.len() == rows.len()
                && series.iter().zip(rows).all(|(&(ts_ms, value), row)| {
                    ts_ms == row.ts_ms && value.to_bits() == row.values()[at].to_bits()
                })
        })
    }
}

/// zstd over the times as `i64` and the values as `f64`, column by column.
pub(super) struct Zstd {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Zstd {
    pub(super) fn new(level: i32) -> Result<Self, Error> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(level).map_err(failed)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(failed)?,
        })
    }
}

impl Codec for Zstd {
    type Decoded = Vec<u8>;

    fn encode(&mut self, rows: &[Row]) -> Result<Vec<u8>, Error> {
        self.compressor.compress(&raw_columns(rows)).map_err(failed)
    }

    fn decode(&mut self, bytes: &[u8], rows: usize, metrics: usize) -> Result<Vec<u8>, Error> {
        let len = 8 * rows * (1 + metrics);
        self.decompressor.decompress(bytes, len).map_err(failed)
    }

    fn is_same(decoded: &Vec<u8>, rows: &[Row]) -> bool {
        *decoded == raw_columns(rows)
    }
}

fn raw_columns(rows: &[Row]) -> Vec<u8> {
    let metrics = rows.first().map_or(0, Row::len);
    let mut raw = Vec::with_capacity(8 * rows.len() * (1 + metrics));
    raw.extend(rows.iter().flat_map(|row| row.ts_ms.to_le_bytes()));
    for at in 0..metrics {
        raw.extend(rows.iter().flat_map(|row| row.values()[at].to_le_bytes()));
    }
    raw
}

/// Is what one encoding needs for a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) bytes: usize,
    pub(super) encode_ns: u64,
    pub(super) decode_ns: u64,
}

/// Encodes and decodes a set, and sees that every row comes back.
pub(super) fn measure<C: Codec>(
    mut codec: C,
    blocks: &[Vec<Row>],
    cpu_ns: impl Fn() -> Result<u64, Error>,
) -> Result<Measured, Error> {
    let shape = |rows: &[Row]| (rows.len(), rows.first().map_or(0, Row::len));
    let started_ns = cpu_ns()?;
    let mut encoded = Vec::with_capacity(blocks.len());
    for rows in blocks {
        encoded.push(codec.encode(rows)?);
    }
    let encoded_ns = cpu_ns()?;
    for (bytes, rows) in encoded.iter().zip(blocks) {
        let (rows, metrics) = shape(rows);
        black_box(codec.decode(bytes, rows, metrics)?);
    }
    let decoded_ns = cpu_ns()?;
    for (number, (bytes, rows)) in encoded.iter().zip(blocks).enumerate() {
        let (len, metrics) = shape(rows);
        if !C::is_same(&codec.decode(bytes, len, metrics)?, rows) {
            return Err(failed(format!("block {number} came back different")));
        }
    }
    Ok(Measured {
        bytes: encoded.iter().map(Vec::len).sum::<usize>() + codec.shared_bytes(),
        encode_ns: encoded_ns - started_ns,
        decode_ns: decoded_ns - encoded_ns,
    })
}
