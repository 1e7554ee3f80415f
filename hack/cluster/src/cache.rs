//! The directories for everything: programs and images that outlive a checkout, and the state of running clusters.
//!
//! Everything is in one folder, so that removing it is always safe when no cluster is up. People who clean up would
//! forget a second folder.

use std::path::{Path, PathBuf};

/// The folder that contains everything.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

/// None of the variables that place the cache is set.
#[derive(Debug, thiserror::Error)]
#[error(
    "none of LANDFALL_CACHE, XDG_CACHE_HOME and HOME is set: set LANDFALL_CACHE to a folder to keep programs and images in"
)]
pub struct NoCache;

impl Cache {
    /// `LANDFALL_CACHE`, else `landfall` under `XDG_CACHE_HOME`, else under `~/.cache`.
    pub fn from_environment() -> Result<Self, NoCache> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self, NoCache> {
        variable("LANDFALL_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("landfall")))
            .or_else(|| variable("HOME").map(|path| path.join(".cache/landfall")))
            .map(Self)
            .ok_or(NoCache)
    }

    /// Programs, a folder per name and version.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// Images as OCI tars, and their layers.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// The state of running clusters, a folder for each.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Whether a path is in the state of something that was started here.
    #[must_use]
    pub fn owns(&self, path: &Path) -> bool {
        path.starts_with(self.run())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(variables: &[(&str, &str)]) -> Option<PathBuf> {
        Cache::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        })
        .ok()
        .map(|cache| cache.0)
    }

    #[test]
    fn the_most_particular_variable_wins() {
        let all = [("LANDFALL_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(cache(&all), Some("/a".into()));
        assert_eq!(cache(&all[1..]), Some("/b/landfall".into()));
        assert_eq!(cache(&all[2..]), Some("/c/.cache/landfall".into()));
        assert_eq!(cache(&[]), None);
    }

    #[test]
    fn a_path_outside_the_state_is_not_ours() {
        let cache = Cache("/a".into());
        assert!(cache.owns(Path::new("/a/run/demo/kubeconfig")));
        assert!(!cache.owns(Path::new("/a/runner/kubeconfig")));
    }
}
