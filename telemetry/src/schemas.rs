//! The name lists of a segment, to which its blocks refer by number.

use std::collections::HashMap;

use crate::row::{MetricName, Schema};

/// The number of a schema within one [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId(pub u32);

/// The schemas of a segment: each stored once, numbered from 0 in the order of arrival.
///
/// Bounded by [`Schemas::COUNT_MAX`] and [`Schemas::BYTES_MAX`]; when it is full, the segment ends
/// and the next begins with an empty one.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    list: Vec<Schema>,
    ids: HashMap<Schema, SchemaId>,
    bytes: usize,
}

impl Schemas {
    /// How many schemas there may be.
    pub const COUNT_MAX: usize = 65_536;

    /// How many names one schema may have.
    pub const NAMES_MAX: usize = 8_192;

    /// How many bytes [`Schemas::to_bytes`] may give.
    pub const BYTES_MAX: usize = 16 << 20;

    /// Makes an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the number of a schema, adding it when it is new.
    ///
    /// # Errors
    /// [`SchemasFull`] when there is no room; the set is unchanged.
    pub fn intern(&mut self, schema: &Schema) -> Result<SchemaId, SchemasFull> {
        if let Some(&id) = self.ids.get(schema) {
            return Ok(id);
        }
        let bytes = encoded_len(schema);
        let full = self.list.len() >= Self::COUNT_MAX
            || schema.len() > Self::NAMES_MAX
            || HEADER_LEN + self.bytes + bytes > Self::BYTES_MAX;
        if full {
            return Err(SchemasFull);
        }
        let id = SchemaId(self.list.len() as u32);
        self.list.push(schema.clone());
        self.ids.insert(schema.clone(), id);
        self.bytes += bytes;
        Ok(id)
    }

    /// The schema with this number.
    pub fn get(&self, id: SchemaId) -> Option<&Schema> {
        self.list.get(usize::try_from(id.0).ok()?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The stored form (`docs/formats/block.md`, "Schemas"), at most [`Schemas::BYTES_MAX`] bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.bytes);
        out.push(VERSION);
        out.extend_from_slice(&(self.list.len() as u32).to_le_bytes());
        for schema in &self.list {
            out.extend_from_slice(&(schema.len() as u16).to_le_bytes());
            for name in schema.names() {
                out.push(name.as_str().len() as u8);
                out.extend_from_slice(name.as_str().as_bytes());
            }
        }
        out
    }

    /// Reads the stored form back.
    ///
    /// # Errors
    /// [`SchemasError`] for bytes that [`Schemas::to_bytes`] does not write. Memory is taken only
    /// as bytes are read.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SchemasError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(SchemasError::Damaged("too long"));
        }
        let mut rest = bytes;
        match take::<1>(&mut rest)? {
            [VERSION] => {}
            [version] => return Err(SchemasError::Version(version)),
        }
        let count = u32::from_le_bytes(take(&mut rest)?);
        let mut names = NameTable::default();
        let mut schemas = Self::default();
        for _ in 0..count {
            let schema = read_schema(&mut rest, &mut names)?;
            let before = schemas.len();
            schemas
                .intern(&schema)
                .map_err(|SchemasFull| SchemasError::Damaged("more than the bounds allow"))?;
            if schemas.len() == before {
                return Err(SchemasError::Damaged("a schema stands there twice"));
            }
        }
        if rest.is_empty() {
            Ok(schemas)
        } else {
            Err(SchemasError::Damaged("bytes after the end"))
        }
    }
}

const VERSION: u8 = 1;

/// Version and count.
const HEADER_LEN: usize = 5;

fn encoded_len(schema: &Schema) -> usize {
    let names = schema.names().iter();
    2 + names.map(|name| 1 + name.as_str().len()).sum::<usize>()
}

/// Names that several schemas share, by their text.
type NameTable = std::collections::HashSet<MetricName>;

fn read_schema(rest: &mut &[u8], table: &mut NameTable) -> Result<Schema, SchemasError> {
    let count = usize::from(u16::from_le_bytes(take(rest)?));
    if count > Schemas::NAMES_MAX {
        return Err(SchemasError::Damaged("more names than a schema may have"));
    }
    let mut names: Vec<MetricName> = Vec::new();
    for _ in 0..count {
        let [len] = take(rest)?;
        let text = rest
            .split_off(..usize::from(len))
            .ok_or(SchemasError::Damaged("cut off"))?;
        let text =
            std::str::from_utf8(text).map_err(|_| SchemasError::Damaged("a name is no UTF-8"))?;
        let name = match table.get(text) {
            Some(known) => known.clone(),
            None => {
                let name = MetricName::parse(text)
                    .map_err(|_| SchemasError::Damaged("a name is empty or too long"))?;
                table.insert(name.clone());
                name
            }
        };
        if names.last().is_some_and(|last| *last >= name) {
            return Err(SchemasError::Damaged("names are not ascending"));
        }
        names.push(name);
    }
    Ok(Schema::new(names))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SchemasError> {
    match rest.split_first_chunk::<N>() {
        Some((chunk, tail)) => {
            *rest = tail;
            Ok(*chunk)
        }
        None => Err(SchemasError::Damaged("cut off")),
    }
}

/// The set has no room for another schema; it is unchanged, and the segment should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the segment's schemas are full")]
pub struct SchemasFull;

/// Why bytes are no stored schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemasError {
    /// Written by another version.
    #[error("schemas have version {0}, this program reads 1")]
    Version(u8),
    /// Not what a writer writes.
    #[error("schemas are damaged: {0}")]
    Damaged(&'static str),
}
