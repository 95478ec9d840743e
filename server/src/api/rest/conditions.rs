//! Conditional requests (RFC 9110, 13): the entity tag of a key is its revision.
//!
//! A read is judged by the value that it found. A write is one command that compares and writes, so that
//! nobody comes in between. A condition that cannot be made such a command is refused, never passed over.

use bytes::Bytes;
use flotilla_proto::v1::{self, compare::Condition, op::Op};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use super::Failure;
use crate::{
    api::{context, kv::KvApi, refused::Entries},
    error::Error,
    router::Requests,
};

/// The entity tag of a revision.
pub(super) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("quoted digits")
}

/// What a request says about the present state of a key.
#[derive(Debug)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The value of one of the two fields.
#[derive(Debug, PartialEq)]
enum Tags {
    /// `*`
    Any,
    Listed(Vec<Tag>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Tag {
    weak: bool,
    /// `None` for a tag that no key ever has.
    revision: Option<u64>,
}

/// What a read is answered with.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Send,
    NotModified,
    Failed,
}

/// What has to hold for a write.
#[derive(Debug, PartialEq)]
enum Required {
    Nothing,
    Holds(Condition),
    /// The condition must not hold.
    Fails(Condition),
    Impossible,
}

impl Conditions {
    /// # Errors
    /// Fields that are not written as they must be.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            if_match: Tags::of(headers, &header::IF_MATCH)?,
            if_none_match: Tags::of(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// For a key that is present, with `revision`.
    pub(super) fn verdict(&self, revision: u64) -> Verdict {
        let names = |tags: &Tags, strong: bool| match tags {
            Tags::Any => true,
            Tags::Listed(tags) => {
                tags.iter().any(|tag| tag.revision == Some(revision) && !(strong && tag.weak))
            }
        };
        if self.if_match.as_ref().is_some_and(|tags| !names(tags, true)) {
            Verdict::Failed
        } else if self.if_none_match.as_ref().is_some_and(|tags| names(tags, false)) {
            Verdict::NotModified
        } else {
            Verdict::Send
        }
    }

    fn required(&self) -> Result<Required, Error> {
        Ok(match (&self.if_match, &self.if_none_match) {
            (None, None) => Required::Nothing,
            (Some(_), Some(_)) => {
                return Err(Error::invalid("If-Match", "excludes If-None-Match on a write"));
            }
            (Some(Tags::Any), None) => Required::Holds(Condition::Present(true)),
            (Some(Tags::Listed(tags)), None) => {
                match one(&header::IF_MATCH, tags.iter().filter(|tag| !tag.weak))? {
                    Some(revision) => Required::Holds(Condition::RevisionEquals(revision)),
                    None => Required::Impossible,
                }
            }
            (None, Some(Tags::Any)) => Required::Holds(Condition::Absent(true)),
            (None, Some(Tags::Listed(tags))) => match one(&header::IF_NONE_MATCH, tags.iter())? {
                Some(revision) => Required::Fails(Condition::RevisionEquals(revision)),
                None => Required::Nothing,
            },
        })
    }
}

/// The only revision among `tags`, if there is any: one comparison is what a command has for a key.
fn one<'a>(field: &HeaderName, tags: impl Iterator<Item = &'a Tag>) -> Result<Option<u64>, Error> {
    let mut revisions: Vec<u64> = tags.filter_map(|tag| tag.revision).collect();
    revisions.dedup();
    match revisions[..] {
        [] => Ok(None),
        [revision] => Ok(Some(revision)),
        _ => Err(Error::InvalidArgument {
            field: field.to_string(),
            message: "names several entity tags, at most one is allowed on a write".into(),
            limit: 1,
        }),
    }
}

impl Tags {
    fn of(headers: &HeaderMap, field: &HeaderName) -> Result<Option<Self>, Error> {
        let malformed =
            || Error::invalid(field.to_string(), "must be * or entity tags, as in \"7\"");
        let mut lines = headers.get_all(field).iter().peekable();
        if lines.peek().is_none() {
            return Ok(None);
        }
        let mut tags = Vec::new();
        let mut any = false;
        for line in lines {
            let mut rest = line.as_bytes().trim_ascii();
            any |= rest == b"*";
            while !rest.is_empty() && rest != b"*" {
                if let Some(after) = rest.strip_prefix(b",") {
                    rest = after.trim_ascii_start();
                    continue;
                }
                let (tag, after) = Tag::parse(rest).ok_or_else(malformed)?;
                tags.push(tag);
                rest = after.trim_ascii_start();
                if !rest.is_empty() && !rest.starts_with(b",") {
                    return Err(malformed());
                }
            }
        }
        match (any, tags.is_empty()) {
            (true, true) => Ok(Some(Self::Any)),
            (false, false) => Ok(Some(Self::Listed(tags))),
            _ => Err(malformed()),
        }
    }
}

impl Tag {
    /// The entity tag at the beginning of `text`, and what follows it.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let opened = quoted.strip_prefix(b"\"")?;
        let end = opened.iter().position(|byte| *byte == b'"')?;
        let (opaque, after) = (&opened[..end], &opened[end + 1..]);
        if opaque.iter().any(|byte| matches!(byte, 0..=0x20 | 0x7f)) {
            return None;
        }
        // In one way only, as `etag` writes it.
        let revision = std::str::from_utf8(opaque)
            .ok()
            .and_then(|digits| digits.parse::<u64>().ok().filter(|n| n.to_string() == digits));
        Some((Self { weak, revision }, after))
    }
}

