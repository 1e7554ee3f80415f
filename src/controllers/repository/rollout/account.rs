//! Requests as a `ServiceAccount`, by impersonation.
//!
//! Invariant: every request that a push causes goes through [`Account::ask`], which sets the impersonated user, and
//! reaches only the namespace of the object. Without it, the operator would lend its own permissions to everyone who
//! may write a `ProjectRepository`.

use super::seen::Trouble;
use crate::api::{Reason, WorkloadKind};
use http::{HeaderName, HeaderValue, Request};
use kube::Client;
use serde::de::DeserializeOwned;

/// The header that names the impersonated user (Kubernetes, "User impersonation").
const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// A `ServiceAccount` that the operator acts as.
pub struct Account<'a> {
    client: &'a Client,
    namespace: &'a str,
    name: &'a str,
    user: HeaderValue,
}

/// The reason why a request was not carried out.
#[derive(Debug)]
pub enum Refused {
    /// There is no such workload.
    Missing,
    /// It changed since it was seen.
    Changed,
    /// A person has to do something, now or within minutes.
    Trouble(Trouble),
    /// The failure will pass.
    Passing(kube::Error),
}

impl<'a> Account<'a> {
    /// The `ServiceAccount` `name` of `namespace`.
    ///
    /// # Errors
    /// `name` is invalid: a name with a colon would belong to another namespace.
    pub fn new(client: &'a Client, namespace: &'a str, name: &'a str) -> Result<Self, Trouble> {
        let user = HeaderValue::from_str(&user(namespace, name)).ok();
        match user.filter(|_| is_name(namespace) && is_name(name)) {
            Some(user) => Ok(Self { client, namespace, name, user }),
            None => Err(Trouble {
                reason: Reason::InvalidSpec,
                message: "spec.onPush.serviceAccountName is no name of a ServiceAccount: correct it".to_owned(),
            }),
        }
    }

    /// The path of a kind's workloads in the namespace.
    #[must_use]
    pub fn path(&self, kind: WorkloadKind) -> String {
        format!("/apis/apps/v1/namespaces/{}/{}", self.namespace, plural(kind))
    }

    /// Sends a request as the `ServiceAccount`. `verb` and `what` describe it in messages: "patch", "Deployment shop".
    ///
    /// # Errors
    /// The reason why it was not carried out.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
        kind: WorkloadKind,
        verb: &str,
        what: &str,
    ) -> Result<T, Refused> {
        let mut request = request.map_err(|error| Refused::Passing(kube::Error::BuildRequest(error)))?;
        request.headers_mut().insert(IMPERSONATE_USER, self.user.clone());
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) => match status.code {
                404 => Refused::Missing,
                409 => Refused::Changed,
                403 => Refused::Trouble(self.forbidden(kind, verb, what, &status.message)),
                429 | 503 | 504 => Refused::Passing(kube::Error::Api(status)),
                _ => Refused::Trouble(Trouble {
                    reason: Reason::KubernetesRefused,
                    message: format!(
                        "the Kubernetes API refused to {verb} {what}: {}; correct the field that it names",
                        status.message
                    ),
                }),
            },
            error => Refused::Passing(error),
        })
    }

    /// The API server answers `User "…" cannot VERB …` about the user that lacks a permission: the operator, if it may
    /// not impersonate, or the `ServiceAccount`. Its `details` do not distinguish them: where impersonation is
    /// constrained by verb (KEP-5284), both name the workload.
    fn forbidden(&self, kind: WorkloadKind, verb: &str, what: &str, message: &str) -> Trouble {
        let Self { namespace, name, .. } = self;
        let plural = plural(kind);
        let lacking = message.split_once("User \"").and_then(|(_, rest)| rest.split_once("\" cannot "));
        let message = match lacking {
            Some((user, verb)) if verb.starts_with("impersonate") => format!(
                "the operator may not act as ServiceAccount {name}: {message}. Whoever owns namespace {namespace} can allow it: \
                 kubectl create role landfall-as-{name} -n {namespace} --verb=impersonate --resource=serviceaccounts \
                 --resource-name={name}; kubectl create rolebinding landfall-as-{name} -n {namespace} \
                 --role=landfall-as-{name} {}",
                subject(user)
            ),
            Some((user, _)) if user == self::user(namespace, name) => format!(
                "ServiceAccount {name} may not {verb} {what}: {message}. It needs get, list and patch of {plural}: kubectl create \
                 role {name}-rolls-{plural} -n {namespace} --verb=get,list,patch --resource={plural}.apps; kubectl create \
                 rolebinding {name}-rolls-{plural} -n {namespace} --role={name}-rolls-{plural} \
                 --serviceaccount={namespace}:{name}"
            ),
            // A policy, a webhook, a quota.
            _ => format!("ServiceAccount {name} was not allowed to {verb} {what}: {message}"),
        };
        Trouble { reason: Reason::ActionForbidden, message }
    }
}

/// The plural of a workload's kind, for paths and rules.
fn plural(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Deployment => "deployments",
        WorkloadKind::StatefulSet => "statefulsets",
        WorkloadKind::DaemonSet => "daemonsets",
    }
}

/// The user name of a `ServiceAccount`.
fn user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The argument of `kubectl create rolebinding` for a user.
fn subject(user: &str) -> String {
    match user.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={account}"),
        None => format!("--user={user}"),
    }
}

