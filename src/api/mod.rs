//! The kinds of the API group `landfall.dev/v1alpha1`: what users write and read.
//!
//! Owns every type that is serialised into a custom resource, and the names shared with the outside (labels,
//! annotations, finalizers). Invariant: nothing here does IO or decides anything; a spec that the API server accepted
//! deserialises. If that broke, one odd object would stop the watch of its whole kind.

#![warn(missing_docs)] // `kubectl explain` shows these docs

mod app;
mod delivery;
mod inbox;
mod installation;
mod permissions;
mod push;
mod reason;
mod repository;
mod schema;
mod token;
mod workspace;

pub use app::{
    AppWebhook, CredentialsSecretReference, GitHubApp, GitHubAppSpec, GitHubAppStatus, NamespaceGrant, TenantGrant,
    TenantStatus, WebhookPolicy,
};
pub use delivery::{Delivery, DeliveryResult, KEPT_DELIVERIES};
pub use inbox::{ID_LIMIT, InboxEntry, WaitingDelivery, WebhookInbox, WebhookInboxSpec, WebhookInboxStatus};
pub use installation::{
    AccountStatus, AppReference, EffectiveGrant, GitHubInstallation, GitHubInstallationSpec, GitHubInstallationStatus,
};
pub use permissions::{Permissions, default_permissions};
use permissions::{permission_levels, permission_names, permission_names_message};
pub use push::PushRules;
pub use reason::{ConditionType, Reason};
pub use repository::{
    DeploymentResult, DeploymentStatus, ForkBranches, ForkSource, ForkStatus, ForkSync, HeadStatus, OnPush,
    PasswordSecretReference, ProjectRepository, ProjectRepositorySpec, ProjectRepositoryStatus, PushAction,
    RepositorySource, RepositoryWebhook, RolloutRestart, Visibility, WebhookMode, WebhookStatus, WorkloadKind,
};
pub(crate) use schema::definition;
pub(crate) use token::default_renew_before;
pub use token::{
    InstallationReference, InstallationToken, InstallationTokenSpec, InstallationTokenStatus, RepositoryReference,
    RepositorySelection, SecretFormat, SecretTemplate,
};
pub use workspace::{
    AccessMode, BranchOnExists, CloneFilter, GitAuthor, OperatingMode, PortProtocol, ProjectRepositoryReference,
    PullRequestMode, PullRequestOnDelete, PullRequestOpenOn, PullRequestState, PullRequestStatus, PullSecretReference,
    SaveOnFailure, SaveStatus, Workspace, WorkspaceGit, WorkspacePodStatus, WorkspaceSpec, WorkspaceStatus,
    WorkspaceTimings,
};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The API group of all kinds.
pub const GROUP: &str = "landfall.dev";
/// The field manager of everything the operator applies.
pub const FIELD_MANAGER: &str = "landfall";
/// Annotation: any new value asks the operator to look at GitHub now.
pub const RECONCILE_ANNOTATION: &str = "landfall.dev/reconcile";
/// Label on what the operator made, with [`MANAGED_BY`] as its value (a label recommended by Kubernetes).
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "landfall";
/// Label on a `GitHubInstallation` that the operator made: the name of its `GitHubApp`.
pub const APP_LABEL: &str = "landfall.dev/app";
/// Annotation on a token's Secret: when the token ends to be valid (RFC 3339).
pub const EXPIRATION_TIME_ANNOTATION: &str = "landfall.dev/expiration-time";
/// Annotation on a token's Secret: when the token was minted (RFC 3339).
pub const MINT_TIME_ANNOTATION: &str = "landfall.dev/mint-time";
/// Annotation on a token's Secret: the fingerprint of the token in it.
pub const FINGERPRINT_ANNOTATION: &str = "landfall.dev/fingerprint";
/// Annotation on a token's Secret: what the token was minted for (a digest of installation, repositories, permissions).
pub const SCOPE_ANNOTATION: &str = "landfall.dev/scope";
/// Annotation on a token's Secret: the ids of the repositories the token reaches, or `all`.
pub const REPOSITORIES_ANNOTATION: &str = "landfall.dev/repository-ids";
/// Finalizer on an `InstallationToken`: its token is revoked and its Secret removed before it goes.
pub const REVOKE_FINALIZER: &str = "landfall.dev/revoke";
/// Annotation: any new value asks for a failed deployment to be done again.
pub const REDEPLOY_ANNOTATION: &str = "landfall.dev/redeploy";
/// Annotation on the pods' template of a workload that was rolled: the commit for which it was.
pub const SHA_ANNOTATION: &str = "landfall.dev/sha";
/// Annotation on the pods' template of a workload that was rolled: which deployment of its `ProjectRepository` it was.
pub const SEQUENCE_ANNOTATION: &str = "landfall.dev/sequence";
/// Annotation on the pods' template of a workload that was rolled: the repository whose commit it was for, by its id or, where it
/// is followed by its address alone, by that. What another repository rolled is no rollout of this one's.
pub const REPOSITORY_ANNOTATION: &str = "landfall.dev/repository";
/// Finalizer on a `ProjectRepository`: its webhook is removed before it goes.
pub const WEBHOOK_FINALIZER: &str = "landfall.dev/webhook";
/// Finalizer on a `GitHubApp` and a `GitHubInstallation`: it stays while what depends on it needs it to clean up.
pub const DEPENDENTS_FINALIZER: &str = "landfall.dev/dependents";
/// Finalizer on a `Workspace`, its volume's claim and its token: its work is saved before they go.
pub const WORK_FINALIZER: &str = "landfall.dev/work";
/// Label on what the operator made for a `Workspace`: its name.
pub const WORKSPACE_LABEL: &str = "landfall.dev/workspace";
/// Annotation on what the operator made for a `Workspace`: its uid.
pub const WORKSPACE_UID_ANNOTATION: &str = "landfall.dev/workspace-uid";
/// Annotation on a pod of a `Workspace`: the certificates of the gateway, in PEM, which the kubelet writes into a file of the pod.
pub const GATEWAY_CA_ANNOTATION: &str = "landfall.dev/gateway-ca";
/// Annotation on a `Workspace`: its uid as the value gives up the work that cannot be saved.
pub const FORCE_DELETE_ANNOTATION: &str = "landfall.dev/force-delete";
/// Annotation on a `Workspace`: the uid of an earlier Workspace of its name, whose claim it takes over.
pub const ADOPT_ANNOTATION: &str = "landfall.dev/adopt-volume-of";
/// Annotation on the claim of a workspace: the id on GitHub of the repository whose clone is on its volume.
pub const WORKSPACE_REPOSITORY_ANNOTATION: &str = "landfall.dev/workspace-repository";
/// Annotation on the claim of a workspace that goes: where its work was read back from the remote, in JSON. The claim may go.
pub const SAVED_ANNOTATION: &str = "landfall.dev/saved";
/// Annotation on the volume of a workspace on which the operator saw a clone: the uid of the claim that it is bound to.
pub const CLONED_ANNOTATION: &str = "landfall.dev/cloned-for";
/// Label on a volume and its claim that were kept, for there is work on it that could not be pushed.
pub const RETAINED_LABEL: &str = "landfall.dev/retained";
/// Annotation on a volume that was kept: whose it was, and why it was kept.
pub const RETAINED_ANNOTATION: &str = "landfall.dev/retained-for";

