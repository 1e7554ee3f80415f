//! The status of a `ProjectRepository`: from this process's memory, and where that has nothing yet, from the stored
//! status.

use super::memory::Task;
use super::seen::{HookWish, Seen, Way};
use crate::api::{
    ConditionType, DeploymentResult, ForkStatus, ProjectRepositoryStatus, Reason, Visibility, WebhookStatus,
};
use crate::controllers::deliveries::log;
use crate::controllers::object::requested_look;
use crate::controllers::shared::is_of_all;
use crate::controllers::standing::{State, Truth, condition};
use crate::git::Head;
use crate::github::models::Repository;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// The status, with the conditions other than those that every kind has.
#[must_use]
pub fn status(seen: &Seen, now: Timestamp) -> ProjectRepositoryStatus {
    let stored = seen.object.status.clone().unwrap_or_default();
    let known = &seen.known;
    let has_actions = seen.object.spec.on_push.is_some();
    let mut status = ProjectRepositoryStatus {
        deployment: known.deployment.clone().or_else(|| stored.deployment.clone()).filter(|_| has_actions),
        last_handled_redeploy: known.redeploy.clone().or_else(|| stored.last_handled_redeploy.clone()),
        webhook: webhook(seen, &stored),
        last_handled_reconcile: if known.request.is_some() {
            known.request.clone()
        } else {
            stored.last_handled_reconcile.clone()
        },
        uid: seen.object.metadata.uid.clone(),
        deliveries: log(&stored.deliveries, &seen.marks()),
        ..stored.clone()
    };
    if requested_look(&*seen.object).is_none() {
        status.last_handled_reconcile = None;
    }
    if let Some(facts) = &known.facts {
        let repository = &facts.repository;
        status.repository_id = Some(repository.id);
        status.node_id = Some(repository.node_id.clone());
        status.full_name = Some(repository.full_name.clone());
        status.visibility = Some(visibility(repository));
        status.archived = repository.archived.or(stored.archived);
        status.disabled = repository.disabled.or(stored.disabled);
        status.clone_url = repository.clone_url.clone().or(stored.clone_url.clone());
        status.html_url = repository.html_url.clone().or(stored.html_url.clone());
    }
    if let Some(looked) = &known.looked {
        status.default_branch = looked.refs.default_branch.as_ref().map(ToString::to_string);
        status.head = match looked.refs.head {
            Head::At { .. } if seen.is_doubtful() => stored.head.clone(),
            Head::At { .. } => known.head.clone(),
            _ => None,
        };
        if matches!(seen.way, Way::Address(_)) {
            status.clone_url = Some(looked.name.clone());
        }
    }
    if let Some(fork) = &seen.object.spec.source.fork {
        let parent = known.facts.as_ref().and_then(|facts| facts.repository.parent.as_ref());
        let before = stored.fork.clone().unwrap_or_default();
        status.fork = Some(ForkStatus {
            of: fork.of.clone(),
            upstream_id: parent.map(|parent| parent.id).or(before.upstream_id),
            upstream_sha: known.in_step.as_ref().map(|step| step.upstream.clone()).or(before.upstream_sha),
            behind_by: known.in_step.as_ref().and_then(|step| i64::try_from(step.behind_by).ok()).or(before.behind_by),
            ahead_by: known.in_step.as_ref().and_then(|step| i64::try_from(step.ahead_by).ok()).or(before.ahead_by),
        });
    }
    let conditions = parts(seen, &status, now);
    status.conditions = conditions;
    status
}

/// A GitHub Enterprise Server may be too old to name the visibility.
fn visibility(repository: &Repository) -> Visibility {
    match repository.visibility.as_deref() {
        Some("internal") => Visibility::Internal,
        _ if repository.private => Visibility::Private,
        _ => Visibility::Public,
    }
}

