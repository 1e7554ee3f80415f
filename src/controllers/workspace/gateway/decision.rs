//! Whether a pod may reach GitHub for its workspace now, and how.

use super::super::gather::{repository, workflows};
use super::super::seen::{Repository, Workflows};
use super::super::{WorkspaceKind, objects};
use crate::api::{InstallationToken, Permissions, Workspace};
use crate::controllers::access::may_not;
use crate::controllers::reference::{Access, Purpose, Referred, refer};
use crate::gateway::messages::Caller;
use crate::gateway::upstream::Right;
use crate::github::{GitHub, Token};
use crate::grant::{Grant, Known, Reach};
use crate::ids::{InstallationId, RepositoryId};
use crate::internal::Denied;
use crate::settings::SourceAddresses;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::net::IpAddr;
use std::sync::Arc;

/// What was decided for a pod.
pub struct Decision {
    pub workspace: Arc<Workspace>,
    /// The name of the `GitHubApp`.
    pub app: String,
    /// A digest of the App and its GitHub.
    pub connection: String,
    pub github: Arc<GitHub>,
    pub ca_bundle: Option<String>,
    pub installation: InstallationId,
    pub repository: RepositoryId,
    /// `owner/name` of the repository, as GitHub last said.
    pub full_name: String,
    pub grant: Grant,
    account: String,
    workflows: Workflows,
}

const NO_WORKSPACE: &str = "this pod does not belong to a workspace";

/// Decides for the pod of a request.
///
/// # Errors
/// The reason why it may not, in words for the person.
pub fn decide(kind: &WorkspaceKind, caller: &Caller) -> Result<Decision, Denied> {
    let shared = &kind.shared;
    let refused = || Denied::Refused(NO_WORKSPACE.to_owned());
    // The API server has just reviewed the pod's token, so a pod that the watch has not brought yet is brought soon.
    let unseen = || {
        Denied::Unknown("the operator does not know this pod yet, or it belongs to no workspace; try again".to_owned())
    };
    let pod = shared.caches.named::<Pod>(&caller.namespace, &caller.name).ok_or_else(unseen)?;
    let is_that_pod = pod.metadata.uid.as_deref() == Some(caller.uid.as_str());
    if !shared.guards.caller_uid(is_that_pod) {
        return Err(refused());
    }
    let (name, _) = objects::workspace_of(&pod).ok_or_else(refused)?;
    let workspace =
        shared.caches.get(&ObjectRef::<Workspace>::new(name).within(&caller.namespace)).ok_or_else(refused)?;
    if !shared.guards.owner(is_pod_of(kind, &pod, &workspace)) {
        return Err(refused());
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Err(Denied::Refused("this pod has ended".to_owned()));
    }
    let address = match shared.settings.internal.addresses {
        SourceAddresses::OfThePod => shared.guards.caller_address(comes_from(&pod, caller.address)),
        SourceAddresses::Any => Ok(()),
    };
    if let Err(refused @ Denied::Refused(_)) = address {
        return Err(refused);
    }
    match allow(kind, workspace) {
        // A person can keep the address out of the pod's status, and the grant is gone all the same.
        Err(refused @ Denied::Refused(_)) => Err(refused),
        allowed => address.and(allowed),
    }
}

/// Whether the operator made this pod for the workspace, or Kubernetes made it for a Job of the operator's.
fn is_pod_of(kind: &WorkspaceKind, pod: &Pod, workspace: &Workspace) -> bool {
    let (name, object) = (objects::name(workspace), pod.name_any());
    if object == name && objects::is_ours(pod, workspace) {
        return true;
    }
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true) && owner.kind == "Job");
    owner.is_some_and(|owner| {
        let job = kind.shared.caches.named::<Job>(&pod.namespace().unwrap_or_default(), &owner.name);
        job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid) && objects::is_ours(&*job, workspace))
    })
}

/// Whether a request comes from the pod's own address, so that the token of a pod opens nothing elsewhere.
fn comes_from(pod: &Pod, address: IpAddr) -> Result<(), Denied> {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let first = status.and_then(|status| status.pod_ip.as_deref());
    let own: Vec<IpAddr> = all.chain(first).filter_map(|ip| ip.parse().ok()).collect();
    if own.is_empty() {
        return Err(Denied::NotNow("Kubernetes does not know the pod's address yet; try again".to_owned()));
    }
    if own.contains(&address) {
        return Ok(());
    }
    Err(Denied::Refused(format!(
        "the request came from {address}, which is not the pod's address: the token of a pod is good in that pod alone. If the \
         network replaces the addresses of pods, the operator's administrator can set gateway.verifyAddresses to false"
    )))
}

