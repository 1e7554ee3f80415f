//! GitHub's example payloads, from a public collection.

use aws_lc_rs::digest;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The events that the receiver stores.
pub const STORED: [&str; 6] =
    ["installation", "installation_repositories", "installation_target", "meta", "push", "repository"];

/// All payloads with their events, as `hack/github-sim/conformance/fetch` fetched them.
pub fn examples() -> Vec<Value> {
    let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hack/github-sim/conformance/package-lock.json");
    let digest = hex::encode(digest::digest(&digest::SHA256, &std::fs::read(pins).unwrap()).as_ref());
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("LANDFALL_CACHE").or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("landfall")));
    let cache = cache.unwrap_or_else(|| folder("HOME").unwrap().join(".cache/landfall"));
    let package = cache.join(format!("npm/github-sim-{}/node_modules/@octokit/webhooks-examples", &digest[..16]));
    let index = std::fs::read(package.join("api.github.com/index.json"));
    let index = index.unwrap_or_else(|_| panic!("no {}: run hack/github-sim/conformance/fetch", package.display()));
    serde_json::from_slice(&index).unwrap()
}