/// Whether the text can be the name of an object, because it is put into paths and user names.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    /// A client of an API server that answers everything with `code` and `answer`, and the requests that it got.
    fn server(code: u16, answer: &Value) -> (Client, Arc<Mutex<Vec<Request<()>>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), answer.to_string());
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            log.lock().unwrap().push(request.map(drop));
            let response =
                http::Response::builder().status(code).body(kube::client::Body::from(answer.clone().into_bytes()));
            std::future::ready(Ok::<_, std::convert::Infallible>(response.unwrap()))
        });
        (Client::new(service, "default"), asked)
    }

    fn refusal(code: u16, message: &str, details: &Value) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code,
            "reason": "Forbidden", "details": details})
    }

    async fn asks(code: u16, answer: &Value) -> (Result<Value, Refused>, Vec<Request<()>>) {
        let (client, asked) = server(code, answer);
        let account = Account::new(&client, "team-a", "deployer").unwrap();
        let get = kube::core::Request::new(account.path(WorkloadKind::Deployment))
            .get("shop", &kube::api::GetParams::default());
        let result = account.ask(get, WorkloadKind::Deployment, "get", "Deployment shop").await;
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        (result, asked)
    }

    async fn trouble(message: &str, details: &Value) -> Trouble {
        match asks(403, &refusal(403, message, details)).await {
            (Err(Refused::Trouble(trouble)), _) => trouble,
            (other, _) => panic!("no trouble: {other:?}"),
        }
    }

    #[test]
    fn a_name_that_would_be_of_another_namespace_is_none() {
        for name in ["", "x:other", "../x", "x/y", "X", "-x", ".x", "x\ny", "ä", &"x".repeat(254)] {
            assert!(!is_name(name), "{name:?}");
        }
        for name in ["deployer", "a.b-c", "0"] {
            assert!(is_name(name), "{name:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_asked_as_an_account_of_another_namespace() {
        let (client, asked) = server(200, &json!({}));
        for name in ["deployer:x", "x:team-b:deployer", "team-b/deployer", ""] {
            assert_eq!(Account::new(&client, "team-a", name).err().unwrap().reason, Reason::InvalidSpec, "{name}");
        }
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn each_request_is_the_accounts_and_in_its_namespace() {
        let (_, asked) = asks(200, &json!({})).await;
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].uri(), "/apis/apps/v1/namespaces/team-a/deployments/shop");
        let whom: Vec<_> = asked[0].headers().get_all(IMPERSONATE_USER).into_iter().collect();
        assert_eq!(whom, ["system:serviceaccount:team-a:deployer"]);
    }

    // The messages are those of kube-apiserver 1.36.
    #[tokio::test]
    async fn who_lacks_a_right_is_told_apart() {
        let may_not_impersonate = [
            // Without the feature gate ConstrainedImpersonation,
            (
                "serviceaccounts \"deployer\" is forbidden: User \"system:serviceaccount:landfall-system:landfall\" cannot \
                 impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"team-a\"",
                json!({"name": "deployer", "kind": "serviceaccounts"}),
            ),
            // and with it.
            (
                "deployments.apps \"shop\" is forbidden: User \"system:serviceaccount:landfall-system:landfall\" cannot \
                 impersonate-on:serviceaccount:get resource \"deployments\" in API group \"apps\" in the namespace \"team-a\"",
                json!({"name": "shop", "group": "apps", "kind": "deployments"}),
            ),
        ];
        for (message, details) in may_not_impersonate {
            let trouble = trouble(message, &details).await;
            assert_eq!(trouble.reason, Reason::ActionForbidden);
            for words in [
                "the operator may not act as ServiceAccount deployer",
                "kubectl create role landfall-as-deployer -n team-a --verb=impersonate --resource=serviceaccounts \
                 --resource-name=deployer",
                "--role=landfall-as-deployer --serviceaccount=landfall-system:landfall",
            ] {
                assert!(trouble.message.contains(words), "{words} is not in {}", trouble.message);
            }
        }
        let message = "deployments.apps \"shop\" is forbidden: User \"system:serviceaccount:team-a:deployer\" cannot get \
                       resource \"deployments\" in API group \"apps\" in the namespace \"team-a\"";
        let lacks = trouble(message, &json!({"name": "shop", "group": "apps", "kind": "deployments"})).await;
        assert_eq!(lacks.reason, Reason::ActionForbidden);
        for words in
            ["ServiceAccount deployer may not get Deployment shop", "--verb=get,list,patch --resource=deployments.apps"]
        {
            assert!(lacks.message.contains(words), "{words} is not in {}", lacks.message);
        }
        let message = "admission webhook \"freeze.example.com\" denied the request: no changes on a Friday";
        let refused = trouble(message, &json!({})).await;
        assert!(refused.message.contains("was not allowed to get Deployment shop: admission webhook"), "{refused:?}");
        assert!(!refused.message.contains("kubectl"), "{refused:?}");
    }

    #[tokio::test]
    async fn what_passes_is_told_from_what_does_not() {
        for (code, expected) in [
            (404, "missing"),
            (409, "changed"),
            (422, "trouble"),
            (400, "trouble"),
            (429, "passing"),
            (500, "trouble"),
            (504, "passing"),
            (503, "passing"),
        ] {
            let (result, _) = asks(code, &refusal(code, "no", &json!({}))).await;
            let found = match result {
                Err(Refused::Missing) => "missing",
                Err(Refused::Changed) => "changed",
                Err(Refused::Trouble(_)) => "trouble",
                Err(Refused::Passing(_)) => "passing",
                Ok(_) => "fine",
            };
            assert_eq!(found, expected, "{code}");
        }
    }
}
