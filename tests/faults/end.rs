//! The end state of a run: all lasting state, with masks for varying values.
//!
//! Times, uids, versions, fingerprints and the simulator's address are masked. The validity and scope of a Secret's
//! token are not; the simulator knows them.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::api::{Api, ListParams};
use landfall::api::{GitHubApp, GitHubInstallation, InstallationToken, ProjectRepository};
use landfall_world::World;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// The fields that differ from run to run and from moment to moment.
const VARYING: [&str; 14] = [
    "uid",
    "nodeID",
    "observationTime",
    "receiptTime",
    "startTime",
    "completionTime",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "lastTransitionTime",
    "expirationTime",
    "mintTime",
    "fingerprint",
    "caBundle",
];

/// The end state, before masking.
pub async fn state(world: &World) -> Value {
    let mut secrets = Vec::new();
    for namespace in ["landfall-system", "team-a"] {
        let api = Api::<Secret>::namespaced(world.admin.clone(), namespace);
        let found = api.list(&ListParams::default()).await.expect("Secrets");
        secrets.extend(found.iter().map(|secret| show(world, secret)));
    }
    json!({
        "apps": all::<GitHubApp>(world).await,
        "installations": all::<GitHubInstallation>(world).await,
        "tokens": all::<InstallationToken>(world).await,
        "repositories": all::<ProjectRepository>(world).await,
        "secrets": secrets,
    })
}

async fn all<K>(world: &World) -> Vec<Value>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let found = Api::<K>::all(world.admin.clone()).list(&ListParams::default()).await.expect("objects");
    found.iter().map(|object| serde_json::to_value(object).expect("json")).collect()
}

/// A Secret without its values, and with GitHub's information about its token.
fn show(world: &World, secret: &Secret) -> Value {
    let metadata = &secret.metadata;
    let print = fingerprint(secret);
    let live = world.sim.live_tokens();
    let token = print.as_ref().map(|print| match live.iter().find(|token| token.sha256.starts_with(print)) {
        Some(token) => json!({
            "permissions": token.permissions, "repositories": token.repository_ids,
            "installation": token.installation_id,
        }),
        None => json!("dead"),
    });
    let noted = metadata.annotations.iter().flatten().find(|(key, _)| key.ends_with("/fingerprint"));
    json!({
        "name": metadata.name, "namespace": metadata.namespace, "type": secret.type_, "labels": metadata.labels,
        "annotations": metadata.annotations.as_ref().map(|all| all.keys().collect::<Vec<_>>()),
        "owners": metadata.owner_references, "finalizers": metadata.finalizers,
        "keys": secret.data.as_ref().map(BTreeMap::keys).map(Iterator::collect::<Vec<_>>),
        "is noted": noted.map(|(_, value)| Some(value) == print.as_ref()), "token": token,
    })
}

/// The fingerprint of the token in a Secret: as in status, the first 16 hexadecimal digits of its SHA-256.
pub fn fingerprint(secret: &Secret) -> Option<String> {
    let token = secret.data.as_ref()?.get("password")?;
    Some(hex::encode(&digest(&SHA256, &token.0).as_ref()[..8]))
}

/// Masks a value. Known varying values get names.
pub fn mask(value: &mut Value, address: &str, names: &[(String, &str)]) {
    // The longest come first, because the digits of an id may be among those of a commit.
    let mut names = names.to_vec();
    names.sort_by_key(|(varying, _)| Reverse(varying.len()));
    mask_by(value, address, &names);
}

fn mask_by(value: &mut Value, address: &str, names: &[(String, &str)]) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if VARYING.contains(&key.as_str()) && !value.is_null() {
                    *value = json!("…");
                } else {
                    mask_by(value, address, names);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask_by(value, address, names)),
        Value::String(text) => {
            *text = text.replace(address, "https://github");
            for (varying, name) in names {
                *text = text.replace(varying, name);
            }
        }
        Value::Number(number) => {
            let number = number.to_string();
            if let Some((_, name)) = names.iter().find(|(varying, _)| *varying == number) {
                *value = json!(name);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[test]
fn an_id_within_a_commit_is_no_id() {
    let names = [("910203".to_owned(), "the hook"), ("a0b910203c".to_owned(), "the commit")];
    let mut value = json!({"id": 910_203, "head": "a0b910203c", "message": "hook 910203 is told of a0b910203c"});
    mask(&mut value, "https://127.0.0.1:1", &names);
    assert_eq!(
        value,
        json!({"id": "the hook", "head": "the commit", "message": "hook the hook is told of the commit"})
    );
}

/// The differences between two end states, value by value.
pub fn difference(wanted: &Value, found: &Value) -> String {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    leaves(wanted, "", &mut before);
    leaves(found, "", &mut after);
    let missing =
        before.iter().filter(|(at, value)| after.get(*at) != Some(*value)).map(|(at, it)| format!("- {at}: {it}"));
    let added =
        after.iter().filter(|(at, value)| before.get(*at) != Some(*value)).map(|(at, it)| format!("+ {at}: {it}"));
    missing.chain(added).take(40).collect::<Vec<_>>().join("\n")
}

/// The values without inner values, by their paths.
fn leaves<'a>(value: &'a Value, at: &str, found: &mut BTreeMap<String, &'a Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{key}"), found));
        }
        Value::Array(values) if !values.is_empty() => {
            values.iter().enumerate().for_each(|(index, value)| leaves(value, &format!("{at}/{index}"), found));
        }
        _ => drop(found.insert(at.to_owned(), value)),
    }
}
