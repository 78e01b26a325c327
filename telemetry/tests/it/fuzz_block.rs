//! What must hold of the block codec for any bytes and any rows; shared with `fuzz/`.

use tidewire_telemetry::block;
use tidewire_telemetry::{MetricName, Row, Schema, Schemas};

/// Metric names that blocks of the fuzzer refer to.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Reads foreign bytes, or encodes rows drawn from them, as the first byte says.
///
/// # Panics
/// When what is read breaks a bound or is not the same after it was written and read again, or
/// when rows do not come back bit by bit.
pub(crate) fn blocks(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    match choice & 3 {
        0 => read_schemas_and_block(bytes),
        1 => read_block(bytes, &known_schemas()),
        2 => {
            let mut block = vec![block::VERSION];
            block.extend_from_slice(bytes);
            read_block(&block, &known_schemas());
        }
        _ => write_and_read(&rows_of(bytes)),
    }
}

/// The first two bytes tell the length of the schemas, the block follows them.
fn read_schemas_and_block(bytes: &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    let (stored, block) = rest.split_at(len);
    if let Ok(schemas) = Schemas::from_bytes(stored) {
        assert_eq!(schemas.to_bytes(), stored, "there is one form of schemas");
        read_block(block, &schemas);
    }
}

fn read_block(bytes: &[u8], schemas: &Schemas) {
    let peeked = block::peek(bytes, schemas);
    let Ok(rows) = block::decode(bytes, schemas) else {
        return;
    };
    let header = peeked.expect("the front of what can be read");
    assert!((1..=block::ROWS_MAX).contains(&header.rows));
    assert!(header.rows * header.schema.len() <= block::CELLS_MAX);
    assert!(rows.len() <= header.rows);
    assert!(rows.is_sorted_by(|a, b| a.ts_ms < b.ts_ms));
    let times = header.ts_min..=header.ts_max;
    assert!(rows.iter().all(|row| times.contains(&row.ts_ms)));
    assert!(rows.iter().all(|row| !row.is_empty()));
    // Few bytes can stand for many equal rows, whose second and third reading would only cost.
    if rows.len() <= 128 {
        assert_selects(bytes, schemas, &rows);
        write_and_read(&rows);
    }
}

/// Decoding some metrics gives what decoding all and selecting gives.
fn assert_selects(bytes: &[u8], schemas: &Schemas, rows: &[Row]) {
    let wanted = |name: &str| name == "b" || name == "d";
    let selected = rows.iter().map(|row| row.select(wanted));
    let selected: Vec<Row> = selected.filter(|row| !row.is_empty()).collect();
    let some = block::decode_metrics(bytes, schemas, wanted);
    assert_eq!(some.as_ref(), Ok(&selected));
}

fn write_and_read(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let mut schemas = Schemas::new();
    let bytes = block::encode(rows, &mut schemas).expect("rows in order, within the bounds");
    let schemas = Schemas::from_bytes(&schemas.to_bytes()).expect("as written");
    assert_eq!(block::decode(&bytes, &schemas).as_deref(), Ok(rows));
    let header = block::peek(&bytes, &schemas).expect("as written");
    assert_eq!(header.rows, rows.len());
    assert_selects(&bytes, &schemas, rows);
}

fn known_schemas() -> Schemas {
    let mut schemas = Schemas::new();
    for count in [2, NAMES.len(), 1] {
        let names = NAMES[..count].iter().map(|text| name(text)).collect();
        schemas.intern(&Schema::new(names)).expect("room for three");
    }
    schemas
}

/// Rows drawn from bytes: a rule for each column and for the times, then one byte a cell.
fn rows_of(bytes: &[u8]) -> Vec<Row> {
    let mut left = bytes.iter().copied();
    let mut next = || left.next().unwrap_or(0);
    let columns: Vec<Column> = (0..1 + usize::from(next() % 5))
        .map(|_| Column {
            kind: next(),
            base: i64::from(i16::from_le_bytes([next(), next()])),
            last: 0,
        })
        .collect();
    let time_step = [1, 1_000, 10_000, 1 << 40][usize::from(next() & 3)];
    let mut ts_ms = [0, 1_700_000_000_000, i64::MIN, -5][usize::from(next() & 3)];
    let mut columns = columns;
    let mut rows = Vec::new();
    while let Some(jitter) = left.next() {
        ts_ms += time_step
            + if jitter & 0x80 == 0 {
                0
            } else {
                i64::from(jitter)
            };
        let mut next = || left.next().unwrap_or(0);
        let cells = columns.iter_mut().zip(NAMES);
        let cells = cells.filter_map(|(column, text)| Some((name(text), column.value(next())?)));
        let row = Row::from_pairs(ts_ms, cells).expect("the names are distinct");
        if !row.is_empty() && rows.len() < block::ROWS_MAX {
            rows.push(row);
        }
    }
    rows
}

struct Column {
    kind: u8,
    base: i64,
    last: u64,
}

impl Column {
    /// The value that a byte stands for; `None`: absent.
    fn value(&mut self, byte: u8) -> Option<f64> {
        let is_rare = self.kind & 0x80 == 0 || byte < 0xF0;
        if !is_rare {
            return None;
        }
        let step = i64::from(byte as i8);
        Some(match self.kind & 7 {
            0 => (self.base + step) as f64,
            1 => (self.base + step) as f64 / 10.0,
            2 => (self.base + step) as f64 / 1_000.0,
            3 => self.base as f64,
            4 => f64::from((self.base + step) as f32 * 0.7),
            5 => {
                // Any bits, one byte at a time.
                self.last = self.last.rotate_left(8) ^ u64::from(byte);
                f64::from_bits(self.last)
            }
            6 => {
                let odd = [
                    0.0,
                    -0.0,
                    f64::NAN,
                    f64::INFINITY,
                    f64::MIN_POSITIVE,
                    f64::MAX,
                    9_007_199_254_740_993.0,
                    1e22,
                ];
                odd[usize::from(byte & 7)]
            }
            _ => {
                self.base = self.base.wrapping_add(step);
                self.base as f64 / 100.0
            }
        })
    }
}

fn name(text: &str) -> MetricName {
    MetricName::parse(text).expect("a short name")
}
