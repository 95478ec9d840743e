//! How an object is written: by server-side apply, and where that cannot do it as a whole.
//!
//! The API server notes for each field who put it there, and by what. An apply takes a field away that it
//! no longer sends only when nobody else put it there, and whoever wrote it by a PUT under the same name is
//! somebody else. So what we wrote otherwise is made ours by apply before the next apply, as `kubectl` does
//! with what it wrote before it knew server-side apply.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};

use super::failed;
use crate::{names::MANAGER, world::Error};

/// The version that no object has: the store counts from it. Where nothing is, an apply with a version makes the
/// object all the same; where something is, its version is another one, and nothing is changed.
const NEVER: &str = "1";
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// Makes an object, if there is none of its name; or applies it to the very object whose uid and version it
/// bears. Answers what is stored then.
pub(super) async fn apply(
    api: &Api<DynamicObject>,
    what: &str,
    object: &Value,
) -> Result<Value, Error> {
    let mut object = object.clone();
    let mut params = PatchParams::apply(MANAGER);
    if object["metadata"]["uid"].is_null() {
        // What came in between is somebody else's, and is not written.
        object["metadata"]["resourceVersion"] = json!(NEVER);
    } else {
        own_by_apply(api, what, &mut object).await?;
        params = params.force();
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    stored(what, api.patch(name, &params, &Patch::Apply(&object)).await)
}

/// Puts an object in the place of the one whose uid and version it bears.
pub(super) async fn replace(
    api: &Api<DynamicObject>,
    what: &str,
    object: &Value,
) -> Result<Value, Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let object: DynamicObject =
        serde_json::from_value(object.clone()).map_err(|error| Error::Failed(error.to_string()))?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
    stored(what, api.replace(name, &params, &object).await)
}

/// Before an apply. The version that `object` bears is then the one that is there.
async fn own_by_apply(
    api: &Api<DynamicObject>,
    what: &str,
    object: &mut Value,
) -> Result<(), Error> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let there = match api.get_metadata_opt(name).await {
        Ok(Some(there)) => there.metadata,
        Ok(None) => return Err(Error::Moved(what.to_owned())),
        Err(error) => return Err(failed(what, error)),
    };
    let same = |asked: &Value, there: &Option<String>| asked.as_str() == there.as_deref();
    if !same(&metadata["uid"], &there.uid)
        || !same(&metadata["resourceVersion"], &there.resource_version)
    {
        return Err(Error::Moved(what.to_owned()));
    }
    let Some(fields) = owned_by_apply(there.managed_fields.as_deref().unwrap_or_default()) else {
        return Ok(());
    };
    let patch = json!({"metadata": {
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
        "managedFields": fields,
    }});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch_metadata(name, &params, &Patch::Merge(&patch)).await;
    let patched = patched.map_err(|error| failed(what, error))?;
    object["metadata"]["resourceVersion"] = json!(patched.metadata.resource_version);
    Ok(())
}

/// Who owns what, when all that is ours is so by apply; `None` when it is so already.
fn owned_by_apply(entries: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let by = |operation: &'static str| {
        move |entry: &ManagedFieldsEntry| {
            entry.manager.as_deref() == Some(MANAGER)
                && entry.operation.as_deref() == Some(operation)
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        }
    };
    let (written, mut kept): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(by(UPDATE));
    for entry in written.iter().cloned() {
        if let Some(applied) = kept.iter_mut().find(|entry| by(APPLY)(entry)) {
            applied.fields_v1 = match (applied.fields_v1.take(), entry.fields_v1) {
                (Some(FieldsV1(mut all)), Some(FieldsV1(more))) => {
                    add_fields(&mut all, more);
                    Some(FieldsV1(all))
                }
                (one, other) => one.or(other),
            };
        } else {
            kept.push(ManagedFieldsEntry { operation: Some(APPLY.to_owned()), ..entry });
        }
    }
    (!written.is_empty()).then_some(kept)
}

/// Both sets of fields in one. A field with nothing below it is owned itself; one with others below it is so
/// only where that is said by a field named ".".
fn add_fields(all: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    if !all.is_object() {
        *all = Value::Object(Map::new());
    }
    let Value::Object(all) = all else { return };
    if all.is_empty() != more.is_empty() {
        all.insert(".".to_owned(), json!({}));
    }
    for (field, below) in more {
        match all.get_mut(&field) {
            Some(known) => add_fields(known, below),
            None => {
                all.insert(field, below);
            }
        }
    }
}

fn stored<T: serde::Serialize + Debug>(
    what: &str,
    result: kube::Result<T>,
) -> Result<Value, Error> {
    let object = result.map_err(|error| failed(what, error))?;
    serde_json::to_value(object).map_err(|error| Error::Failed(error.to_string()))
}

#[cfg(test)]
mod tests;
