//! Where `conformance/fetch` puts what it fetches.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

/// A file of `conformance/`.
pub fn ours(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(name)
}

/// The folder of what was fetched by a file of pins; `kind` is `npm` or `python`.
pub fn fetched(kind: &str, pins: &str) -> PathBuf {
    let pins = std::fs::read(ours(pins)).unwrap();
    let digest = hex::encode(digest::digest(&digest::SHA256, &pins).as_ref());
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("LANDFALL_CACHE").or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("landfall")));
    let cache = cache.unwrap_or_else(|| folder("HOME").unwrap().join(".cache/landfall"));
    let folder = cache.join(kind).join(format!("github-sim-{}", &digest[..16]));
    assert!(folder.is_dir(), "{} is missing: run hack/github-sim/conformance/fetch", folder.display());
    folder
}
