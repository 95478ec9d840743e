//! What every part's settings are made of: how people write bytes and durations, and what is wrong with them.

pub mod check;
pub mod human_bytes;
pub mod human_duration;
