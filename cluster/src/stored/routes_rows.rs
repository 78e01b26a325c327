//! The state file of the routes: a head, a row per source, a row per source and filter.

use cluster_core::{EpochView, NodeEpoch, RouteVersion, ShardId, Source};
use mqtt::Filter;
use storage::state::Row;

use super::row::{KeyPart, decode_value, whole_key};
use super::wire::{Reader, Stored, Why, record};

/// The head; its key is empty.
pub(crate) const HEAD_KIND: u8 = 1;
/// How far a source is applied.
pub(crate) const SOURCE_KIND: u8 = 2;
/// A filter that a source wants.
pub(crate) const ROW_KIND: u8 = 3;

/// The value of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoutesHead {
    pub(crate) index: u64,
    pub(crate) epochs: EpochView,
}

record!(RoutesHead { index, epochs });

/// A row of the routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoutesRow {
    Head(RoutesHead),
    Source(Source, RouteVersion),
    Row(Source, Filter, RouteVersion),
}

impl RoutesRow {
    pub(crate) fn decode(row: &Row) -> Result<Self, Why> {
        Ok(match row.kind {
            HEAD_KIND => {
                whole_key(&row.key, |_| Ok(()))?;
                Self::Head(decode_value(&row.value)?)
            }
            SOURCE_KIND => {
                let source = whole_key(&row.key, Source::get_key)?;
                Self::Source(source, decode_value(&row.value)?)
            }
            ROW_KIND => {
                let (source, filter) = whole_key(&row.key, |from| {
                    Ok((Source::get_key(from)?, Filter::get_key(from)?))
                })?;
                Self::Row(source, filter, decode_value(&row.value)?)
            }
            tag => {
                return Err(Why::Tag {
                    what: "kind of row",
                    tag,
                });
            }
        })
    }
}

/// The key of a source's row.
pub(crate) fn source_key(source: Source) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    source.put_key(&mut key);
    key
}

/// The key of a filter's row.
pub(crate) fn row_key(source: Source, filter: &Filter) -> Vec<u8> {
    let mut key = source_key(source);
    filter.put_key(&mut key);
    key
}

const SHARD_TAG: u8 = 1;
const NODE_TAG: u8 = 2;

impl KeyPart for Source {
    fn put_key(&self, out: &mut Vec<u8>) {
        match self {
            Self::Shard(shard) => {
                out.push(SHARD_TAG);
                shard.0.put_key(out);
            }
            Self::Node(epoch) => {
                out.push(NODE_TAG);
                epoch.0.put_key(out);
            }
        }
    }

    fn get_key(from: &mut Reader<'_>) -> Result<Self, Why> {
        match u8::get(from)? {
            SHARD_TAG => u16::get_key(from).map(|shard| Self::Shard(ShardId(shard))),
            NODE_TAG => u64::get_key(from).map(|epoch| Self::Node(NodeEpoch(epoch))),
            tag => Err(Why::Tag {
                what: "source of routes",
                tag,
            }),
        }
    }
}