/// The answer to a request whose condition does not hold.
pub(super) fn failed() -> Failure {
    let message = "the key is not as If-Match or If-None-Match says".into();
    Failure::with_status(StatusCode::PRECONDITION_FAILED, Error::FailedPrecondition { message })
}

/// What a conditional write does.
pub(super) enum Change {
    Put { value: Bytes, ttl_ms: u64 },
    Delete,
}

impl<R: Requests> KvApi<R> {
    /// Writes a key of the default keyspace if the conditions hold; answers the revision. A delete that
    /// has nothing to do succeeds.
    pub(super) async fn change_if(
        &self,
        conditions: &Conditions,
        deadline: Instant,
        key: Bytes,
        change: Change,
    ) -> Result<u64, Failure> {
        let (condition, wanted) = match conditions.required()? {
            Required::Nothing => return Ok(self.change(deadline, key, change).await?),
            Required::Impossible => return Err(failed()),
            Required::Holds(condition) => (condition, true),
            Required::Fails(condition) => (condition, false),
        };
        self.limits.check_key("key", &key)?;
        let (keyspace, cx) = context::open(None, deadline)?;
        let key = keyspace.encode(&key);
        let compare = vec![v1::Compare { key: key.clone(), condition: Some(condition) }];
        let op = match change {
            Change::Put { value, ttl_ms } => {
                self.limits.check_value("value", &value)?;
                Op::Put(v1::PutOp { key, value, ttl_ms, ..v1::PutOp::default() })
            }
            Change::Delete => Op::Delete(v1::DeleteOp { key, return_previous: false }),
        };
        let (op, nothing) = (vec![v1::Op { op: Some(op) }], vec![]);
        let (success, failure) = if wanted { (op, nothing) } else { (nothing, op) };
        let command = v1::WriteCommand { compare, success, failure, ..v1::WriteCommand::default() };
        let reply = self.apply(cx, command, Entries::One).await?;
        if reply.succeeded == wanted { Ok(reply.revision) } else { Err(failed()) }
    }

