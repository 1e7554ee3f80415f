//! The objects that tests apply, as a person would write them.

use super::World;
use serde_json::{Value, json};

/// A `GitHubApp` for the simulated GitHub, with these tenants.
pub fn app(world: &World, tenants: &Value) -> Value {
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "GitHubApp", "metadata": {"name": "landfall"},
        "spec": {
            "apiURL": world.sim.api_url(), "caBundle": world.sim.ca_pem(), "appID": 4242,
            "credentialsSecretRef": {"name": "github-app"}, "tenants": tenants,
        },
    })
}

/// Team-a may write shop and read the libraries of acme.
pub fn tenants() -> Value {
    json!([{
        "name": "acme", "account": "acme", "repositories": ["shop", "lib-*"],
        "maxPermissions": {"contents": "write", "metadata": "read", "pull_requests": "write"},
        "namespaces": {"names": ["team-a"]},
    }])
}

/// An `InstallationToken` in team-a.
pub fn token(name: &str, spec: &Value) -> Value {
    let mut whole = json!({
        "installationRef": {"name": "acme"}, "repositories": [{"name": "shop"}],
        "permissions": {"contents": "write"}, "secret": {"name": format!("{name}-git")},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        if value.is_null() {
            whole.as_object_mut().map(|whole| whole.remove(key));
        } else {
            whole[key] = value.clone();
        }
    }
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "InstallationToken",
        "metadata": {"name": name, "namespace": "team-a"}, "spec": whole,
    })
}

/// A `ProjectRepository` in team-a.
pub fn repository(name: &str, spec: &Value) -> Value {
    let mut whole = json!({"installationRef": {"name": "acme"}, "source": {"existing": {"name": name}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        if value.is_null() {
            whole.as_object_mut().map(|whole| whole.remove(key));
        } else {
            whole[key] = value.clone();
        }
    }
    json!({
        "apiVersion": "landfall.dev/v1alpha1", "kind": "ProjectRepository",
        "metadata": {"name": name, "namespace": "team-a"}, "spec": whole,
    })
}
