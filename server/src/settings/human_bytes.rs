//! Sizes as people write them: `64MiB`, `1GiB`, `512`. For `#[serde(with = "human_bytes")]`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserializer, Serializer, de};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Kubernetes' spelling (`Mi`) is understood; decimal units are, too.
const UNITS: [(&str, u64); 14] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("Ti", TIB),
    ("Gi", GIB),
    ("Mi", MIB),
    ("Ki", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
];

/// The largest binary unit that divides `bytes`.
#[must_use]
pub fn format(bytes: u64) -> String {
    let (unit, size) = [("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)]
        .into_iter()
        .find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size))
        .unwrap_or(("", 1));
    format!("{}{unit}", bytes / size)
}

pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let wrong = || format!("{text:?} is no size; write one such as 512KiB, 64MiB or 1GiB");
    let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*size).ok_or_else(|| format!("{text:?} is larger than 16 EiB"))
}

pub(crate) fn serialize<T, S>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Copy + TryInto<u64>,
    S: Serializer,
{
    let bytes = (*bytes).try_into().map_err(|_| serde::ser::Error::custom("above 16 EiB"))?;
    if bytes < KIB {
        serializer.serialize_u64(bytes)
    } else {
        serializer.serialize_str(&format(bytes))
    }
}

pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: TryFrom<u64>,
    D: Deserializer<'de>,
{
    struct Visitor<T>(PhantomData<T>);

    impl<T: TryFrom<u64>> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as 512KiB, 64MiB or 1GiB")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<T, E> {
            T::try_from(bytes).map_err(|_| E::custom("larger than this machine can address"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            parse(text).map_err(E::custom).and_then(|bytes| self.visit_u64(bytes))
        }
    }

    deserializer.deserialize_any(Visitor(PhantomData))
}

/// A size, or `auto` for `None`: then the program chooses.
pub(crate) mod auto {
    use super::{Deserializer, Serializer, de, fmt, parse};

    const AUTO: &str = "auto";

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::serialize(bytes, serializer),
            None => serializer.serialize_str(AUTO),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Option<u64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 512KiB, 64MiB or 1GiB, or auto")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Self::Value, E> {
                Ok(Some(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == AUTO { Ok(None) } else { parse(text).map(Some).map_err(E::custom) }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// How a size looks in the schema.
pub(crate) struct HumanBytes;

impl JsonSchema for HumanBytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "bytes" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (why, text, want) in [
            ("bytes", "512", Some(512)),
            ("binary", "64MiB", Some(64 << 20)),
            ("space before the unit", "64 MiB", Some(64 << 20)),
            ("as Kubernetes writes it", "256Mi", Some(256 << 20)),
            ("decimal", "10MB", Some(10_000_000)),
            ("nothing", "", None),
            ("no number", "MiB", None),
            ("unknown unit", "3 pounds", None),
            ("fractions are not exact", "1.5GiB", None),
            ("negative", "-1", None),
            ("overflow", "99999999TiB", None),
        ] {
            assert_eq!(parse(text).ok(), want, "{why}: {text:?}");
        }
    }

    #[test]
    fn printed_sizes_are_read_back_the_same() {
        for bytes in [0, 1, 1023, 1024, 1025, 3 << 20, (3 << 20) + 1, 5 << 40, u64::MAX] {
            assert_eq!(parse(&format(bytes)), Ok(bytes), "{}", format(bytes));
        }
    }
}
