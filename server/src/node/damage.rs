//! What is said of a disk that a node cannot start from.

use crate::storage::engine;

/// Where damage is met, for who looks at it at night.
const ADVICE: &str = "the disk is damaged, or not what it was: unless it can be put right, replace this node as one \
                      whose disk is lost, as docs/operations.md says under \"Damaged disk\"";

/// Adds what is to be done to an error that came of damage.
pub(super) fn advised(error: anyhow::Error) -> anyhow::Error {
    let is_damage = error.chain().any(|cause| {
        matches!(cause.downcast_ref::<engine::Error>(), Some(engine::Error::Corrupt { .. }))
    });
    if is_damage { error.context(ADVICE) } else { error }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn damage_comes_with_advice_and_nothing_else_does() {
        let failed = |error: engine::Error| {
            let error = Err::<(), _>(error).context("open the regions of this node");
            format!("{:#}", advised(error.expect_err("it is one")))
        };
        let message = || "block checksum mismatch in /data/000007.sst".to_owned();
        let damage = failed(engine::Error::Corrupt { message: message() });
        assert!(damage.contains("000007.sst") && damage.contains("Damaged disk"), "{damage}");
        let other = failed(engine::Error::Io { message: message() });
        assert!(!other.contains("Damaged disk"), "{other}");
        let page = include_str!("../../../docs/operations.md");
        assert!(page.lines().any(|line| line == "## Damaged disk"), "the page has it");
    }
}
