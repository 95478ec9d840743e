//! Which requests of a search are done.

/// A set of small numbers that fill up from below: as large as the span of those that are not settled, and
/// not as the history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Done {
    /// Words that are full come first, and are only counted.
    full: usize,
    /// Invariant: the first is not full, the last is not empty.
    words: Vec<u64>,
}

impl Done {
    pub(super) fn has(&self, number: usize) -> bool {
        let (word, bit) = (number / 64, 1 << (number % 64));
        word < self.full || self.words.get(word - self.full).is_some_and(|word| word & bit != 0)
    }

    /// Whether the other has all that this one has.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let end = self.full + self.words.len();
        (0..end).all(|at| self.word(at) & !other.word(at) == 0)
    }

    fn word(&self, at: usize) -> u64 {
        if at < self.full {
            return u64::MAX;
        }
        self.words.get(at - self.full).copied().unwrap_or(0)
    }

    pub(super) fn insert(&mut self, number: usize) {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if word < self.full {
            return;
        }
        let at = word - self.full;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= bit;
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        self.words.drain(..full);
        self.full += full;
    }

    pub(super) fn remove(&mut self, number: usize) {
        let (word, bit) = (number / 64, 1 << (number % 64));
        if word < self.full {
            let unfolded = std::iter::repeat_n(u64::MAX, self.full - word);
            self.words.splice(..0, unfolded);
            self.full = word;
        }
        if let Some(word) = self.words.get_mut(word - self.full) {
            *word &= !bit;
        }
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_and_equal_to_every_other_way_to_make_it(
            steps in prop::collection::vec((0_usize..200, any::<bool>()), 0..600),
        ) {
            let (mut done, mut model) = (Done::default(), BTreeSet::new());
            for number in 0..130 {
                done.insert(number);
                model.insert(number);
            }
            for (number, insert) in steps {
                if insert {
                    done.insert(number);
                    model.insert(number);
                } else {
                    done.remove(number);
                    model.remove(&number);
                }
                prop_assert!((0..200).all(|number| done.has(number) == model.contains(&number)));
            }
            let mut straight = Done::default();
            model.iter().for_each(|number| straight.insert(*number));
            prop_assert_eq!(done, straight);
        }
    }
}
