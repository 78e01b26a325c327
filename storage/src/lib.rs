//! What lies on disk: journal, embedded log, segments and manifest of the hot store.
