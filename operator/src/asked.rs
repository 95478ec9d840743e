//! What is asked of the API server: by this it is counted, and told where it is refused.

use std::fmt;

use tonic::codegen::http::{Method, Uri};

/// What is watched of every namespace; see `controller.rs`.
pub const WATCHED: [&str; 8] = [
    "kvclusters",
    "statefulsets",
    "services",
    "configmaps",
    "poddisruptionbudgets",
    "networkpolicies",
    "pods",
    "persistentvolumeclaims",
];
/// Without these it does not lead, or does not begin.
const BEFORE_ALL: [&str; 2] = ["leases", "customresourcedefinitions"];

/// What is asked, as the rules of a role name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub verb: &'static str,
    /// Plural, with the subresource behind a slash.
    pub resource: String,
    /// Empty for what belongs to none, and for all namespaces.
    pub namespace: String,
}

impl Asked {
    /// Of the type KvCluster in every namespace.
    #[must_use]
    pub fn clusters() -> Self {
        Self { verb: "watch", resource: "kvclusters".to_owned(), namespace: String::new() }
    }

    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty()).peekable();
        // `api/VERSION` or `apis/GROUP/VERSION`.
        let before = if parts.next() == Some("apis") { 2 } else { 1 };
        let mut parts: Vec<_> = parts.skip(before).collect();
        let mut namespace = "";
        if parts.len() > 2 && parts[0] == "namespaces" {
            namespace = parts[1];
            parts.drain(..2);
        }
        let mut resource = parts.first().copied().unwrap_or_default().to_owned();
        if let Some(subresource) = parts.get(2) {
            resource = format!("{resource}/{subresource}");
        }
        let is_watch =
            || uri.query().unwrap_or_default().split('&').any(|part| part == "watch=true");
        let verb = match (method.as_str(), parts.len() > 1) {
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            (_, true) => "get",
            (_, false) if is_watch() => "watch",
            (_, false) => "list",
        };
        Self { verb, resource, namespace: namespace.to_owned() }
    }

    /// Without it no cluster is looked at, or nobody leads.
    pub(crate) fn is_vital(&self) -> bool {
        let resource = self.resource.as_str();
        BEFORE_ALL.contains(&resource)
            || (matches!(self.verb, "list" | "watch") && WATCHED.contains(&resource))
    }

    /// That it is not there is no answer to the question, either.
    pub(crate) fn is_of_a_type(&self) -> bool {
        matches!(self.verb, "list" | "watch")
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.namespace.is_empty() {
            write!(f, " in namespace {}", self.namespace)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::rbac;

    #[test]
    fn what_is_watched_is_what_the_operator_may_watch() {
        let rules = rbac::namespaced();
        let may = rules.iter().filter(|rule| rule["verbs"].to_string().contains("\"watch\""));
        let may = may.flat_map(|rule| rule["resources"].as_array().into_iter().flatten());
        let may: BTreeSet<&str> = may.filter_map(Value::as_str).collect();
        assert_eq!(may, WATCHED.into());
    }
}
