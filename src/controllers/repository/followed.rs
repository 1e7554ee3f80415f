//! Lists the repositories that are followed through an App's installation.
//!
//! Invariant: an id is in the list only if GitHub said to this process that there is such a repository. Tenants can write
//! a status, and an id that does not exist would make GitHub refuse the token that all share.

use super::RepositoryKind;
use super::listing::Listing;
use super::seen::own_status;
use crate::api::{ProjectRepository, Reason, default_permissions};
use crate::controllers::reference::{Access, Purpose, refer};
use crate::grant::{Known, Reach};
use crate::ids::{InstallationId, RepositoryId};
use kube::ResourceExt;
use std::collections::BTreeSet;

/// An App's installation: the name of the `GitHubApp`, the identity of its connection, and the installation's id.
#[derive(Clone, Copy)]
pub struct Followed<'a> {
    pub app: &'a str,
    pub identity: &'a str,
    pub installation: InstallationId,
}

impl RepositoryKind {
    /// The ids of the repositories that are followed through an App's installation, and granted to the namespaces that
    /// follow them. Lost repositories, according to this process's memory or to status, are left out, because GitHub
    /// would refuse a token for all if it had one of them. So are those whose objects are being deleted.
    #[must_use]
    pub fn followed_by(&self, through: Followed<'_>) -> Vec<RepositoryId> {
        let repositories = self.shared.caches.all::<ProjectRepository>();
        let listing = self.listings.last(through.identity, through.installation, self.shared.now());
        let ids: BTreeSet<_> = repositories
            .iter()
            .filter_map(|repository| self.is_followed(repository, through, listing.as_deref()))
            .collect();
        ids.into_iter().collect()
    }

    fn is_followed(
        &self,
        repository: &ProjectRepository,
        through: Followed<'_>,
        listing: Option<&Listing>,
    ) -> Option<RepositoryId> {
        if repository.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let known = self.memory.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let reference = repository.spec.installation_ref.as_ref().filter(|_| !known.is_lost())?;
        let status = own_status(repository);
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let lost = [Reason::RepositoryNotFound, Reason::RepositoryNotGranted].map(Reason::as_str);
        if conditions.iter().any(|its| its.type_ == "Ready" && lost.contains(&its.reason.as_str())) {
            return None;
        }
        let listed = || {
            let existing = repository.spec.source.existing.as_ref();
            let id = existing.and_then(|existing| existing.id).or_else(|| status?.repository_id);
            listing?.find(id, existing?.name.as_deref(), known.first_heard)
        };
        let facts = known.facts.clone().or_else(listed)?;
        let (id, name) = (facts.repository.id, Some(facts.repository.name.clone()));
        let referred = refer(&self.shared, &repository.namespace()?, &reference.name, Purpose::Use);
        let Access::Granted { installation: its, grant, .. } = referred.access else { return None };
        let reach = [Known { name, id: Some(id) }];
        (referred.app_name.as_deref() == Some(through.app)
            && its == through.installation
            && grant.allows(&Reach::Only(&reach), &default_permissions()).is_ok())
        .then_some(id)
    }

    /// The number of objects that are followed through an App's installation and whose repository this process does not
    /// know, as far as `most`.
    #[must_use]
    pub fn unknown_through(&self, app: &str, installation: InstallationId, most: usize) -> usize {
        let repositories = self.shared.caches.all::<ProjectRepository>();
        let is_unknown = |repository: &&std::sync::Arc<ProjectRepository>| {
            let known = self.memory.get(repository.metadata.uid.as_deref().unwrap_or_default());
            if repository.metadata.deletion_timestamp.is_some() || known.facts.is_some() || known.is_lost() {
                return false;
            }
            let (Some(reference), Some(namespace)) = (&repository.spec.installation_ref, repository.namespace()) else {
                return false;
            };
            let referred = refer(&self.shared, &namespace, &reference.name, Purpose::Use);
            referred.app_name.as_deref() == Some(app)
                && matches!(referred.access, Access::Granted { installation: its, .. } if its == installation)
        };
        repositories.iter().filter(is_unknown).take(most).count()
    }
}
