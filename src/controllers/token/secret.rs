//! The Secret with a token: builds it, and reads it.
//!
//! Invariant: the Secret contains everything that a new process needs, written in the one request that publishes the
//! token. A Secret is the operator's if its controller reference has the object's uid, or if it is left over from an earlier
//! object of that name and has no other owner; no other is read or written.

use super::format::{self, Facts, FormatError};
use super::scope::Scope;
use super::seen::Published;
use crate::api::{
    EXPIRATION_TIME_ANNOTATION, FIELD_MANAGER, FINGERPRINT_ANNOTATION, InstallationToken, MANAGED_BY, MANAGED_BY_LABEL,
    MINT_TIME_ANNOTATION, REPOSITORIES_ANNOTATION, SCOPE_ANNOTATION,
};
use crate::github::Token;
use crate::ids::RepositoryId;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::ObjectMeta;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The input that a Secret is made from, apart from the token.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub token: &'a InstallationToken,
    pub ca_bundle: Option<&'a str>,
    /// `None` if the format needs none, and while the installation is unknown.
    pub facts: Option<&'a Facts>,
}

/// A token with all the content of its Secret.
#[derive(Clone, Debug)]
pub struct Content {
    pub token: Token,
    /// The scope that was requested.
    pub scope: Scope,
    /// The repositories that it reaches. Empty for all.
    pub repository_ids: Vec<RepositoryId>,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When it was minted.
    pub minted_at: Timestamp,
}

