//! Labels from closed sets, with a child per value that is found by index.

use std::{fmt, marker::PhantomData};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::add;

/// A label whose values are known when the program is built. Implemented by `label!`.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// All values, in the order of their indexes.
    const VALUES: &'static [&'static str];
    fn index(self) -> usize;
}

/// Declares an enum that is a label: its name in Prometheus, and that of each value.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $label:literal {
        $($(#[$value_doc:meta])* $value:ident = $text:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $crate::metrics::Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($text),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(super) use label;

/// One metric per value of `L`.
pub struct Children<L, M> {
    children: Box<[M]>,
    label: PhantomData<fn(L)>,
}

/// A counter per value of `L`.
pub type Counters<L> = Children<L, IntCounter>;
/// A gauge per value of `L`.
pub type Gauges<L> = Children<L, IntGauge>;
/// A histogram per value of `L`.
pub type Histograms<L> = Children<L, Histogram>;

impl<L: Label, M> Children<L, M> {
    pub(super) fn new(child: impl FnMut(&&'static str) -> M) -> Self {
        Self { children: L::VALUES.iter().map(child).collect(), label: PhantomData }
    }

    /// The metric of `value`.
    #[must_use]
    pub fn get(&self, value: L) -> &M {
        &self.children[value.index()]
    }
}

impl<L, M: Clone> Clone for Children<L, M> {
    fn clone(&self) -> Self {
        Self { children: self.children.clone(), label: PhantomData }
    }
}

impl<L: Label, M> fmt::Debug for Children<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} of {:?}", L::NAME, L::VALUES)
    }
}

impl<L: Label> Counters<L> {
    pub(super) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
    ) -> prometheus::Result<Self> {
        let family = add(registry, IntCounterVec::new(Opts::new(name, help), &[L::NAME])?)?;
        Ok(Self::new(|value| family.with_label_values(&[*value])))
    }

    /// The children of a family of two labels, of which the first has this value.
    pub(super) fn within(family: &IntCounterVec, first: &str) -> Self {
        Self::new(|value| family.with_label_values(&[first, *value]))
    }
}

impl<L: Label> Gauges<L> {
    pub(super) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
    ) -> prometheus::Result<Self> {
        let family = add(registry, IntGaugeVec::new(Opts::new(name, help), &[L::NAME])?)?;
        Ok(Self::new(|value| family.with_label_values(&[*value])))
    }

    /// Sets each child to how often its value occurs in `found`.
    pub fn count(&self, found: impl Iterator<Item = L>) {
        let mut counts = vec![0_i64; L::VALUES.len()];
        found.for_each(|value| counts[value.index()] += 1);
        for (child, count) in self.children.iter().zip(counts) {
            child.set(count);
        }
    }
}

impl<L: Label> Histograms<L> {
    pub(super) fn register(registry: &Registry, opts: HistogramOpts) -> prometheus::Result<Self> {
        let family = add(registry, HistogramVec::new(opts, &[L::NAME])?)?;
        Ok(Self::new(|value| family.with_label_values(&[*value])))
    }
}
