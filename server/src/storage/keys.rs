//! The layout of keys on disk.
