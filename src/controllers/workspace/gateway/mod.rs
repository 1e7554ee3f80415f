//! The answers to the gateway: what the pod of a workspace may do, and a token for it.
//!
//! The invariant: of a request only the pod's name, its uid and the address that its token came from count, which the gateway has
//! from the API server and from the connection. The pod, its owner, the repository and the grant come from this process's caches at
//! each request, and nothing in a status decides. A pod that is gone, or a grant that was withdrawn, is refused at once.

mod decision;
mod tokens;

use super::WorkspaceKind;
use super::objects;
use crate::api::{BranchOnExists, PushRules};
use crate::controllers::rations::{Caller as Payer, Limits, Rations};
use crate::gateway::messages::{AccessAnswer, Caller, HeldToken, Patterns, ReleaseRequest, TokenAnswer, TokenRequest};
use crate::gateway::refs::{Beside, Origin};
use crate::internal::{Denied, GatewayHandler};
use crate::reports::PodIdentity;
use decision::Decision;
use futures::future::BoxFuture;
use kube::ResourceExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokens::{Asked, Key, RepositoryTokens};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often tokens are looked through for those that no gateway uses.
const SWEEP: Duration = Duration::from_mins(1);

/// Answers the gateway, while this process leads. Clones share its tokens.
#[derive(Clone)]
pub struct GatewayAnswers {
    kind: Arc<WorkspaceKind>,
    tokens: Arc<RepositoryTokens>,
    leads: Arc<AtomicBool>,
}

impl GatewayAnswers {
    #[must_use]
    pub fn new(kind: &Arc<WorkspaceKind>, rations: &Arc<Rations>, leads: Arc<AtomicBool>) -> Self {
        let tokens =
            RepositoryTokens::new(Arc::clone(&kind.shared.clock), Arc::clone(rations), kind.shared.metrics.clone());
        Self { kind: Arc::clone(kind), tokens: Arc::new(tokens), leads }
    }

    /// Revokes the tokens that no gateway uses, until shutdown. Those in use stay: the gateways hold them over a restart.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(SWEEP) => self.sweep().await,
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn sweep(&self) {
        for (app, token) in self.tokens.unused() {
            self.revoke(&app, &token).await;
        }
    }

    async fn revoke(&self, app: &str, token: &crate::github::Token) {
        let github = self.kind.shared.connections.get(app).and_then(|connection| connection.github);
        if let Some(github) = github {
            self.tokens.revoke(&github, token).await;
        }
    }

    fn decide(&self, caller: &Caller) -> Result<Decision, Denied> {
        if !self.leads.load(Ordering::SeqCst) {
            return Err(Denied::NotLeading);
        }
        decision::decide(&self.kind, caller)
    }
}

fn patterns(rules: &PushRules) -> Patterns {
    Patterns { refs: rules.refs.clone(), force: rules.force.clone() }
}

impl GatewayHandler for GatewayAnswers {
    fn access(&self, caller: &Caller) -> Result<AccessAnswer, Denied> {
        let decision = self.decide(caller)?;
        let workspace = &decision.workspace;
        let branch = &workspace.spec.branch;
        // A name with digits of the workspace's uid is nobody else's. A name that a person chose may have been there before.
        let origin = if branch.name.is_none() { Origin::Workspace } else { Origin::Unknown };
        Ok(AccessAnswer {
            workspace: workspace.name_any(),
            uid: workspace.uid().unwrap_or_default(),
            app: decision.app.clone(),
            host: decision.github.endpoint().web_host(),
            repository: decision.repository,
            branch: objects::wanted_branch(workspace),
            beside: if branch.on_exists == BranchOnExists::Suffix { Beside::Numbered } else { Beside::No },
            origin,
            asked: patterns(&workspace.spec.push),
            granted: decision.grant.push(&decision.known()).into_iter().map(patterns).collect(),
        })
    }

    fn token<'a>(
        &'a self,
        gateway: &'a PodIdentity,
        request: TokenRequest,
    ) -> BoxFuture<'a, Result<TokenAnswer, Denied>> {
        Box::pin(async move {
            let decision = self.decide(&request.caller)?;
            let permissions = decision.permissions(request.right)?;
            let key = Key {
                app: decision.app.clone(),
                connection: decision.connection.clone(),
                installation: decision.installation,
                repository: decision.repository,
                permissions,
            };
            // GitHub refuses a dead token, and one whose repository has another name now, in the same way.
            let mut is_news = false;
            for refused in &request.refused {
                is_news |= self.tokens.refuse(&key, refused, &decision.github).await;
            }
            let namespace = &request.caller.namespace;
            let uid = format!("gateway: {} {:?}", key.repository, request.right);
            let limits =
                if decision.github.endpoint().has_secondary_limits() { Limits::OfGitHub } else { Limits::None };
            let asked = Asked {
                gateway: &gateway.uid,
                payer: Payer { uid: &uid, namespace, app: &decision.app },
                limits,
                held: request.held,
                refused: request.refused,
            };
            let issued: HeldToken = self.tokens.issue(&key, asked, &decision.github).await?;
            if is_news {
                decision.ask_for_the_name(&self.kind, &issued.token).await?;
            }
            // The mint took its time. A grant that was withdrawn meanwhile counts.
            let decision = self.decide(&request.caller)?;
            decision.permissions(request.right)?;
            let endpoint = decision.github.endpoint();
            Ok(TokenAnswer {
                issued,
                api_url: endpoint.api_url().to_owned(),
                web_url: endpoint.web_url().to_owned(),
                full_name: decision.full_name,
                ca_bundle: decision.ca_bundle,
            })
        })
    }

    fn release<'a>(&'a self, gateway: &'a PodIdentity, request: ReleaseRequest) -> BoxFuture<'a, Result<(), Denied>> {
        Box::pin(async move {
            if !self.leads.load(Ordering::SeqCst) {
                return Err(Denied::NotLeading);
            }
            let ReleaseRequest { app, token } = request;
            if self.tokens.release(&gateway.uid, &gateway.namespace, &token) {
                self.revoke(&app, &token).await;
            }
            Ok(())
        })
    }
}
