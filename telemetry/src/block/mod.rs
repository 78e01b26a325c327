//! Blocks: up to [`ROWS_MAX`] rows of one device, compressed exactly.
//!
//! Every `f64` comes back with the same bits, every `i64` time too. The format is described in
//! `docs/formats/block.md`. A block refers to its metric names by the number of a schema in the
//! [`Schemas`] of its segment; checksums are the segment's business.

mod bits;
mod column;
mod ints;
mod plan;

use crate::row::{Row, Schema};
use crate::schemas::{SchemaId, Schemas, SchemasFull};
use bits::{BitReader, BitWriter, CutOff};

/// How many rows a block may have.
pub const ROWS_MAX: usize = 4_096;

/// How many cells, that is rows times distinct metrics, a block may have: it bounds the memory
/// that decoding takes to 8 MiB of values.
pub const CELLS_MAX: usize = 1 << 20;

/// The format that [`encode`] writes.
pub const VERSION: u8 = 1;

/// Tells how many of the first rows one block can take: at most [`ROWS_MAX`] rows and
/// [`CELLS_MAX`] cells. At least 1 for rows that a [`crate::Head`] gives.
pub fn rows_that_fit(rows: &[Row]) -> usize {
    let mut schema: Option<Schema> = None;
    for (count, row) in rows.iter().take(ROWS_MAX).enumerate() {
        let united = match schema {
            Some(schema) => schema.union(row.schema()),
            None => row.schema().clone(),
        };
        if united.len() > Schemas::NAMES_MAX || united.len() * (count + 1) > CELLS_MAX {
            return count;
        }
        schema = Some(united);
    }
    rows.len().min(ROWS_MAX)
}

/// Encodes rows of one device, whose times are strictly ascending.
///
/// # Errors
/// [`EncodeError`]; only [`EncodeError::SchemasFull`] can happen to rows in order that
/// [`rows_that_fit`] passed. `schemas` is unchanged.
pub fn encode(rows: &[Row], schemas: &mut Schemas) -> Result<Vec<u8>, EncodeError> {
    if rows.is_empty() {
        return Err(EncodeError::NoRows);
    }
    if rows_that_fit(rows) < rows.len() {
        return Err(EncodeError::TooLarge(rows.len()));
    }
    if let Some(pair) = rows.windows(2).find(|pair| pair[0].ts_ms >= pair[1].ts_ms) {
        return Err(EncodeError::NotAscending(pair[1].ts_ms));
    }
    if let Some(row) = rows.iter().find(|row| row.is_empty()) {
        return Err(EncodeError::EmptyRow(row.ts_ms));
    }
    let schema = rows[1..]
        .iter()
        .fold(rows[0].schema().clone(), |all, row| all.union(row.schema()));
    let id = schemas.intern(&schema)?;

    let mut out = BitWriter::with_header(VERSION);
    out.put_var(u64::from(id.0));
    out.put_var(rows.len() as u64 - 1);
    let times: Vec<i64> = rows.iter().map(|row| row.ts_ms).collect();
    ints::encode(&times, &mut out);
    encode_columns(rows, &schema, &mut out);
    Ok(out.finish())
}

fn encode_columns(rows: &[Row], schema: &Schema, out: &mut BitWriter) {
    // A row has the names of the schema exactly when it has as many: they are a subset.
    let full = rows.iter().all(|row| row.len() == schema.len());
    out.put(u64::from(full), 1);
    let mut values = Vec::with_capacity(rows.len());
    // The place of the next metric in each row; names ascend in rows and schema alike.
    let mut places = vec![0_usize; if full { 0 } else { rows.len() }];
    for (at, name) in schema.names().iter().enumerate() {
        values.clear();
        if full {
            values.extend(rows.iter().map(|row| row.values()[at]));
        } else {
            let mut present = Vec::with_capacity(rows.len());
            for (row, place) in rows.iter().zip(&mut places) {
                let has = row.schema().names().get(*place) == Some(name);
                present.push(has);
                if has {
                    values.push(row.values()[*place]);
                    *place += 1;
                }
            }
            encode_presence(&present, out);
        }
        column::encode(&values, out);
    }
}

