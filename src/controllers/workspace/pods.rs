//! Reads the status of a workspace's pods.

use super::objects::{AGENT, CLONE, MAIN, SAVE};
use crate::agent::evidence::Evidence;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use serde::Deserialize;

/// The state of the clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clone {
    /// It has not begun, or is running.
    Pending(Option<Trouble>),
    /// It is complete.
    Done(Cloned),
    /// It failed; the kubelet tries it again.
    Failed {
        /// The exit code of the command.
        code: i32,
        /// git's own message.
        words: String,
    },
}

/// The reason why a container does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The reason from Kubernetes, such as `ImagePullBackOff`.
    pub reason: String,
    pub message: String,
}

/// The result of `landfall workspace clone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cloned {
    /// The branch of the clone.
    pub branch: String,
    /// Its commit.
    pub head: String,
    /// The parts of the repository that it does not have, as [`crate::agent::clone::Lack`] names them.
    pub lacks: Vec<String>,
}

/// The end of a pod that saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It left evidence of its save.
    Said(Evidence),
    /// It left none: it was killed, or failed.
    Silent(String),
}

/// The state of the pod in which work is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub uid: String,
    pub name: String,
    pub node: Option<String>,
    /// The deadline of its deletion, if it is being deleted.
    pub going: Option<Timestamp>,
    /// It failed and will not start again, for example after an eviction.
    pub failed: Option<Trouble>,
    /// The state of the clone.
    pub clone: Clone,
    /// The agent runs, so its reports can be expected.
    pub has_agent: bool,
    /// The person's container runs, and is ready.
    pub is_ready: bool,
    /// The reason why the person's container, or the agent, does not run.
    pub trouble: Option<Trouble>,
    /// The image of the person's container.
    pub image: Option<String>,
    /// The person's container has started at least once.
    pub has_run: bool,
    /// The reason why it has no node.
    pub unscheduled: Option<String>,
    /// When it was scheduled.
    pub scheduled_at: Option<Timestamp>,
    /// When the clone was complete.
    pub cloned_at: Option<Timestamp>,
    /// When it became ready.
    pub ready_at: Option<Timestamp>,
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|status| status.name == name)
}

fn waiting(state: Option<&ContainerState>) -> Option<Trouble> {
    let waiting = state?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    // Every container has these reasons at first.
    (!["ContainerCreating", "PodInitializing"].contains(&reason.as_str()))
        .then(|| Trouble { reason, message: waiting.message.clone().unwrap_or_default() })
}

impl PodView {
    /// Reads a pod's status.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let condition = |kind: &str| {
            let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().find(|condition| condition.type_ == kind)
        };
        let since = |kind: &str| {
            let condition = condition(kind).filter(|condition| condition.status == "True")?;
            condition.last_transition_time.as_ref().map(|time| time.0)
        };
        let is_over =
            status.and_then(|status| status.phase.as_deref()).is_some_and(|it| it == "Failed" || it == "Succeeded");
        let failed = is_over.then(|| Trouble {
            reason: status.and_then(|status| status.reason.clone()).unwrap_or_else(|| "Ended".to_owned()),
            message: status.and_then(|status| status.message.clone()).unwrap_or_default(),
        });
        let main = container(pod, MAIN);
        let agent = container(pod, AGENT);
        let cloned = container(pod, CLONE).and_then(|status| status.state.as_ref()?.terminated.as_ref());
        let unscheduled = condition("PodScheduled").filter(|condition| condition.status == "False");
        Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            going: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            failed,
            clone: clone_of(pod),
            has_agent: agent.is_some_and(|status| status.state.as_ref().is_some_and(|state| state.running.is_some())),
            is_ready: main.is_some_and(|status| status.ready)
                && condition("Ready").is_some_and(|it| it.status == "True"),
            trouble: [main, agent].into_iter().flatten().find_map(|status| {
                let trouble = waiting(status.state.as_ref())?;
                let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).map(words);
                let message = [Some(trouble.message), last].into_iter().flatten().collect::<Vec<_>>().join(": ");
                Some(Trouble { message, ..trouble })
            }),
            image: pod
                .spec
                .as_ref()
                .and_then(|spec| spec.containers.iter().find(|container| container.name == MAIN)?.image.clone()),
            has_run: main.is_some_and(|status| {
                let has_run = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
                status.restart_count > 0 || [&status.state, &status.last_state].into_iter().flatten().any(has_run)
            }),
            unscheduled: unscheduled.and_then(|condition| condition.message.clone()),
            scheduled_at: since("PodScheduled"),
            cloned_at: cloned
                .filter(|ended| ended.exit_code == 0)
                .and_then(|ended| Some(ended.finished_at.as_ref()?.0)),
            ready_at: since("Ready"),
        }
    }
}

