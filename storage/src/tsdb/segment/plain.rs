//! A block as plain bytes: version, then each row with its time, schema and values.

use telemetry::Row;
use telemetry::schemas::{SchemaId, Schemas, SchemasFull};

use super::format::take;

const VERSION: u8 = 0;

/// Appends the rows to `out`, naming their schemas.
pub(super) fn encode(
    rows: &[Row],
    schemas: &mut Schemas,
    out: &mut Vec<u8>,
) -> Result<(), SchemasFull> {
    out.push(VERSION);
    for row in rows {
        out.extend_from_slice(&row.ts_ms.to_le_bytes());
        out.extend_from_slice(&schemas.intern(row.schema())?.0.to_le_bytes());
        for value in row.values() {
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
    Ok(())
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(mut input: &[u8], schemas: &Schemas) -> Result<Vec<Row>, &'static str> {
    if take(&mut input)? != [VERSION] {
        return Err("another version of the block");
    }
    let mut rows = Vec::new();
    while !input.is_empty() {
        let ts_ms = i64::from_le_bytes(take(&mut input)?);
        let id = SchemaId(u32::from_le_bytes(take(&mut input)?));
        let schema = schemas.get(id).ok_or("a schema that is not there")?;
        let mut values = Vec::with_capacity(schema.len());
        for _ in 0..schema.len() {
            values.push(f64::from_bits(u64::from_le_bytes(take(&mut input)?)));
        }
        rows.push(Row::new(ts_ms, schema.clone(), values));
    }
    Ok(rows)
}
