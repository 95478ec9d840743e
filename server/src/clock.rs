//! Time and randomness.
