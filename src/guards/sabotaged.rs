//! The guards in a build for tests: each is left out where a test asks for that.

use crate::agent::snapshot::Unsaved;
use crate::agent::store::Store;
use crate::api::{DeploymentStatus, FORCE_DELETE_ANNOTATION, InstallationToken, RepositorySelection, Workspace};
use crate::controllers::repository::rollout::{self, Stamp};
use crate::controllers::repository::{self, RepositoryKind};
use crate::controllers::shared::Shared;
use crate::controllers::token::{self, SecretSeen};
use crate::controllers::workspace::memory::{Pull, Safe};
use crate::controllers::workspace::objects;
use crate::controllers::workspace::pull::Asking;
use crate::controllers::workspace::seen::Seen;
use crate::gateway::refs::{Move, Verdicts};
use crate::git::{Head, Refs};
use crate::github::{self, Hook, NewPull};
use crate::internal::Denied;
use crate::receiver::keys::Verdict;
use crate::webhook::AppIdentity;
use http::HeaderMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, Resource, ResourceExt};
use rustix::fs::{AtFlags, OFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The variable that names the guards of the pod's programs that are out, with commas between.
const VARIABLE: &str = "LANDFALL_SABOTAGE";

fn is_out(guard: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|all| all.split(',').any(|out| out == guard))
}

/// Guards that a test takes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each guard")]
pub struct Sabotage {
    /// Tokens get no finalizer.
    pub drop_finalizer: bool,
    /// A good token is not adopted after a restart: nothing is read of it from its Secret.
    pub skip_adoption: bool,
    /// A webhook is made without looking whether it is there.
    pub skip_hook_listing: bool,
    /// A workload is rolled before status says so.
    pub act_before_status: bool,
    /// The head is the commit that a delivery names.
    pub believe_deliveries: bool,
    /// Status is believed: the head of a repository; of a workspace its branch, its pull request, and that its work is safe.
    pub believe_status: bool,
    /// `namespace.name` is the `ServiceAccount` of another namespace.
    pub any_account: bool,
    /// A pod that says that it saved is believed, whatever is at the remote.
    pub believe_agent: bool,
    /// A volume is let go of before its saved work is read back.
    pub let_go_early: bool,
    /// The token of a workspace is one for all repositories.
    pub any_repository: bool,
    /// A pod with a workspace's labels reports for it.
    pub any_reporter: bool,
    /// `spec.pod` of a workspace is put into its pod as it is.
    pub raw_pod_fields: bool,
    /// A pod of the name is the pod whose token was reviewed, whatever its uid.
    pub any_caller_uid: bool,
    /// A pod's token may come from any address.
    pub any_caller_address: bool,
    /// Any object of the name that a workspace's has is the workspace's.
    pub any_owner: bool,
    /// A token in a namespace that goes waits for its Secret, although the operator may not read it.
    pub wait_for_secret: bool,
    /// An uninstallation lets a claim go without its volume.
    pub skip_keeping: bool,
    /// A pod speaks of a workspace from any namespace.
    pub any_namespace: bool,
    /// The volume that a claim names is the claim's.
    pub any_volume: bool,
    /// Any value of the annotation gives a workspace's work up.
    pub any_force: bool,
    /// A pull request's title is put between quotes.
    pub paste_title: bool,
    /// Any signature of a delivery is right.
    pub skip_signature: bool,
    /// A payload may be of another repository than its webhook.
    pub skip_repository: bool,
    /// The id in an object's status is believed, whatever was granted.
    pub skip_grant: bool,
    /// A delivery is of the host that it says it is of.
    pub believe_host: bool,
    /// A workspace may push any ref, and in any way.
    pub any_ref: bool,
}

/// The guards of the operator and the receiver, without those that a test takes out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guards {
    out: Sabotage,
}

impl Guards {
    /// Takes guards out.
    #[must_use]
    pub fn without(out: Sabotage) -> Self {
        Self { out }
    }

    pub(crate) fn token(self, mut seen: token::Seen) -> token::Seen {
        if self.out.drop_finalizer && seen.token.metadata.deletion_timestamp.is_none() {
            seen.has_finalizer = true;
        }
        if self.out.skip_adoption
            && seen.held.is_none()
            && let SecretSeen::Ours(published) = &mut seen.secret
        {
            published.scope = None;
        }
        seen.is_namespace_going &= !self.out.wait_for_secret;
        seen
    }

    pub(crate) async fn keeping(
        self,
        keeping: impl Future<Output = Result<Option<String>, kube::Error>>,
    ) -> Result<Option<String>, kube::Error> {
        if self.out.skip_keeping { Ok(None) } else { keeping.await }
    }

