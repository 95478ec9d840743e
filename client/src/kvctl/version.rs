//! `kvctl version`

use super::{exit::Failure, output::Output};

pub(super) fn run(mut out: Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    out.say(&serde_json::json!({ "version": version }), &format!("kvctl {version}"))
}
