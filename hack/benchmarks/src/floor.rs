//! The floor: the smallest writes that the API server stores, by one writer that waits for each answer.
//!
//! A receiver that stores deliveries cannot have a shorter latency than one of these, nor cost the API server less for a
//! delivery that shares its write with no other.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use crate::api_server::write;
use crate::cost::{Processes, Turn};
use crate::figures::{Figures, FiguresError};
use crate::load::{Measured, Until, drive};
use crate::{BenchmarkError, reference};

const NAMESPACE: &str = "default";
const INBOX: &str = "PlainInbox";
/// The list whose entries are objects.
const OBJECTS: &str = "deliveries";
/// The list whose entries are JSON texts of such objects.
const TEXTS: &str = "texts";
/// How many entries an inbox has while it is patched.
const ENTRIES: [usize; 3] = [1, 8, 64];
/// How many `ConfigMap`s there are, and so how many are patched at once at most.
const CONFIG_MAPS: usize = 50;
/// How many patches precede the measured ones, on new connections and new objects.
const WARM: Until = Until::Calls(4 * CONFIG_MAPS as u64);

/// The figures of the floor.
pub struct Floor {
    config_map_1: Turn,
    config_map_50: Turn,
    /// By [`ENTRIES`]: a list of objects, and one of their texts.
    inbox: Vec<(usize, Turn, Turn)>,
}

impl Floor {
    /// Measures it, so long for each of its loads.
    pub async fn measure(client: &Client, processes: Processes, each: Duration) -> Result<Self, BenchmarkError> {
        let until = Until::Elapsed(each);
        let mut config_maps = config_maps(client).await?;
        patch_config_maps(client, &mut config_maps, WARM).await?;
        let config_map_1 = processes.turn(patch_config_maps(client, &mut config_maps[..1], until)).await?;
        let config_map_50 = processes.turn(patch_config_maps(client, &mut config_maps, until)).await?;
        let mut inbox = Vec::new();
        for entries in ENTRIES {
            let mut turns = Vec::new();
            for list in [OBJECTS, TEXTS] {
                let path = make_inbox(client, list, entries).await?;
                append(client, list, &path, WARM).await?;
                turns.push(processes.turn(append(client, list, &path, until)).await?);
            }
            if let Ok([objects, texts]) = <[Turn; 2]>::try_from(turns) {
                inbox.push((entries, objects, texts));
            }
        }
        Ok(Self { config_map_1, config_map_50, inbox })
    }

    /// Adds its figures.
    pub fn add_to(&self, figures: &mut Figures) -> Result<(), FiguresError> {
        add(figures, "config_map", "1", &self.config_map_1, "merge patches of one key of a ConfigMap, one at a time")?;
        add(figures, "config_map", "50", &self.config_map_50, "the same, 50 ConfigMaps at once")?;
        for (entries, objects, texts) in &self.inbox {
            let what = format!("JSON patches that append to a list of {entries} objects in a status, one at a time");
            add(figures, "append", &entries.to_string(), objects, &what)?;
            let what = format!("the same with a list of {entries} texts, as a WebhookInbox has it");
            add(figures, "append_text", &entries.to_string(), texts, &what)?;
        }
        Ok(())
    }
}

fn add(figures: &mut Figures, kind: &str, suffix: &str, turn: &Turn, what: &str) -> Result<(), FiguresError> {
    figures.add(format!("{kind}_per_s_{suffix}"), turn.measured.per_second(), format!("{what}, per second"))?;
    figures.add(format!("{kind}_p50_ms_{suffix}"), turn.measured.p50_ms(), "their median latency")?;
    figures.add(format!("{kind}_p99_ms_{suffix}"), turn.measured.p99_ms(), "what one of a hundred exceeded")?;
    figures.add(
        format!("{kind}_api_cpu_ms_{suffix}"),
        turn.api_server_ms(),
        "the API server's processor time of each",
    )?;
    figures.add(format!("{kind}_etcd_cpu_ms_{suffix}"), turn.etcd_ms(), "etcd's")
}

async fn config_maps(client: &Client) -> Result<Vec<String>, kube::Error> {
    let collection = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let mut paths = Vec::new();
    for number in 0..CONFIG_MAPS {
        let name = format!("floor-{number:02}");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"delivery": "none"},
        });
        write(client, "POST", &collection, "application/json", &object).await?;
        paths.push(format!("{collection}/{name}"));
    }
    Ok(paths)
}

/// Each patch changes the object, because a patch that changes nothing is not stored.
async fn patch_config_maps(client: &Client, paths: &mut [String], until: Until) -> Result<Measured, kube::Error> {
    let run = format!("{:?}", std::time::Instant::now());
    drive(paths, until, async |path: &mut String, number| {
        let change = json!({"data": {"delivery": format!("{number} since {run}")}});
        write(client, "PATCH", path, "application/merge-patch+json", &change).await
    })
    .await
}

/// Makes an inbox with so many entries; returns its address.
async fn make_inbox(client: &Client, list: &str, entries: usize) -> Result<String, kube::Error> {
    let (collection, name) = (reference::collection(INBOX, NAMESPACE), format!("inbox-{list}-{entries}"));
    write(client, "POST", &collection, "application/json", &reference::object(INBOX, &name, &json!({}))).await?;
    let path = format!("{collection}/{name}");
    let deliveries: Vec<_> = (0..entries as u64).map(|number| entry(list, number)).collect();
    let status = json!({"status": {list: deliveries}});
    write(client, "PATCH", &format!("{path}/status"), "application/merge-patch+json", &status).await?;
    // The API server then keeps no record of field managers, which would cost more than the rest of a small patch.
    let no_field_managers = json!({"metadata": {"managedFields": [{}]}});
    write(client, "PATCH", &path, "application/merge-patch+json", &no_field_managers).await?;
    Ok(path)
}

/// Appends an entry and takes the oldest out, so that the number of entries stays.
async fn append(client: &Client, list: &str, path: &str, until: Until) -> Result<Measured, kube::Error> {
    let path = format!("{path}/status");
    drive(&mut [()], until, async |(): &mut (), number| {
        let change = json!([
            {"op": "add", "path": format!("/status/{list}/-"), "value": entry(list, number)},
            {"op": "remove", "path": format!("/status/{list}/0")},
        ]);
        write(client, "PATCH", &path, "application/json-patch+json", &change).await
    })
    .await
}

fn entry(list: &str, number: u64) -> Value {
    let entry = json!({
        "id": format!("{number:016x}"), "app": "landfall", "namespace": "team-a", "name": "shop", "event": "push",
        "action": "", "ref": "refs/heads/main", "sha": "2".repeat(40),
        "guid": format!("{number:08x}-0000-4000-8000-000000000000"), "receiptTime": "2026-01-01T00:00:00.000000Z",
    });
    if list == TEXTS { entry.to_string().into() } else { entry }
}