/// Writes one bit when all are present, else that and one bit a row.
fn encode_presence(present: &[bool], out: &mut BitWriter) {
    let all = present.iter().all(|&present| present);
    out.put(u64::from(all), 1);
    if !all {
        for &present in present {
            out.put(u64::from(present), 1);
        }
    }
}

/// Decodes all rows of a block.
///
/// # Errors
/// [`BlockError`] for bytes that [`encode`] does not write with these schemas. Counts are checked
/// before memory is taken ([`ROWS_MAX`], [`CELLS_MAX`]).
pub fn decode(block: &[u8], schemas: &Schemas) -> Result<Vec<Row>, BlockError> {
    decode_metrics(block, schemas, |_| true)
}

/// Decodes only the metrics for which `wanted` says true; rows that have none of them are left out.
///
/// # Errors
/// As [`decode`], except that damage within a column that is not wanted may pass unnoticed.
pub fn decode_metrics(
    block: &[u8],
    schemas: &Schemas,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Row>, BlockError> {
    let (header, mut bits) = read_header(block, schemas)?;
    let times = header.times;
    let schema = header.schema;
    let full = bits.take(1)? == 1;
    let mut columns = Vec::new();
    for name in schema.names() {
        let present = if full {
            None
        } else {
            decode_presence(times.len(), &mut bits)?
        };
        let count = match &present {
            None => times.len(),
            Some(present) => present.iter().filter(|&&present| present).count(),
        };
        let values = column::decode(count, &mut bits)?;
        if wanted(name.as_str()) {
            columns.push(Column {
                name: name.clone(),
                present,
                values,
            });
        }
    }
    bits.end()?;
    Ok(rows_of(&times, columns, &schema))
}

/// What the beginning of a block tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the schema.
    pub schema_id: SchemaId,
    /// The names of all metrics in it.
    pub schema: Schema,
    /// How many rows: 1 to [`ROWS_MAX`].
    pub rows: usize,
    /// Time of the first row, milliseconds since the Unix epoch.
    pub ts_min: i64,
    /// Time of the last row, milliseconds since the Unix epoch.
    pub ts_max: i64,
}

/// Reads the header and the times of a block, not its values.
///
/// # Errors
/// [`BlockError`] when these are damaged.
pub fn peek(block: &[u8], schemas: &Schemas) -> Result<Header, BlockError> {
    let (start, _) = read_header(block, schemas)?;
    let ends = start.times.first().zip(start.times.last());
    let (&ts_min, &ts_max) = ends.expect("a block has at least one row");
    Ok(Header {
        schema_id: start.schema_id,
        schema: start.schema,
        rows: start.times.len(),
        ts_min,
        ts_max,
    })
}

struct Start {
    schema_id: SchemaId,
    schema: Schema,
    /// Strictly ascending, not empty.
    times: Vec<i64>,
}

fn read_header<'a>(
    block: &'a [u8],
    schemas: &Schemas,
) -> Result<(Start, BitReader<'a>), BlockError> {
    match block.first() {
        None => return Err(BlockError::CutOff),
        Some(&VERSION) => {}
        Some(&version) => return Err(BlockError::Version(version)),
    }
    let mut bits = BitReader::new(&block[1..]);
    let id = bits.take_var()?;
    let schema_id = SchemaId(u32::try_from(id).map_err(|_| BlockError::UnknownSchema(id))?);
    let schema = schemas
        .get(schema_id)
        .ok_or(BlockError::UnknownSchema(id))?;
    let rows = bits.take_var()?;
    if rows >= ROWS_MAX as u64 || (rows as usize + 1) * schema.len() > CELLS_MAX {
        return Err(BlockError::Damaged("more rows than a block may have"));
    }
    let times = ints::decode(rows as usize + 1, &mut bits)?;
    if !times.is_sorted_by(|a, b| a < b) {
        return Err(BlockError::Damaged("times are not ascending"));
    }
    let schema = schema.clone();
    let start = Start {
        schema_id,
        schema,
        times,
    };
    Ok((start, bits))
}

