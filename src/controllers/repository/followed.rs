//! Lists the repositories that are followed through an App's installation.

use super::RepositoryKind;
use crate::api::{ProjectRepository, Reason, default_permissions};
use crate::controllers::reference::{Access, Purpose, refer};
use crate::grant::{Known, Reach};
use crate::ids::{InstallationId, RepositoryId};
use kube::ResourceExt;
use std::collections::BTreeSet;

impl RepositoryKind {
    /// The ids of the repositories that are followed through an App's installation, and granted to the namespaces that
    /// follow them. Lost repositories, according to this process's memory or to status, are left out, because GitHub
    /// would refuse a token for all if it had one of them.
    #[must_use]
    pub fn followed_by(&self, app: &str, installation: InstallationId) -> Vec<RepositoryId> {
        let repositories = self.shared.caches.all::<ProjectRepository>();
        let ids: BTreeSet<_> =
            repositories.iter().filter_map(|repository| self.is_followed(repository, app, installation)).collect();
        ids.into_iter().collect()
    }

    fn is_followed(
        &self,
        repository: &ProjectRepository,
        app: &str,
        installation: InstallationId,
    ) -> Option<RepositoryId> {
        let known = self.memory.get(repository.metadata.uid.as_deref().unwrap_or_default());
        let reference = repository.spec.installation_ref.as_ref().filter(|_| !known.is_lost())?;
        let status = repository.status.as_ref();
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        let lost = [Reason::RepositoryNotFound, Reason::RepositoryNotGranted].map(Reason::as_str);
        if conditions.iter().any(|its| its.type_ == "Ready" && lost.contains(&its.reason.as_str())) {
            return None;
        }
        let id = self.memory.known_id(repository)?;
        let shown = || status?.full_name.as_ref()?.split_once('/').map(|(_, name)| name.to_owned());
        let name = known.facts.map(|facts| facts.repository.name.clone()).or_else(shown);
        let referred = refer(&self.shared, &repository.namespace()?, &reference.name, Purpose::Use);
        let Access::Granted { installation: its, grant, .. } = referred.access else { return None };
        let reach = [Known { name, id: Some(id) }];
        (referred.app_name.as_deref() == Some(app)
            && its == installation
            && grant.allows(&Reach::Only(&reach), &default_permissions()).is_ok())
        .then_some(id)
    }
}
