//! The query of a request, as bytes: a prefix of keys need not be UTF-8.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::Uri;
use percent_encoding::percent_decode;

use crate::error::Error;

/// Each call that may have to wait takes it.
pub(super) const TIMEOUT: &str = "timeout";

/// Parameters of a query.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, Bytes)>);

impl Query {
    /// The parameters of `uri`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for one that is not in `known`, or is there twice: a misspelt parameter
    /// must not be without effect.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Error> {
        let mut parameters: Vec<(String, Bytes)> = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8_lossy(&decode(name)).into_owned();
            if !known.contains(&name.as_str()) {
                let message = match known {
                    [] => "is not known; there are no parameters here".into(),
                    known => format!("is not known; there are {}", known.join(", ")),
                };
                return Err(Error::invalid(name, message));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Error::invalid(name, "is there twice"));
            }
            parameters.push((name, decode(value).into_owned().into()));
        }
        Ok(Self(parameters))
    }

    /// A parameter's bytes, if it is there.
    pub(super) fn bytes(&self, name: &str) -> Option<Bytes> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    /// A switch: `true`, `false`, or the bare name for true.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.bytes(name).as_deref() {
            None | Some(b"false") => Ok(false),
            Some(b"true" | b"") => Ok(true),
            Some(_) => Err(Error::invalid(name, "must be true or false")),
        }
    }

    /// A number; 0 when it is not there.
    pub(super) fn number(&self, name: &str) -> Result<u64, Error> {
        match self.text(name)? {
            None => Ok(0),
            Some(text) => text.parse().map_err(|_| Error::invalid(name, "must be a whole number")),
        }
    }

    /// A duration as in `30s` or `1h 30m`, in whole milliseconds; 0 when it is not there.
    pub(super) fn millis(&self, name: &str) -> Result<u64, Error> {
        let Some(text) = self.text(name)? else { return Ok(0) };
        let duration = humantime::parse_duration(&text)
            .map_err(|error| Error::invalid(name, format!("must be like 30s: {error}")))?;
        if duration < Duration::from_millis(1) {
            return Err(Error::invalid(name, "must be at least 1ms"));
        }
        u64::try_from(duration.as_millis()).map_err(|_| Error::invalid(name, "is too long"))
    }

    /// The time that a caller gives for an answer, if it names any.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Error> {
        let millis = self.millis(TIMEOUT)?;
        Ok((millis > 0).then(|| Duration::from_millis(millis)))
    }

    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        match String::from_utf8(bytes.to_vec()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid(name, "must be text")),
        }
    }
}

/// As forms encode it: `+` is a blank.
fn decode(part: &str) -> Cow<'_, [u8]> {
    if part.contains('+') {
        let blanks = part.replace('+', " ");
        return Cow::Owned(percent_decode(blanks.as_bytes()).collect());
    }
    percent_decode(part.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Error> {
        let uri = format!("/kv?{text}").parse().expect("a URI");
        Query::of(&uri, &["prefix", "limit", "ttl", "stale"])
    }

    #[test]
    fn parameters_are_bytes() {
        let query = query("prefix=a%00%ff%2Fb+c%2B&limit=7&stale").expect("all are known");
        assert_eq!(query.bytes("prefix").as_deref(), Some(&b"a\0\xff/b c+"[..]));
        assert_eq!(query.number("limit"), Ok(7));
        assert_eq!(query.flag("stale"), Ok(true));
        assert_eq!(query.millis("ttl"), Ok(0));
    }

    #[test]
    fn misspelt_parameters_are_refused() {
        for (why, text, field) in
            [("unknown", "perfix=a", "perfix"), ("twice", "limit=1&limit=2", "limit")]
        {
            let error = query(text).expect_err(why);
            assert!(
                matches!(error, Error::InvalidArgument { field: f, .. } if f == field),
                "{why}"
            );
        }
    }

    #[test]
    fn values_are_checked() {
        for (text, want) in [("30s", 30_000), ("1h 30m", 5_400_000), ("1ms", 1)] {
            let parameters = query(&format!("ttl={}", text.replace(' ', "+"))).expect("known");
            assert_eq!(parameters.millis("ttl"), Ok(want), "{text}");
        }
        for text in ["30", "soon", "", "0s", "10us", "%ff", "-1s"] {
            let parameters = query(&format!("ttl={text}")).expect("known");
            assert!(parameters.millis("ttl").is_err(), "{text}");
        }
        for (text, want) in [("true", Some(true)), ("false", Some(false)), ("yes", None)] {
            let parameters = query(&format!("stale={text}")).expect("known");
            assert_eq!(parameters.flag("stale").ok(), want, "{text}");
        }
        for text in ["-1", "x", "1.5", "99999999999999999999"] {
            assert!(query(&format!("limit={text}")).expect("known").number("limit").is_err());
        }
    }
}