fn decode_presence(rows: usize, bits: &mut BitReader<'_>) -> Result<Option<Vec<bool>>, CutOff> {
    if bits.take(1)? == 1 {
        return Ok(None);
    }
    let mut present = Vec::with_capacity(rows);
    for _ in 0..rows {
        present.push(bits.take(1)? == 1);
    }
    Ok(Some(present))
}

struct Column {
    name: crate::row::MetricName,
    /// Which rows have a value; `None`: all.
    present: Option<Vec<bool>>,
    /// The values of the rows that have one.
    values: Vec<f64>,
}

fn rows_of(times: &[i64], columns: Vec<Column>, schema: &Schema) -> Vec<Row> {
    if columns.is_empty() {
        return Vec::new();
    }
    let shared = if columns.len() == schema.len() {
        schema.clone()
    } else {
        Schema::new(columns.iter().map(|column| column.name.clone()).collect())
    };
    if columns.iter().all(|column| column.present.is_none()) {
        let row = |(at, &ts_ms)| {
            let values: Box<[f64]> = columns.iter().map(|column| column.values[at]).collect();
            Row::new(ts_ms, shared.clone(), values)
        };
        return times.iter().enumerate().map(row).collect();
    }
    sparse_rows(times, columns, &shared)
}

/// Makes rows of which some lack some of the metrics; those that have none are left out.
fn sparse_rows(times: &[i64], columns: Vec<Column>, shared: &Schema) -> Vec<Row> {
    let mut rows = Vec::with_capacity(times.len());
    let mut last = shared.clone();
    let mut columns: Vec<_> = columns
        .into_iter()
        .map(|column| (column.name, column.present, column.values.into_iter()))
        .collect();
    for (at, &ts_ms) in times.iter().enumerate() {
        let mut names = Vec::with_capacity(last.len());
        let mut values = Vec::with_capacity(last.len());
        for (name, present, rest) in &mut columns {
            if present.as_ref().is_none_or(|present| present[at]) {
                names.push(&*name);
                values.push(rest.next().expect("as many values as present rows"));
            }
        }
        if names.is_empty() {
            continue;
        }
        if !names.iter().copied().eq(last.names()) {
            last = Schema::new(names.into_iter().cloned().collect());
        }
        rows.push(Row::new(ts_ms, last.clone(), values));
    }
    rows
}

/// Why rows make no block; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There are none.
    #[error("a block needs a row")]
    NoRows,
    /// This many rows exceed [`ROWS_MAX`] or [`CELLS_MAX`]; split them by [`rows_that_fit`].
    #[error("{0} rows are more than a block may have")]
    TooLarge(usize),
    /// The row of this time does not come after the one before it.
    #[error("row of time {0} is not after the one before it")]
    NotAscending(i64),
    /// A row has no metric: it could not be told from an absent one.
    #[error("row of time {0} has no metric")]
    EmptyRow(i64),
    /// The segment should end here.
    #[error(transparent)]
    SchemasFull(#[from] SchemasFull),
}

/// Why bytes are no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Written by another version.
    #[error("block has version {0}, this program reads 1")]
    Version(u8),
    /// The bytes end too early.
    #[error("block is cut off")]
    CutOff,
    /// The segment's schemas do not have this number.
    #[error("block refers to the unknown schema {0}")]
    UnknownSchema(u64),
    /// Not what a writer writes.
    #[error("block is damaged: {0}")]
    Damaged(&'static str),
}

impl From<CutOff> for BlockError {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}
