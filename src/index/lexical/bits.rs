//! A set of the engine's document numbers inside one segment.

/// Numbers below a fixed length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: u32,
}

impl Bits {
    pub(super) fn none(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len }
    }

    pub(super) fn all(len: u32) -> Self {
        Self::none(len).complement()
    }

    pub(super) fn length(&self) -> u32 {
        self.len
    }

    /// Panics if `doc` is not below the length.
    pub(super) fn insert(&mut self, doc: u32) {
        debug_assert!(doc < self.len, "documents are numbered below the length");
        self.words[(doc / 64) as usize] |= 1 << (doc % 64);
    }

    pub(super) fn contains(&self, doc: u32) -> bool {
        self.words[(doc / 64) as usize] >> (doc % 64) & 1 == 1
    }

    pub(super) fn complement(mut self) -> Self {
        for word in &mut self.words {
            *word = !*word;
        }
        if !self.len.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.len % 64)) - 1;
        }
        self
    }

    pub(super) fn union(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        self
    }

    pub(super) fn intersection(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
        self
    }

    pub(super) fn difference(mut self, other: &Self) -> Self {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
        self
    }

    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.words).flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn bits(len: u32, docs: &BTreeSet<u32>) -> Bits {
        let mut bits = Bits::none(len);
        docs.iter().filter(|doc| **doc < len).for_each(|doc| bits.insert(*doc));
        bits
    }

    proptest! {
        #[test]
        fn bits_are_sets(
            len in 0_u32..200,
            a in proptest::collection::btree_set(0_u32..200, 0..80),
            b in proptest::collection::btree_set(0_u32..200, 0..80),
        ) {
            let (a, b): (BTreeSet<_>, BTreeSet<_>) =
                (a.into_iter().filter(|doc| *doc < len).collect(), b.into_iter().filter(|doc| *doc < len).collect());
            let (x, y) = (bits(len, &a), bits(len, &b));

            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(x.count(), a.len());
            prop_assert_eq!(x.clone().union(&y), bits(len, &a.union(&b).copied().collect()));
            prop_assert_eq!(x.clone().intersection(&y), bits(len, &a.intersection(&b).copied().collect()));
            prop_assert_eq!(x.clone().difference(&y), bits(len, &a.difference(&b).copied().collect()));
            prop_assert_eq!(x.clone().complement(), Bits::all(len).difference(&x));
            prop_assert_eq!(Bits::all(len).count(), len as usize);
        }
    }
}
