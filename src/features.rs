//! The features of an installation: which of Landfall's kinds its processes serve.
//!
//! Invariant: a kind whose feature is off is neither watched nor reconciled, so that the rights that it needs
//! ([`crate::manifests`]) need not be given.

use clap::ValueEnum;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A part of Landfall that an administrator installs or leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Feature {
    /// `GitHubApp`, `GitHubInstallation` and `InstallationToken`. Everything else needs them, so they are always there.
    Tokens,
    /// `ProjectRepository`: repositories, their forks and webhooks, and the rollouts that a push starts.
    Repositories,
    /// `Workspace`: pods that people work in.
    Workspaces,
}

impl Feature {
    /// All of them, in an order in which none needs a later one.
    pub const ALL: [Self; 3] = [Self::Tokens, Self::Repositories, Self::Workspaces];

    /// The name by which `--features` and the chart call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Repositories => "repositories",
            Self::Workspaces => "workspaces",
        }
    }

    /// The features without which this one is of no use.
    const fn needs(self) -> &'static [Self] {
        match self {
            Self::Tokens | Self::Repositories => &[],
            // A workspace is a clone of what a ProjectRepository follows.
            Self::Workspaces => &[Self::Repositories],
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The features that are on; `tokens` always is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features(BTreeSet<Feature>);

impl Features {
    /// Whether the feature is on.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }

    /// Those that are on.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        self.0.iter().copied()
    }
}

/// All of them are on.
impl Default for Features {
    fn default() -> Self {
        Self(BTreeSet::from(Feature::ALL))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(self.iter(), ","))
    }
}

/// A list of features that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeaturesError {
    /// There is no feature of this name.
    #[error("there is no feature {0:?}; the features are {known}", known = listed(Feature::ALL, ", "))]
    Unknown(String),
    /// A feature is on without another one that it needs.
    #[error("the feature {feature} needs the feature {needed}: add {needed}, or leave {feature} out")]
    Needs {
        /// The feature that is on.
        feature: Feature,
        /// The feature that is off.
        needed: Feature,
    },
}

/// A list with commas: `tokens,repositories`.
impl FromStr for Features {
    type Err = FeaturesError;

    fn from_str(text: &str) -> Result<Self, FeaturesError> {
        let mut on = BTreeSet::from([Feature::Tokens]);
        for name in text.split(',').map(str::trim) {
            let known = Feature::ALL.into_iter().find(|feature| feature.as_str() == name);
            on.insert(known.ok_or_else(|| FeaturesError::Unknown(name.to_owned()))?);
        }
        for &feature in &on {
            if let Some(&needed) = feature.needs().iter().find(|needed| !on.contains(needed)) {
                return Err(FeaturesError::Needs { feature, needed });
            }
        }
        Ok(Self(on))
    }
}

fn listed(features: impl IntoIterator<Item = Feature>, separator: &str) -> String {
    features.into_iter().map(Feature::as_str).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_always_there() {
        for (text, on) in [
            ("tokens", "tokens"),
            ("repositories", "tokens,repositories"),
            (" workspaces , repositories,repositories", "tokens,repositories,workspaces"),
        ] {
            assert_eq!(text.parse::<Features>().unwrap().to_string(), on);
        }
        assert_eq!(Features::default().to_string().parse(), Ok(Features::default()));
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        for (text, name) in [("tokens,rollout", "rollout"), ("", ""), ("Tokens", "Tokens")] {
            let error = text.parse::<Features>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("there is no feature {name:?}; the features are tokens, repositories, workspaces")
            );
        }
    }

    #[test]
    fn a_workspace_without_repositories_is_refused() {
        let error = "workspaces".parse::<Features>().unwrap_err().to_string();
        assert_eq!(
            error,
            "the feature workspaces needs the feature repositories: add repositories, or leave workspaces out"
        );
    }

    #[test]
    fn none_needs_a_later_one() {
        for (index, feature) in Feature::ALL.into_iter().enumerate() {
            assert!(feature.needs().iter().all(|needed| Feature::ALL[..index].contains(needed)), "{feature}");
        }
    }
}