fn webhook(seen: &Seen, stored: &ProjectRepositoryStatus) -> Option<WebhookStatus> {
    let known = &seen.known;
    match &known.hook {
        Some(hook) => Some(WebhookStatus { id: Some(hook.id), url: hook.url.clone(), key_id: hook.key_id.clone() }),
        None if known.is_hook_removed || (seen.hook == HookWish::None && !seen.has_finalizer) => None,
        None => stored.webhook.clone(),
    }
}

/// The same with the stored conditions that every kind has, for a write in the middle of a reconcile.
#[must_use]
pub fn with_conditions(seen: &Seen, mut status: ProjectRepositoryStatus) -> ProjectRepositoryStatus {
    let stored = seen.object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    status.conditions.extend(stored.iter().filter(|stored| is_of_all(stored)).cloned());
    status
}

fn parts(seen: &Seen, status: &ProjectRepositoryStatus, now: Timestamp) -> Vec<Condition> {
    let stored = seen.object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = seen.object.metadata.generation;
    let say = |kind, truth, reason, message: &str| condition((kind, truth), (reason, message), stored, generation, now);
    // A condition about which this process knows nothing yet stays as it is.
    let before = |kind: ConditionType| stored.iter().find(|stored| stored.type_ == kind.as_str()).cloned();
    let mut conditions = Vec::new();
    let failed = seen.waits(Task::Hook, now);
    match (&seen.hook, &failed, &status.webhook) {
        (HookWish::None, _, _) | (HookWish::Own { .. }, None, None) => {}
        (_, Some(failed), _) => {
            let standing = &failed.standing;
            conditions.push(say(ConditionType::WebhookReady, Truth::False, standing.reason, &standing.message));
        }
        (HookWish::Unknown(standing), None, _) => {
            conditions.push(say(ConditionType::WebhookReady, Truth::False, standing.reason, &standing.message));
        }
        (HookWish::Own { .. }, None, Some(hook)) => {
            let message = format!("pushes are delivered to {}", hook.url);
            conditions.push(say(ConditionType::WebhookReady, Truth::True, Reason::WebhookEnsured, &message));
        }
    }
    if let Some(step) = &seen.known.in_step {
        let is_diverged = step.behind_by > 0 && step.ahead_by > 0;
        let (truth, reason, message) = if is_diverged {
            let message = format!(
                "the fork has {} commits of its own and lacks {}, so it is not fast-forwarded: merge or rebase it by hand",
                step.ahead_by, step.behind_by
            );
            (Truth::False, Reason::Diverged, message)
        } else {
            (Truth::True, Reason::InStep, "the fork has all that its upstream has".to_owned())
        };
        conditions.push(say(ConditionType::InStep, truth, reason, &message));
    } else if seen.object.spec.source.fork.is_some() {
        conditions.extend(before(ConditionType::InStep));
    }
    if let (Some(standing), Some(_)) = (&seen.known.deployed, &status.deployment) {
        let truth = match standing.state {
            State::Ready | State::ReadyButRetrying => Truth::True,
            State::Reconciling => Truth::Unknown,
            State::Stalled | State::Suspended => Truth::False,
        };
        conditions.push(say(ConditionType::Deployed, truth, standing.reason, &standing.message));
    } else if let Some(before) = before(ConditionType::Deployed)
        && status.deployment.is_some()
        && status.deployment == seen.object.status.as_ref().and_then(|stored| stored.deployment.clone())
    {
        conditions.push(before);
    } else if let Some(deployment) = &status.deployment {
        let (truth, reason) = match deployment.result {
            DeploymentResult::Waiting => (Truth::Unknown, Reason::Debouncing),
            DeploymentResult::Running => (Truth::Unknown, Reason::RollingOut),
            DeploymentResult::Succeeded => (Truth::True, Reason::RolledOut),
            DeploymentResult::Failed => (Truth::False, Reason::RolloutFailed),
        };
        let message = deployment.message.clone().unwrap_or_else(|| format!("commit {}", deployment.sha));
        conditions.push(say(ConditionType::Deployed, truth, reason, &message));
    }
    conditions
}