fn allow(kind: &WorkspaceKind, workspace: Arc<Workspace>) -> Result<Decision, Denied> {
    let shared = &kind.shared;
    let namespace = workspace.namespace().unwrap_or_default();
    let token = shared.caches.named::<InstallationToken>(&namespace, &objects::name(&workspace));
    let (found, missing) = repository(kind, &workspace, token.as_deref());
    // The work of a workspace that is being deleted is still saved.
    let purpose = if workspace.metadata.deletion_timestamp.is_some() { Purpose::Removal } else { Purpose::Use };
    let Some(Repository { installation, id: repository }) = found else {
        return Err(without_a_repository(kind, &namespace, purpose, missing.message));
    };
    let referred = refer(shared, &namespace, &installation, purpose);
    let workflows = workflows(&referred.access);
    let (installation, account, grant) = granted(&referred)?;
    let connection = referred.connection.ok_or_else(starting)?;
    let github = connection.github.ok_or_else(|| {
        Denied::NotNow("the GitHubApp's credentials cannot be used; its conditions say why".to_owned())
    })?;
    let remembered = kind.memory.get(workspace.metadata.uid.as_deref().unwrap_or_default());
    let Some((facts, _)) = remembered.repository.filter(|(facts, _)| facts.id == repository) else {
        shared.lanes.look_now(&ObjectRef::from_obj(&*workspace));
        return Err(Denied::NotNow("the operator is asking GitHub for the repository; try again".to_owned()));
    };
    let decision = Decision {
        app: referred.app_name.unwrap_or_default(),
        connection: connection.identity,
        ca_bundle: referred.app.and_then(|app| app.spec.ca_bundle.clone()),
        full_name: facts.full_name.clone(),
        workspace,
        github,
        installation,
        repository,
        grant,
        account,
        workflows,
    };
    decision.permissions(Right::Read)?;
    Ok(decision)
}

fn starting() -> Denied {
    Denied::NotNow("the operator has not asked GitHub yet; try again".to_owned())
}

/// The installation that a reference leads to, the login of its account, and the namespace's grant.
fn granted(referred: &Referred) -> Result<(InstallationId, String, Grant), Denied> {
    match &referred.access {
        Access::NotYetKnown => Err(starting()),
        // The operator made the installation for the grant, and removes it when the grant is withdrawn.
        Access::Unavailable(standing) if referred.installation.is_none() || referred.app.is_none() => {
            Err(Denied::Refused(standing.message.clone()))
        }
        Access::Unavailable(standing) => Err(Denied::NotNow(standing.message.clone())),
        Access::Dead(standing) | Access::Denied(standing) => Err(Denied::Refused(standing.message.clone())),
        Access::Granted { installation, account, grant, .. } => Ok((*installation, account.clone(), grant.clone())),
    }
}

/// Denies while the workspace's repository is not known. It passes only in a namespace that has a grant.
fn without_a_repository(kind: &WorkspaceKind, namespace: &str, purpose: Purpose, missing: String) -> Denied {
    let shared = &kind.shared;
    let here = shared.caches.index.by_namespace.under(namespace);
    let is_refused = here.iter().all(|installation| {
        let referred = refer(shared, namespace, &installation.name, purpose);
        matches!(granted(&referred), Err(Denied::Refused(_)))
    });
    if is_refused {
        return Denied::Refused(format!("namespace {namespace} has no grant of a GitHubApp; {missing}"));
    }
    Denied::NotNow(missing)
}

impl Decision {
    /// The repository, as grants name it.
    #[must_use]
    pub fn known(&self) -> Known {
        let name = self.full_name.rsplit_once('/').map(|(_, name)| name.to_owned());
        Known { name, id: Some(self.repository) }
    }

    /// The permissions of a token for this right.
    ///
    /// # Errors
    /// The grant does not have them.
    pub fn permissions(&self, right: Right) -> Result<Permissions, Denied> {
        let level = if right == Right::Read { "read" } else { "write" };
        let mut permissions: Permissions =
            [("contents", level), ("metadata", "read")].map(|(name, level)| (name.to_owned(), level.to_owned())).into();
        if right == Right::Write && self.workflows == Workflows::Allowed {
            permissions.insert("workflows".to_owned(), "write".to_owned());
        }
        let allowed = self.grant.allows(&Reach::Only(&[self.known()]), &permissions);
        let namespace = self.workspace.namespace().unwrap_or_default();
        allowed.map_err(|refusal| Denied::Refused(may_not(&refusal, &self.app, &self.account, &namespace)))?;
        Ok(permissions)
    }

    /// Asks GitHub for the repository's name.
    ///
    /// # Errors
    /// GitHub does not give it.
    pub async fn ask_for_the_name(&self, kind: &WorkspaceKind, token: &Token) -> Result<(), Denied> {
        let now = kind.shared.now();
        let found = self.github.repository(token, self.repository).await;
        let found = found.map_err(|error| Denied::NotNow(format!("GitHub does not name the repository: {error}")))?;
        let uid = self.workspace.metadata.uid.as_deref().unwrap_or_default();
        kind.memory.update(uid, |known| known.repository = Some((Arc::new(found), now)));
        Ok(())
    }
}
