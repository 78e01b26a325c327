//! The hot store: head, segments of device blocks, manifest, merge and range queries.
