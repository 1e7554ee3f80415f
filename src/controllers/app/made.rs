//! Creates and removes the `GitHubInstallation`s that the grants need.

use super::desired::Desired;
use crate::api::{
    APP_LABEL, AppReference, FIELD_MANAGER, GitHubApp, GitHubInstallation, GitHubInstallationSpec, MANAGED_BY,
    MANAGED_BY_LABEL,
};
use crate::controllers::shared::Shared;
use crate::runtime::events::is_terminating;
use crate::runtime::lenient::Lenient;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};

/// Creates the missing installations and removes the superfluous ones. Returns the failures, each with its namespace,
/// so that a namespace that refuses does not delay the others. A namespace that has begun to terminate is not a
/// failure.
pub async fn adjust(shared: &Shared, app: &GitHubApp, desired: &Desired) -> Vec<String> {
    let mut failures = Vec::new();
    for (namespace, name, account) in &desired.make {
        let mut installation = GitHubInstallation::new(
            name,
            GitHubInstallationSpec {
                app_ref: AppReference { name: app.name_any() },
                account: account.clone(),
                paused: false,
            },
        );
        installation.metadata.labels =
            Some([(APP_LABEL.to_owned(), app.name_any()), (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())].into());
        installation.metadata.owner_references = app.controller_owner_ref(&()).map(|owner| vec![owner]);
        let api = Api::<Lenient<GitHubInstallation>>::namespaced(shared.client.clone(), namespace);
        match api.patch(name, &PatchParams::apply(FIELD_MANAGER), &Patch::Apply(&installation)).await {
            Err(kube::Error::Api(status)) if status.code == 404 || is_terminating(&status) => {
                tracing::info!(namespace, "the namespace is going, so no GitHubInstallation is made in it");
            }
            Err(error) => failures.push(format!("{namespace}/{name}: {error}")),
            Ok(_) => {}
        }
    }
    for installation in &desired.remove {
        if let Err(error) = delete(shared, installation).await {
            let namespace = installation.namespace().unwrap_or_default();
            failures.push(format!("{namespace}/{}: {error}", installation.name_any()));
        }
    }
    failures
}

/// Deletes the object with this uid. It is a success if the object is already deleted.
///
/// # Errors
/// Kubernetes refused the deletion.
pub async fn delete(shared: &Shared, installation: &GitHubInstallation) -> Result<(), kube::Error> {
    let namespace = installation.namespace().unwrap_or_default();
    let api = Api::<Lenient<GitHubInstallation>>::namespaced(shared.client.clone(), &namespace);
    let preconditions = Preconditions { uid: installation.uid(), resource_version: None };
    let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&installation.name_any(), &delete).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
