//! What is said of a damaged disk: by a start that fails on it, and by a node that ends of it.

/// Where damage is met, for who looks at it at night. The same words are on the page that it names.
const ADVICE: &str = "The disk is damaged, or is not what it was. Nothing that was acknowledged is lost as long as every \
                      region has its quorum without this node. Delete nothing by hand, and replace the disk as a lost \
                      one unless it can be put right: see \"Damaged disk\" in docs/operations.md";

/// By its words, as it comes from RocksDB and threads that have nothing but words.
#[must_use]
pub fn tells_of_damage(why: &str) -> bool {
    ["corrupt data: ", "Corruption: "].iter().any(|words| why.contains(words))
}

/// Adds what is to be done to an error that came of damage. Behind it, so that what was met, with the file, comes first.
pub(super) fn advised(error: anyhow::Error) -> anyhow::Error {
    let why = format!("{error:#}");
    if tells_of_damage(&why) { anyhow::anyhow!("{why}. {ADVICE}") } else { error }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    use crate::storage::engine;

    #[test]
    fn damage_comes_with_advice_and_nothing_else_does() {
        let message = || "block checksum mismatch in /data/000007.sst".to_owned();
        let at_start = |error: engine::Error| {
            let error = Err::<(), _>(error).context("open the regions of this node");
            error.expect_err("it is one")
        };
        for (why, error, is_damage) in [
            ("at a start", at_start(engine::Error::Corrupt { message: message() }), true),
            (
                "of a thread",
                anyhow::anyhow!("write the data: corrupt data: write: {}", message()),
                true,
            ),
            ("in the words of RocksDB", anyhow::anyhow!("Corruption: {}", message()), true),
            ("another one", at_start(engine::Error::Io { message: message() }), false),
        ] {
            let told = format!("{:#}", advised(error));
            assert!(told.contains("000007.sst"), "{why}: {told}");
            assert_eq!(told.ends_with(ADVICE), is_damage, "{why}: {told}");
        }
    }

    /// Who reads the one at night looks for it in the other.
    #[test]
    fn page_says_the_same_as_the_last_line() {
        let page = include_str!("../../../docs/operations.md");
        let (_, page) = page.split_once("\n## Damaged disk\n").expect("the page has it");
        let page: Vec<_> = page.split_whitespace().filter(|word| *word != ">").collect();
        let page = page.join(" ");
        let (words, _) = ADVICE.split_once(": see").expect("where to read more");
        assert!(page.contains(words), "{words}");
    }
}
