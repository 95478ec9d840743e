//! Reading what Prometheus would read.

use std::collections::BTreeMap;

/// A sample: name, labels, value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Every sample of an exposition. Lines that are none are left out.
#[must_use]
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// The sum over all samples of a name whose labels include these.
#[must_use]
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let matches = |sample: &&Sample| {
        sample.name == name
            && labels
                .iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|is| is == value))
    };
    samples.iter().filter(matches).map(|sample| sample.value).sum()
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    // No label of ours holds a comma or a quote.
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample {
        name: name.to_owned(),
        labels: labels.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let text = "# HELP a b\na 1\nb{x=\"1\",y=\"z\"} 2.5\nb{x=\"2\",y=\"z\"} 1e1\nnonsense\n";
        let samples = parse(text);
        assert_eq!(samples.len(), 3, "{samples:?}");
        for (name, labels, want) in [
            ("a", &[][..], 1.0),
            ("b", &[("y", "z")], 12.5),
            ("b", &[("x", "2")], 10.0),
            ("b", &[("x", "3")], 0.0),
        ] {
            let found = sum(&samples, name, labels);
            assert!((found - want).abs() < 1e-9, "{name} {labels:?}: {found}");
        }
    }
}