/// A CEL rule: the name of an object. A name with other characters would reach another path of the API server.
const NAME_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')";

/// A CEL rule: a duration as GEP-2257 has it, for which a condition holds.
/// <https://gateway-api.sigs.k8s.io/geps/gep-2257/>
macro_rules! duration_rule {
    ($condition:literal) => {
        concat!("self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$') && ", $condition)
    };
}
use duration_rule;

/// A duration as GEP-2257 has it: numbers with the units h, m, s and ms, added up. `None`: the text is none.
#[must_use]
pub fn duration(text: &str) -> Option<SignedDuration> {
    let (mut sum, mut rest) = (SignedDuration::ZERO, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(end);
        let number = number.parse::<i64>().ok()?;
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let millis = match &after[..unit] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        sum = sum.checked_add(SignedDuration::from_millis(number.checked_mul(millis)?))?;
        rest = &after[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

/// What the controllers need from every kind, so that conditions are written in one place.
pub trait Reconciled: kube::Resource<DynamicType = ()> + Clone {
    /// The kind's status.
    type Status: Clone + Default + PartialEq + serde::Serialize;

    /// The stored status.
    fn status(&self) -> Option<&Self::Status>;
    /// The conditions of a status.
    fn conditions(status: &Self::Status) -> &[Condition];
    /// Sets what every status has.
    fn set_conditions(status: &mut Self::Status, observed_generation: Option<i64>, conditions: Vec<Condition>);
}

macro_rules! reconciled {
    ($kind:ty, $status:ty) => {
        impl crate::api::Reconciled for $kind {
            type Status = $status;

            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }
            fn conditions(status: &$status) -> &[Condition] {
                &status.conditions
            }
            fn set_conditions(status: &mut $status, observed_generation: Option<i64>, conditions: Vec<Condition>) {
                status.observed_generation = observed_generation;
                status.conditions = conditions;
            }
        }
    };
}
use reconciled;

/// For a kind whose status is somebody else's: the operator writes none.
macro_rules! without_status {
    ($kind:ty) => {
        impl crate::api::Reconciled for $kind {
            type Status = ();

            fn status(&self) -> Option<&()> {
                Some(&())
            }
            fn conditions((): &()) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
                &[]
            }
            fn set_conditions(
                (): &mut (),
                _: Option<i64>,
                _: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
            ) {
            }
        }
    };
}
pub(crate) use without_status;
