//! The journal: append-only segments of checksummed frames, one writer thread, group fsync.
