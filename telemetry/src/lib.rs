//! Points, rows, payload decoders, clock guard and the block codec; no I/O.