/// The wanted Secret.
pub fn build(about: About<'_>, content: &Content) -> Result<Secret, FormatError> {
    let object = about.token;
    let template = &object.spec.secret;
    let known = format::Known {
        token: content.token.expose(),
        expires_at: content.expires_at,
        ca_bundle: about.ca_bundle,
        facts: about.facts,
    };
    let formatted = format::format(object, &known)?;
    let data = formatted.data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
    let mut labels = template.labels.clone();
    labels.extend(formatted.labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let mut annotations = template.annotations.clone();
    annotations.extend(
        [
            (EXPIRATION_TIME_ANNOTATION, content.expires_at.to_string()),
            (MINT_TIME_ANNOTATION, content.minted_at.to_string()),
            (FINGERPRINT_ANNOTATION, content.token.fingerprint()),
            (SCOPE_ANNOTATION, serde_json::to_string(&content.scope).unwrap_or_default()),
            (REPOSITORIES_ANNOTATION, join(&content.repository_ids)),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(template.name.clone()),
            namespace: object.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: object.controller_owner_ref(&()).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        type_: Some(formatted.kind.to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

/// Whether the Secret was made for this object.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta, object: &InstallationToken) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == object.metadata.uid.as_ref())
}

/// Whether the Secret was made for an earlier object of the same name, and nobody owns it any more: after a restore from a
/// backup, objects have other uids, and Secrets may have no owners. A tenant can make such a Secret. That brings nothing,
/// because the owner reference of [`is_ours`] can be made too.
#[must_use]
pub fn was_ours(metadata: &ObjectMeta, object: &InstallationToken) -> bool {
    let has = |map: Option<&BTreeMap<String, String>>, key: &str| map.is_some_and(|map| map.contains_key(key));
    let is_labelled =
        metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL)).is_some_and(|by| by == MANAGED_BY);
    let is_noted = [SCOPE_ANNOTATION, FINGERPRINT_ANNOTATION].iter().all(|key| has(metadata.annotations.as_ref(), key));
    let is_earlier = |owner: &OwnerReference| {
        owner.kind == InstallationToken::kind(&()) && Some(&owner.name) == object.metadata.name.as_ref()
    };
    is_labelled && is_noted && metadata.owner_references.iter().flatten().all(is_earlier)
}

/// The token in the Secret, in any format, with the notes about it. `None` if a part is missing or unreadable.
#[must_use]
pub fn content(secret: &Secret) -> Option<Content> {
    let note = |key: &str| secret.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    Some(Content {
        token: token(secret)?,
        scope: serde_json::from_str(note(SCOPE_ANNOTATION)?).ok()?,
        repository_ids: split(note(REPOSITORIES_ANNOTATION).unwrap_or_default()),
        expires_at: note(EXPIRATION_TIME_ANNOTATION)?.parse().ok()?,
        minted_at: note(MINT_TIME_ANNOTATION)?.parse().ok()?,
    })
}

/// The token in the Secret's data.
#[must_use]
pub fn token(secret: &Secret) -> Option<Token> {
    let data = secret.data.as_ref()?;
    let key = if secret.type_.as_deref() == Some("kubernetes.io/basic-auth") { "password" } else { "token" };
    let text = std::str::from_utf8(&data.get(key)?.0).ok()?;
    // A text that cannot be sent in a header is not a token, and could not be revoked either.
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Token::new(text.to_owned()))
}

/// Reads a Secret of the operator. For a token that this process minted, the memory takes precedence over the
/// annotations, which a tenant can edit.
#[must_use]
pub fn published(secret: &Secret, about: About<'_>, minted: Option<&Content>) -> Published {
    // A Secret whose format cannot be written is not as wanted, and the plan says why it stays as it is.
    let as_wanted = |content: &Content| build(about, content).is_ok_and(|wanted| looks_like(secret, &wanted));
    let fingerprint = token(secret).map(|token| token.fingerprint());
    let going = secret.metadata.deletion_timestamp.is_some();
    if let Some(minted) = minted.filter(|minted| Some(minted.token.fingerprint()) == fingerprint) {
        return Published {
            noted_fingerprint: fingerprint.clone(),
            fingerprint,
            scope: Some(minted.scope.clone()),
            repository_ids: minted.repository_ids.clone(),
            expires_at: Some(minted.expires_at),
            minted_at: Some(minted.minted_at),
            as_wanted: as_wanted(minted),
            going,
        };
    }
    let note = |key: &str| secret.metadata.annotations.as_ref()?.get(key).cloned();
    let as_wanted =
        is_ours(&secret.metadata, about.token) && content(secret).is_some_and(|content| as_wanted(&content));
    Published {
        fingerprint,
        noted_fingerprint: note(FINGERPRINT_ANNOTATION),
        scope: note(SCOPE_ANNOTATION).and_then(|text| serde_json::from_str(&text).ok()),
        repository_ids: split(&note(REPOSITORIES_ANNOTATION).unwrap_or_default()),
        expires_at: note(EXPIRATION_TIME_ANNOTATION).and_then(|text| text.parse().ok()),
        minted_at: note(MINT_TIME_ANNOTATION).and_then(|text| text.parse().ok()),
        as_wanted,
        going,
    }
}

/// The patch that turns an existing Secret of the operator into the wanted one. It sets the wanted keys, removes those
/// that the operator wrote and that are no longer wanted, and leaves those of others. It applies only to the Secret
/// with this uid. A Secret of an earlier object gets its new owner.
#[must_use]
pub fn change(existing: &Secret, wanted: &Secret, object: &InstallationToken) -> Value {
    let mut change = json!({
        "metadata": {
            "uid": existing.metadata.uid,
            "labels": wanted.metadata.labels,
            "annotations": wanted.metadata.annotations,
        },
        "data": wanted.data,
    });
    if !is_ours(&existing.metadata, object) {
        change["metadata"]["ownerReferences"] = json!(wanted.metadata.owner_references);
    }
    let (data, labels, annotations) = left_over(existing, wanted);
    for key in data {
        change["data"][key] = Value::Null;
    }
    for key in labels {
        change["metadata"]["labels"][key] = Value::Null;
    }
    for key in annotations {
        change["metadata"]["annotations"][key] = Value::Null;
    }
    change
}

/// The keys of data, labels and annotations that the operator wrote and that are no longer wanted.
fn left_over<'a>(secret: &'a Secret, wanted: &Secret) -> (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>) {
    fn of<'a, V>(secret: &'a Secret, path: &[&str], wanted: Option<&BTreeMap<String, V>>) -> Vec<&'a str> {
        let managers = secret.metadata.managed_fields.iter().flatten();
        let ours = managers.filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
        let fields = ours.filter_map(|entry| {
            path.iter().try_fold(&entry.fields_v1.as_ref()?.0, |fields, name| fields.get(name))?.as_object()
        });
        let keys = fields.flat_map(|fields| fields.keys()).filter_map(|key| key.strip_prefix("f:"));
        keys.filter(|key| wanted.is_none_or(|wanted| !wanted.contains_key(*key))).collect()
    }
    (
        of(secret, &["f:data"], wanted.data.as_ref()),
        of(secret, &["f:metadata", "f:labels"], wanted.metadata.labels.as_ref()),
        of(secret, &["f:metadata", "f:annotations"], wanted.metadata.annotations.as_ref()),
    )
}

/// Whether all wanted keys are there, and none that the operator wrote before and are no longer wanted. Keys of others
/// stay.
fn looks_like(secret: &Secret, wanted: &Secret) -> bool {
    fn has_all<V: PartialEq>(has: Option<&BTreeMap<String, V>>, wanted: Option<&BTreeMap<String, V>>) -> bool {
        wanted.is_none_or(|wanted| wanted.iter().all(|(k, v)| has.and_then(|has| has.get(k)) == Some(v)))
    }
    let (data, labels, annotations) = left_over(secret, wanted);
    secret.type_ == wanted.type_
        && data.is_empty()
        && labels.is_empty()
        && annotations.is_empty()
        && has_all(secret.data.as_ref(), wanted.data.as_ref())
        && has_all(secret.metadata.labels.as_ref(), wanted.metadata.labels.as_ref())
        && has_all(secret.metadata.annotations.as_ref(), wanted.metadata.annotations.as_ref())
}

fn join(ids: &[RepositoryId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn split(text: &str) -> Vec<RepositoryId> {
    text.split(',').filter_map(|id| id.parse().ok()).collect()
}
