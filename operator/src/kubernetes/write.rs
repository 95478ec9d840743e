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
use crate::{
    error::Error,
    names::{MANAGER, OBJECT_HASH},
};

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
    if object["metadata"]["uid"].is_null() {
        // What came in between is somebody else's, and is not written.
        object["metadata"]["resourceVersion"] = json!(NEVER);
        let params = PatchParams::apply(MANAGER);
        return stored(what, api.patch(name(&object), &params, &Patch::Apply(&object)).await);
    }
    let live = there(api, what, &object).await?;
    apply_beside(api, what, object, &live).await
}

/// Puts an object in the place of the very one whose uid and version it bears, with what others have there.
///
/// An apply follows, which takes away what we sent once and do not send any more. Until then the object bears
/// the hash of what was sent before, so that what is left undone here is found to be so.
pub(super) async fn replace(
    api: &Api<DynamicObject>,
    what: &str,
    object: &Value,
) -> Result<Value, Error> {
    let live = there(api, what, object).await?;
    let whole: DynamicObject = serde_json::from_value(replacement(object, &live))
        .map_err(|error| Error::Failed(error.to_string()))?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: false };
    let live = stored(what, api.replace(name(object), &params, &whole).await)?;
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    apply_beside(api, what, object, &live).await
}

async fn apply_beside(
    api: &Api<DynamicObject>,
    what: &str,
    mut object: Value,
    live: &Value,
) -> Result<Value, Error> {
    own_by_apply(api, what, &mut object, live).await?;
    keep_families(&mut object["spec"], &live["spec"]);
    let params = PatchParams::apply(MANAGER).force();
    stored(what, api.patch(name(&object), &params, &Patch::Apply(&object)).await)
}

/// The object whose uid and version `object` bears.
async fn there(api: &Api<DynamicObject>, what: &str, object: &Value) -> Result<Value, Error> {
    let live = match api.get_opt(name(object)).await {
        Ok(Some(live)) => stored(what, Ok(live))?,
        Ok(None) => return Err(Error::Moved(what.to_owned())),
        Err(error) => return Err(failed(what, error)),
    };
    let same = |field: &str| object["metadata"][field] == live["metadata"][field];
    let is_it = same("uid") && same("resourceVersion");
    if is_it { Ok(live) } else { Err(Error::Moved(what.to_owned())) }
}

/// Before an apply. The version that `object` bears is then the one that is there.
async fn own_by_apply(
    api: &Api<DynamicObject>,
    what: &str,
    object: &mut Value,
    live: &Value,
) -> Result<(), Error> {
    let entries: Vec<ManagedFieldsEntry> =
        serde_json::from_value(live["metadata"]["managedFields"].clone()).unwrap_or_default();
    let Some(fields) = owned_by_apply(&entries) else { return Ok(()) };
    let patch = json!({"metadata": {
        "uid": live["metadata"]["uid"],
        "resourceVersion": live["metadata"]["resourceVersion"],
        "managedFields": fields,
    }});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patched = api.patch_metadata(name(object), &params, &Patch::Merge(&patch)).await;
    let patched = patched.map_err(|error| failed(what, error))?;
    object["metadata"]["resourceVersion"] = json!(patched.metadata.resource_version);
    Ok(())
}

/// `object` as it takes the place of `live`: what others put beside ours goes with our lists and our spec; what
/// they have in the metadata, fields of which we say nothing and what a Service was given stay.
fn replacement(object: &Value, live: &Value) -> Value {
    let mut whole = live.clone();
    for (field, ours) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            "metadata" => {}
            "spec" if object["kind"] == "Service" => lay_over_service(&mut whole[field], ours),
            _ => whole[field] = ours.clone(),
        }
    }
    let ours = &object["metadata"];
    let metadata = &mut whole["metadata"];
    for field in ["uid", "resourceVersion"] {
        metadata[field] = ours[field].clone();
    }
    for field in ["labels", "annotations"] {
        for (key, value) in ours[field].as_object().into_iter().flatten() {
            metadata[field][key] = value.clone();
        }
    }
    let hash = &live["metadata"]["annotations"][OBJECT_HASH];
    if hash.is_string() {
        metadata["annotations"][OBJECT_HASH] = hash.clone();
    }
    for (field, key) in [("finalizers", None), ("ownerReferences", Some("uid"))] {
        let same =
            |one: &Value, other: &Value| key.map_or(one == other, |key| one[key] == other[key]);
        let mut items: Vec<Value> = ours[field].as_array().cloned().unwrap_or_default();
        let theirs = live["metadata"][field].as_array().into_iter().flatten();
        let more: Vec<Value> =
            theirs.filter(|item| !items.iter().any(|known| same(known, item))).cloned().collect();
        items.extend(more);
        if !items.is_empty() {
            metadata[field] = Value::Array(items);
        }
    }
    if let Some(metadata) = metadata.as_object_mut() {
        // Left out, they stay as they are.
        metadata.remove("managedFields");
    }
    whole
}

/// What a Service was given stays: addresses, families and ports of its own, the class of its load balancer.
fn lay_over_service(live: &mut Value, ours: &Value) {
    let before = live.clone();
    for (field, value) in ours.as_object().into_iter().flatten() {
        live[field] = value.clone();
    }
    keep_families(live, &before);
    let given = before["ports"].as_array().into_iter().flatten();
    let given: Vec<&Value> = given.filter(|port| port["nodePort"].is_number()).collect();
    for port in live["ports"].as_array_mut().into_iter().flatten() {
        if let Some(known) = given.iter().find(|known| known["name"] == port["name"])
            && port["nodePort"].is_null()
        {
            port["nodePort"] = known["nodePort"].clone();
        }
    }
}

/// Of a Service. To the family that it was asked to have first the API server adds another one where its policy
/// is so, and lets nobody take that away by sending the first alone, but with the policy SingleStack.
fn keep_families(spec: &mut Value, live: &Value) {
    let (ours, there) = (&spec["ipFamilies"], &live["ipFamilies"]);
    let (Some(asked), Some(all)) = (ours.as_array(), there.as_array()) else { return };
    if all.starts_with(asked) && spec["ipFamilyPolicy"] != "SingleStack" {
        spec["ipFamilies"] = there.clone();
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
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

pub(super) fn stored<T: serde::Serialize + Debug>(
    what: &str,
    result: kube::Result<T>,
) -> Result<Value, Error> {
    let object = result.map_err(|error| failed(what, error))?;
    serde_json::to_value(object).map_err(|error| Error::Failed(error.to_string()))
}

#[cfg(test)]
mod tests;