    async fn change(&self, deadline: Instant, key: Bytes, change: Change) -> Result<u64, Error> {
        Ok(match change {
            Change::Put { value, ttl_ms } => {
                let put = v1::PutRequest { key, value, ttl_ms, ..v1::PutRequest::default() };
                self.put(deadline, put).await?.revision
            }
            Change::Delete => {
                let delete = v1::DeleteRequest { key, ..v1::DeleteRequest::default() };
                self.delete(deadline, delete).await?.revision
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(fields: &[(HeaderName, &'static str)]) -> Result<Conditions, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        Conditions::of(&headers)
    }

    #[test]
    fn reads_are_judged_by_the_revision() {
        use header::{IF_MATCH, IF_NONE_MATCH};
        for (why, fields, want) in [
            ("none", &[][..], Verdict::Send),
            ("the same", &[(IF_MATCH, "\"7\"")], Verdict::Send),
            ("one of them", &[(IF_MATCH, "\"6\", \"7\"")], Verdict::Send),
            ("of two lines", &[(IF_MATCH, "\"6\""), (IF_MATCH, "\"7\"")], Verdict::Send),
            ("any", &[(IF_MATCH, "*")], Verdict::Send),
            ("another", &[(IF_MATCH, "\"6\"")], Verdict::Failed),
            ("weak is never the same", &[(IF_MATCH, "W/\"7\"")], Verdict::Failed),
            ("no revision", &[(IF_MATCH, "\"x,y\", \"07\", \"\"")], Verdict::Failed),
            ("known already", &[(IF_NONE_MATCH, "\"7\"")], Verdict::NotModified),
            ("weak is enough", &[(IF_NONE_MATCH, "W/\"7\" ,, \"8\"")], Verdict::NotModified),
            ("any is known", &[(IF_NONE_MATCH, "*")], Verdict::NotModified),
            ("has changed", &[(IF_NONE_MATCH, "\"6\"")], Verdict::Send),
            ("both", &[(IF_MATCH, "\"7\""), (IF_NONE_MATCH, "\"7\"")], Verdict::NotModified),
            ("If-Match first", &[(IF_MATCH, "\"6\""), (IF_NONE_MATCH, "\"7\"")], Verdict::Failed),
        ] {
            assert_eq!(conditions(fields).expect(why).verdict(7), want, "{why}");
        }
    }

    #[test]
    fn writes_have_one_comparison_or_are_refused() {
        use Required::{Fails, Holds, Impossible, Nothing};
        use header::{IF_MATCH, IF_NONE_MATCH};
        let seven = Condition::RevisionEquals(7);
        for (why, fields, want) in [
            ("none", &[][..], Some(Nothing)),
            ("must be there", &[(IF_MATCH, "*")], Some(Holds(Condition::Present(true)))),
            ("must be 7", &[(IF_MATCH, "\"7\", \"x\"")], Some(Holds(seven.clone()))),
            ("twice", &[(IF_MATCH, "\"7\", \"7\"")], Some(Holds(seven.clone()))),
            ("never", &[(IF_MATCH, "W/\"7\"")], Some(Impossible)),
            ("must be new", &[(IF_NONE_MATCH, "*")], Some(Holds(Condition::Absent(true)))),
            ("must not be 7", &[(IF_NONE_MATCH, "W/\"7\"")], Some(Fails(seven))),
            ("always", &[(IF_NONE_MATCH, "\"x\"")], Some(Nothing)),
            ("several", &[(IF_MATCH, "\"7\", \"8\"")], None),
            ("both", &[(IF_MATCH, "\"7\""), (IF_NONE_MATCH, "*")], None),
        ] {
            assert_eq!(conditions(fields).expect(why).required().ok(), want, "{why}");
        }
    }

    #[test]
    fn what_is_no_entity_tag_is_refused() {
        for text in ["", "7", "\"7", "w/\"7\"", "\"7\" \"8\"", "*, \"7\"", "\"a b\"", "\"7\"x", ","]
        {
            assert!(conditions(&[(header::IF_MATCH, text)]).is_err(), "{text:?}");
        }
    }
}