fn clone_of(pod: &Pod) -> Clone {
    let Some(status) = container(pod, CLONE) else { return Clone::Pending(None) };
    let ended = |state: Option<&ContainerState>| state.and_then(|state| state.terminated.clone());
    match (ended(status.state.as_ref()), ended(status.last_state.as_ref())) {
        (Some(ended), _) if ended.exit_code == 0 => {
            let said = ended.message.as_deref().and_then(|message| serde_json::from_str(message).ok());
            Clone::Done(said.unwrap_or_default())
        }
        (Some(ended), _) | (None, Some(ended)) if ended.exit_code != 0 => {
            Clone::Failed { code: ended.exit_code, words: words(&ended) }
        }
        _ => Clone::Pending(waiting(status.state.as_ref())),
    }
}

/// A container's last message, else the reason from Kubernetes why it ended.
fn words(ended: &ContainerStateTerminated) -> String {
    let said = ended.message.as_deref().unwrap_or_default().trim();
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let out_of_memory = if reason == "OOMKilled" { ": it took more memory than its limit" } else { "" };
    if said.is_empty() || !out_of_memory.is_empty() {
        return format!("it ended with {} ({reason}{out_of_memory}) {said}", ended.exit_code).trim().to_owned();
    }
    said.to_owned()
}

/// How the container that saves ended, in the pod or in a Job's pod. `None` while it runs.
#[must_use]
pub fn ended(pod: &Pod) -> Option<Ended> {
    let status = container(pod, AGENT).or_else(|| container(pod, SAVE))?;
    let state = status.state.as_ref()?.terminated.as_ref()?;
    let said = state.message.as_deref().and_then(|message| serde_json::from_str(message).ok());
    Some(said.map_or_else(|| Ended::Silent(words(state)), Ended::Said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ws-x", "uid": "u"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_clone_that_failed_is_told_in_gits_words_while_it_is_tried_again() {
        let failed = json!({"terminated": {"exitCode": 22, "message": "fatal: no such branch\n", "reason": "Error"}});
        for status in [
            json!({"name": "clone", "state": failed, "ready": false, "image": "", "imageID": "", "restartCount": 0}),
            json!({"name": "clone", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": failed,
                "ready": false, "image": "", "imageID": "", "restartCount": 1}),
        ] {
            let seen = PodView::of(&pod(&json!({"initContainerStatuses": [status]})));
            assert_eq!(seen.clone, Clone::Failed { code: 22, words: "fatal: no such branch".into() });
        }
    }

    #[test]
    fn what_says_nothing_is_no_evidence() {
        let of = |message: Value| {
            let state = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": message}});
            let agent =
                json!({"name": "agent", "state": state, "ready": false, "image": "", "imageID": "", "restartCount": 0});
            ended(&pod(&json!({"initContainerStatuses": [agent]})))
        };
        assert!(matches!(of(json!("cut {\"outc")), Some(Ended::Silent(said)) if said.contains("OOMKilled")));
        assert_eq!(ended(&pod(&json!({}))), None);
    }
}