    pub(crate) async fn listing(
        self,
        listing: impl Future<Output = Result<Vec<Hook>, github::Error>>,
    ) -> Result<Vec<Hook>, github::Error> {
        if self.out.skip_hook_listing { Ok(Vec::new()) } else { listing.await }
    }

    pub(crate) fn refs(self, mut of_remote: Refs, seen: &repository::seen::Seen) -> Refs {
        let Some(status) = &seen.object.status else { return of_remote };
        let waiting = seen.pending.last().map(|pending| &pending.mark.delivery.sha);
        let newest = waiting.or(status.deliveries.first().map(|delivery| &delivery.sha));
        let delivered = newest.filter(|_| self.out.believe_deliveries).and_then(Option::as_ref);
        let shown = status.head.as_ref().filter(|_| self.out.believe_status).map(|head| &head.sha);
        let believed = delivered.or(shown).and_then(|sha| sha.parse().ok());
        if let (Head::At { sha, .. }, Some(believed)) = (&mut of_remote.head, believed) {
            *sha = believed;
        }
        of_remote
    }

    pub(crate) fn account<'a>(self, (namespace, name): (&'a str, &'a str)) -> (&'a str, &'a str) {
        name.split_once('.').filter(|_| self.out.any_account).unwrap_or((namespace, name))
    }

    pub(crate) async fn deployment(
        self,
        deployment: DeploymentStatus,
        kind: &RepositoryKind,
        seen: &repository::seen::Seen,
    ) -> Result<DeploymentStatus, kube::Error> {
        let (true, Some(targets)) = (self.out.act_before_status, seen.known.rollout.targets()) else {
            return Ok(deployment);
        };
        let sequence = targets.newest().map_or(0, |newest| newest.sequence) + 1;
        let stamp = Stamp { sha: deployment.sha.clone(), sequence };
        rollout::roll(kind, seen, &stamp, &targets.workloads).await?;
        Ok(DeploymentStatus { sequence, ..deployment })
    }

    pub(crate) fn workspace(self, mut seen: Seen) -> Seen {
        let is_said = |condition: &Condition| condition.type_ == "WorkSafe" && condition.status == "True";
        let status = seen.object.status.as_ref();
        if self.out.believe_status && status.is_some_and(|status| status.conditions.iter().any(is_said)) {
            seen.known.safe = Some(Safe {
                commit: None,
                reference: String::new(),
                is_on_branch: true,
                at: Timestamp::UNIX_EPOCH,
                message: String::new(),
            });
        }
        seen.known.is_parted |= self.out.let_go_early && seen.is_going();
        if self.out.any_force && seen.object.annotations().contains_key(FORCE_DELETE_ANNOTATION) {
            let (mut object, uid) = ((*seen.object).clone(), seen.object.uid().unwrap_or_default());
            object.annotations_mut().insert(FORCE_DELETE_ANNOTATION.to_owned(), uid);
            seen.object = Arc::new(object);
        }
        seen
    }

    pub(crate) fn owner(self, is_ours: bool) -> bool {
        is_ours || self.out.any_owner
    }

    pub(crate) fn caller_uid(self, is_that: bool) -> bool {
        is_that || self.out.any_caller_uid
    }

    pub(crate) fn caller_address(self, is_its: Result<(), Denied>) -> Result<(), Denied> {
        if self.out.any_caller_address { Ok(()) } else { is_its }
    }

    pub(crate) fn volume(self, is_its: bool) -> bool {
        is_its || self.out.any_volume
    }

    pub(crate) fn last_pod<'a>(
        self,
        last: Option<&'a String>,
        of_all_namespaces: &'a BTreeMap<String, String>,
    ) -> Option<&'a String> {
        of_all_namespaces.values().next_back().filter(|_| self.out.any_namespace).or(last)
    }

    pub(crate) fn clone_branch(self, may_be: bool) -> bool {
        may_be || self.out.believe_status
    }

    pub(crate) fn saved(self, is_there: bool) -> bool {
        is_there || self.out.believe_agent
    }

    pub(crate) fn reporter(self, is_its: bool) -> bool {
        is_its || self.out.any_reporter
    }

    /// The workspace's pod, whoever it is that reports.
    pub(crate) fn reporting_pod(self, uid: String, shared: &Shared, workspace: &Workspace) -> String {
        let namespace = workspace.namespace().unwrap_or_default();
        let its = shared.caches.named::<Pod>(&namespace, &objects::name(workspace)).and_then(|pod| pod.uid());
        its.filter(|_| self.out.any_reporter).unwrap_or(uid)
    }

    pub(crate) fn token_scope(self, mut token: InstallationToken) -> InstallationToken {
        if self.out.any_repository {
            token.spec.repositories.clear();
            token.spec.repository_selection = RepositorySelection::All;
        }
        token
    }

    /// All that the spec says of the pod, as it says it.
    pub(crate) async fn pod(self, pod: Pod, client: &Client, workspace: &Workspace) -> Pod {
        if self.out.raw_pod_fields {
            let path = Workspace::url_path(&(), workspace.namespace().as_deref());
            let get = http::Request::get(format!("{path}/{}", workspace.name_any())).body(Vec::new());
            if let Ok(get) = get
                && let Ok(raw) = client.request::<Value>(get).await
                && let Ok(mut merged) = serde_json::to_value(&pod)
            {
                json_patch::merge(&mut merged["spec"], &raw["spec"]["pod"]);
                return serde_json::from_value(merged).unwrap_or(pod);
            }
        }
        pod
    }

    pub(crate) fn new_pull(self, wanted: NewPull<'_>) -> NewPull<'_> {
        let NewPull { title, head, base, body, draft } = wanted;
        let text = format!(r#"{{"base":"{base}","head":"{head}","body":"{body}","title":"{title}"}}"#);
        let pasted = serde_json::from_str::<BTreeMap<String, String>>(&text);
        let Some(mut pasted) = pasted.ok().filter(|_| self.out.paste_title) else { return wanted };
        let mut text = |key: &str| &*pasted.remove(key).unwrap_or_default().leak();
        NewPull { title: text("title"), head: text("head"), base: text("base"), body: text("body"), draft }
    }

    pub(crate) async fn pull(self, pull: Pull, workspace: &Workspace, asking: &Asking<'_>) -> Pull {
        let status = workspace.status.as_ref().and_then(|status| status.pull_request.as_ref());
        let number = status.filter(|_| self.out.believe_status).and_then(|pull| u64::try_from(pull.number).ok());
        let Some(number) = number else { return pull };
        let shown = asking.github.pull_request(&asking.token, asking.owner, asking.name, number).await;
        shown.map_or(pull, |shown| Pull::Found(Box::new(shown)))
    }

    pub(crate) fn identity(self, cached: AppIdentity, headers: &HeaderMap) -> AppIdentity {
        match headers.get("x-github-enterprise-host").map(http::HeaderValue::to_str) {
            Some(Ok(host)) if self.out.believe_host => AppIdentity { host: host.to_owned(), ..cached },
            _ => cached,
        }
    }

    pub(crate) fn verdict(self, verdict: Verdict) -> Verdict {
        if self.out.skip_signature { Verdict::Right } else { verdict }
    }

    pub(crate) fn other_repository(self, is_other: bool) -> bool {
        is_other && !self.out.skip_repository
    }

    pub(crate) fn grant(self, is_granted: bool) -> bool {
        is_granted || self.out.skip_grant
    }

    pub(crate) fn verdicts(self, judged: Verdicts) -> Verdicts {
        if self.out.any_ref { judged.iter().map(|_| Ok(Move::Any)).collect() } else { judged }
    }
}

pub(crate) fn recorded_branch(may_be: bool) -> bool {
    may_be || is_out("branch")
}

pub(crate) fn on_volume(is_within: bool) -> bool {
    is_within || is_out("volume")
}

pub(crate) fn repository_address(is_its: bool) -> bool {
    is_its || is_out("address")
}

pub(crate) fn credential_script(mut script: String) -> String {
    if is_out("address") {
        script.push_str("is_ours() { :; }\n");
    }
    script
}

pub(crate) fn opening(nofollow: OFlags) -> OFlags {
    if is_out("links") { OFlags::empty() } else { nofollow }
}

pub(crate) fn state(nofollow: AtFlags) -> AtFlags {
    if is_out("links") { AtFlags::empty() } else { nofollow }
}

pub(crate) fn store(mut store: Store, clone: &Path) -> Store {
    if is_out("own-directory") {
        store.git = store.git.variable("GIT_DIR", clone);
    }
    store
}

pub(crate) fn large_files(left: Vec<Unsaved>) -> Vec<Unsaved> {
    if is_out("large-files") { Vec::new() } else { left }
}

pub(crate) fn git_settings(
    settings: &'static [(&'static str, &'static str)],
) -> &'static [(&'static str, &'static str)] {
    if is_out("settings") { &[] } else { settings }
}
