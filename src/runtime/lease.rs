//! Leader election by a Lease (`coordination.k8s.io/v1`).
//!
//! Invariant: two processes never both believe that they lead. It rests on three rules:
//!
//! - Every write replaces the record at the `resourceVersion` that was read, so one of two writers gets a 409.
//! - A leader believes in its lease for two thirds of the lease duration, counted from before it *sent* its last successful
//!   write. A standby waits for the whole lease duration, counted from after it *received* a record that has not changed
//!   since. Each counts on its own monotonic clock; the times in the record are for people and never compared.
//! - A process that has lost leadership does not try again: it ends ([`Leadership::lost`]).
//!
//! Otherwise two operators could mint, publish and revoke each other's tokens.
//!
//! Leadership is about real processes and a real API server: it runs on tokio's time, not on the injected clock.

use std::{fmt, future::Future, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as Record;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::record::{Observed, Standing};
use super::{
    jitter::{Jitter as _, RandomJitter},
    metrics::Metrics,
    readiness::Check,
};

mod record;

/// The default lease duration: a leader that died is replaced within about 18 seconds.
pub const TTL: Duration = Duration::from_secs(15);

/// How long a renewal waits after a 409 that did not end leadership.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// The times of an election, all derived from the lease duration.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    ttl: Duration,
}

impl LeaseTimes {
    /// `ttl` is the lease duration in whole seconds, at least one: after this time without a renewal another may lead.
    #[must_use]
    pub fn of_ttl(ttl: Duration) -> Self {
        Self { ttl: Duration::from_secs(ttl.as_secs().max(1)) }
    }

    /// How long the sender of a successful write believes that it leads.
    fn claim(self) -> Duration {
        self.ttl * 2 / 3
    }

    /// The time between two renewals, and between two reads of a standby.
    fn pace(self) -> Duration {
        self.ttl / 5
    }

    /// The timeout of one request to the API server.
    fn request(self) -> Duration {
        self.ttl / 5
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::of_ttl(TTL)
    }
}

/// The reason why the process could not become the leader.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("stopped while waiting for leadership")]
    Stopped,
    /// The API server refuses, and a retry would not help.
    #[error(
        "the API server refuses to let {identity} use the Lease {lease}: grant get, create and update on leases.coordination.k8s.io in its namespace, which must exist"
    )]
    Refused {
        lease: String,
        identity: String,
        #[source]
        source: kube::Error,
    },
}

/// The reason why leadership ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    #[error("{holder} took over the Lease {lease}")]
    Taken { lease: String, holder: String },
    #[error("the Lease {lease} was deleted or emptied")]
    Gone { lease: String },
    #[error("the Lease {lease} could not be renewed in time: {problem}")]
    NotRenewed { lease: String, problem: String },
    /// The renewal panicked.
    #[error("the task that renews the Lease {lease} ended")]
    Broken { lease: String },
}

/// A client for the Lease alone: kube's own retries, of up to 1000 seconds, are off, and a request may not take longer than
/// a renewal can wait.
pub fn client(mut config: kube::Config, times: LeaseTimes) -> kube::Result<kube::Client> {
    config.default_retry = false;
    config.connect_timeout = Some(times.request());
    config.read_timeout = Some(times.request());
    config.write_timeout = Some(times.request());
    // Otherwise the idle time of a pooled connection would count towards the read timeout.
    config.reset_reader_on_write = true;
    kube::Client::try_from(config)
}

/// A candidate for leadership.
#[derive(Clone)]
pub struct Lease {
    api: Api<Record>,
    namespace: String,
    name: String,
    identity: String,
    times: LeaseTimes,
    check: Option<Check>,
    metrics: Option<Metrics>,
}

/// A record that this process wrote, and when it began to write it.
struct Claim {
    record: Record,
    since: Instant,
}

