//! The data of the demo: every character that has a name in Unicode, with its name.

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) value: String,
}

/// More than 100 000 records, in the order of their keys' code points, the same on every machine.
pub(super) fn all() -> Vec<Record> {
    ('\0'..=char::MAX)
        .filter_map(|character| {
            let name = unicode_names2::name(character)?;
            Some(Record {
                key: format!("unicode/{:04X}", u32::from(character)),
                value: format!("{character} {name}"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_are_enough_records_and_each_key_is_there_once() {
        let records = all();
        assert!(records.len() > 100_000, "{}", records.len());
        let keys: HashSet<_> = records.iter().map(|record| &record.key).collect();
        assert_eq!(keys.len(), records.len());
        let face = records.iter().find(|record| record.key == "unicode/1F600");
        assert_eq!(face.map(|record| record.value.as_str()), Some("😀 GRINNING FACE"));
    }
}