/// The result of one try to become the leader.
enum Attempt {
    Won(Box<Claim>),
    /// Another process holds the Lease, or was faster; its identity, if known.
    HeldBy(Option<String>),
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer from the API server within {} ms", .0.as_millis())]
    NoAnswer(Duration),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

impl CallError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

impl Lease {
    /// `client` is one that [`client`] made. `identity` names the process for people, as a pod's name does. A random suffix
    /// makes it unique: a candidate takes a record with its identity for its own, and two processes on one machine would
    /// otherwise both lead.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str, identity: &str, times: LeaseTimes) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: format!("{identity}_{:08x}", rand::random::<u32>()),
            times,
            check: None,
            metrics: None,
        }
    }

    /// Reports in a readiness check and a gauge which process leads.
    #[must_use]
    pub fn reporting(mut self, check: Check, metrics: Metrics) -> Self {
        self.check = Some(check);
        self.metrics = Some(metrics);
        self
    }

    /// Waits until this process leads. Temporary errors are logged and retried.
    ///
    /// # Errors
    /// Shutdown began, or the API server refuses and a retry would not help.
    pub async fn acquire(&self, shutdown: &CancellationToken) -> Result<Leadership, LeaseError> {
        let mut observed = None;
        loop {
            match self.attempt(&mut observed).await {
                Ok(Attempt::Won(claim)) => return Ok(self.lead(*claim)),
                Ok(Attempt::HeldBy(holder)) => {
                    let holder = holder.as_deref().unwrap_or("another");
                    self.report(|check| check.ready_but(format!("standby, {holder} leads")));
                }
                Err(CallError::Kube(source)) if refused(&source) => {
                    let (lease, identity) = (self.to_string(), self.identity.clone());
                    return Err(LeaseError::Refused { lease, identity, source });
                }
                Err(error) => {
                    tracing::warn!(lease = %self, %error, "cannot reach the Lease; retrying");
                    self.report(|check| check.not_ready("standby that cannot reach the Lease"));
                }
            }
            let pause = self.times.pace().mul_f64(RandomJitter.between(0.8, 1.2));
            tokio::select! {
                () = shutdown.cancelled() => return Err(LeaseError::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn attempt(&self, observed: &mut Option<Observed>) -> Result<Attempt, CallError> {
        let found = self.call(self.api.get_opt(&self.name)).await?;
        let record = match found {
            None => Record {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            },
            Some(record) => match record::standing(record.spec.as_ref(), &self.identity, observed, Instant::now()) {
                Standing::Free => record,
                Standing::HeldBy(holder) => return Ok(Attempt::HeldBy(Some(holder))),
            },
        };
        let existed = record.metadata.resource_version.is_some();
        let since = Instant::now();
        match self.write(&record::held(record, &self.identity, self.times.ttl, Timestamp::now())).await {
            Ok(record) => Ok(Attempt::Won(Box::new(Claim { record, since }))),
            Err(error) if error.code() == Some(409) || (existed && error.code() == Some(404)) => {
                Ok(Attempt::HeldBy(None))
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, record: &Record) -> Result<Record, CallError> {
        let params = PostParams::default();
        if record.metadata.resource_version.is_some() {
            self.call(self.api.replace(&self.name, &params, record)).await
        } else {
            self.call(self.api.create(&params, record)).await
        }
    }

    async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
        let limit = self.times.request();
        Ok(timeout(limit, call).await.map_err(|_| CallError::NoAnswer(limit))??)
    }

    fn lead(&self, claim: Claim) -> Leadership {
        tracing::info!(lease = %self, identity = self.identity, "leading");
        self.report(Check::ready);
        if let Some(metrics) = &self.metrics {
            metrics.leader(true);
        }
        let (state, lost) = watch::channel(None);
        let stop = CancellationToken::new();
        let renewal = tokio::spawn({
            let (lease, stop) = (self.clone(), stop.clone());
            async move {
                let Some(lost) = lease.renew(claim, &stop).await else { return };
                tracing::error!(error = %lost, "leadership was lost");
                lease.report(|check| check.not_ready("leadership was lost"));
                lease.step_down();
                state.send_replace(Some(lost));
            }
        });
        Leadership { lease: self.clone(), lost, stop, renewal: AbortOnDropHandle::new(renewal) }
    }

    /// Renews until that fails, or returns none once it is stopped. It finishes a write in progress first, so that no late
    /// write undoes the release.
    async fn renew(&self, mut claim: Claim, stop: &CancellationToken) -> Option<LeaseLost> {
        let lease = self.to_string();
        let mut next = claim.since + self.times.pace();
        let mut problem = "no time was left for a request".to_owned();
        loop {
            let claimed_until = claim.since + self.times.claim();
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep_until(next.min(claimed_until)) => {}
            }
            let since = Instant::now();
            if since >= claimed_until {
                return Some(LeaseLost::NotRenewed { lease, problem });
            }
            let record = record::held(claim.record.clone(), &self.identity, self.times.ttl, Timestamp::now());
            let written = tokio::select! {
                written = self.write(&record) => written,
                () = sleep_until(claimed_until) => return Some(LeaseLost::NotRenewed { lease, problem }),
            };
            match written {
                Ok(record) => {
                    claim = Claim { record, since };
                    next = since + self.times.pace();
                    continue;
                }
                // Another process holds the Lease, or an earlier write of this process arrived although its answer did
                // not, or somebody changed a label. The record shows which.
                Err(error) if error.code() == Some(409) => match self.call(self.api.get_opt(&self.name)).await {
                    Ok(None) => return Some(LeaseLost::Gone { lease }),
                    Ok(Some(record)) => match record::holder(record.spec.as_ref()) {
                        Some(holder) if holder == self.identity => {
                            claim.record = record;
                            next = Instant::now() + CONFLICT_PAUSE;
                            continue;
                        }
                        Some(holder) => return Some(LeaseLost::Taken { lease, holder: holder.to_owned() }),
                        None => return Some(LeaseLost::Gone { lease }),
                    },
                    Err(error) => problem = error.to_string(),
                },
                Err(error) if error.code() == Some(404) => return Some(LeaseLost::Gone { lease }),
                Err(error) => problem = error.to_string(),
            }
            tracing::warn!(%lease, error = problem, "cannot renew the Lease; retrying");
            next = Instant::now() + self.times.pace() / 2;
        }
    }

    /// Removes the holder from the record if it is still this process, so that a standby need not wait until it expires.
    async fn clear_holder(&self) -> Result<(), CallError> {
        match self.call(self.api.get_opt(&self.name)).await? {
            Some(record) if record::holder(record.spec.as_ref()) == Some(&self.identity) => {
                self.write(&record::emptied(record, Timestamp::now())).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn report(&self, say: impl FnOnce(&Check)) {
        if let Some(check) = &self.check {
            say(check);
        }
    }

    fn step_down(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.leader(false);
        }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("lease", &self.to_string())
            .field("identity", &self.identity)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// This process leads. If it is dropped without [`release`](Leadership::release), the Lease expires, as when the process is
/// killed.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
    lost: watch::Receiver<Option<LeaseLost>>,
    stop: CancellationToken,
    renewal: AbortOnDropHandle<()>,
}

impl Leadership {
    /// Resolves when leadership is lost, early enough for this process to end before another leads. It must end then.
    pub fn lost(&self) -> impl Future<Output = LeaseLost> + Send + use<> {
        let mut state = self.lost.clone();
        let stop = self.stop.clone();
        let lease = self.lease.to_string();
        async move {
            match state.wait_for(Option::is_some).await.map(|lost| lost.clone()) {
                Ok(Some(lost)) => lost,
                // A released Lease is not a lost one.
                _ if stop.is_cancelled() => std::future::pending().await,
                _ => LeaseLost::Broken { lease },
            }
        }
    }

    /// Stops renewing and releases the Lease, so that a standby leads at once. Call it when nothing that needs leadership
    /// runs any more. If the API server does not answer, that is logged, and the Lease expires.
    pub async fn release(self) {
        self.stop.cancel();
        let renewal_broke = self.renewal.await.is_err();
        self.lease.step_down();
        match self.lease.clear_holder().await {
            Ok(()) => tracing::info!(lease = %self.lease, renewal_broke, "released the Lease"),
            Err(error) => tracing::warn!(lease = %self.lease, %error, "cannot release the Lease; it will expire"),
        }
    }
}

/// A retry would not help.
fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 401 | 403 | 404 | 422))
}

#[cfg(test)]
mod tests;
