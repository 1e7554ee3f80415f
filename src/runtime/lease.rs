//! The election of one leader by a Lease (`coordination.k8s.io/v1`).
//!
//! Invariant: two processes never both believe that they lead. It rests on three things:
//!
//! - Every write is a replacement with the `resourceVersion` that was read, so of two writers one gets a 409.
//! - A holder believes in its lease for two thirds of the time to live, counted from before it *sent* its last
//!   successful write. Who waits for it to expire counts the whole time to live from after it *received* a record that
//!   did not change since. Both count on their own monotonic clock; wall clocks are written into the record for people
//!   and never compared.
//! - Who has lost leadership does not try again: the process ends ([`Leadership::lost`]).
//!
//! Without it two operators could mint, publish and revoke each other's tokens.
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

/// The time to live that suits an operator: a leader that died is replaced within about 18 seconds.
pub const TTL: Duration = Duration::from_secs(15);

/// How long a renewal that met a 409 of another's making waits before it tries again.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// The times of an election, all from the time to live.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    ttl: Duration,
}

impl LeaseTimes {
    /// `ttl` is what the record says in whole seconds, at least one: after so long without a renewal others may lead.
    #[must_use]
    pub fn of_ttl(ttl: Duration) -> Self {
        Self { ttl: Duration::from_secs(ttl.as_secs().max(1)) }
    }

    /// For how long after a successful write its sender believes that it leads.
    fn claim(self) -> Duration {
        self.ttl * 2 / 3
    }

    /// Between renewals, and between looks of who waits.
    fn pace(self) -> Duration {
        self.ttl / 5
    }

    /// For one request to the API server.
    fn request(self) -> Duration {
        self.ttl / 5
    }
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::of_ttl(TTL)
    }
}

/// Why leadership was not acquired.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The process is to end.
    #[error("stopped while waiting for leadership")]
    Stopped,
    /// The API server refuses, and will go on to.
    #[error(
        "the API server refuses to let {identity} use the Lease {lease}: get, create and update on leases.coordination.k8s.io must be granted in its namespace, which must exist"
    )]
    Refused {
        /// Namespace and name.
        lease: String,
        /// Who asked.
        identity: String,
        /// What it says.
        #[source]
        source: kube::Error,
    },
}

/// Why leadership ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseLost {
    /// Another process holds the Lease.
    #[error("{holder} took over the Lease {lease}")]
    Taken {
        /// Namespace and name.
        lease: String,
        /// Who holds it now.
        holder: String,
    },
    /// Someone deleted the Lease or emptied it.
    #[error("the Lease {lease} was deleted or emptied")]
    Gone {
        /// Namespace and name.
        lease: String,
    },
    /// It could not be renewed before another may take it.
    #[error("the Lease {lease} could not be renewed in time: {problem}")]
    NotRenewed {
        /// Namespace and name.
        lease: String,
        /// What kept it from being renewed, at last.
        problem: String,
    },
    /// The renewal itself ended, by a panic.
    #[error("the renewal of the Lease {lease} broke down")]
    Broken {
        /// Namespace and name.
        lease: String,
    },
}

/// A client for the Lease alone: kube's own retries, of up to 1000 seconds, are off, and so is waiting for longer than a
/// renewal can.
pub fn client(mut config: kube::Config, times: LeaseTimes) -> kube::Result<kube::Client> {
    config.default_retry = false;
    config.connect_timeout = Some(times.request());
    config.read_timeout = Some(times.request());
    config.write_timeout = Some(times.request());
    // Else the time that a pooled connection lay idle would count as the answer's.
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

/// A record that was written by us, and when the writing began.
struct Claim {
    record: Record,
    since: Instant,
}

/// What one try to acquire came to.
enum Attempt {
    Won(Box<Claim>),
    /// Another holds the Lease, or was faster; who, if known.
    HeldBy(Option<String>),
}

/// How one call for the Lease failed.
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
    /// A candidate. `client` is one that [`client`] made. `identity` tells people who it is, as a pod's name does; a
    /// random end makes it this candidate's alone, since a record with its identity is taken for its own, and two
    /// processes on one machine would otherwise both lead.
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

    /// Says in a readiness check and a gauge who leads.
    #[must_use]
    pub fn reporting(mut self, check: Check, metrics: Metrics) -> Self {
        self.check = Some(check);
        self.metrics = Some(metrics);
        self
    }

    /// Waits until this process leads.
    ///
    /// # Errors
    /// When the process is to end, or the API server refuses for good. What passes is logged and tried again.
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
                    tracing::warn!(lease = %self, %error, "cannot reach the Lease, trying again");
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
        let (state, watched) = watch::channel(Held { until: claim.since + self.times.claim(), lost: None });
        let stop = CancellationToken::new();
        let renewal = tokio::spawn({
            let (lease, stop) = (self.clone(), stop.clone());
            async move {
                let Some(lost) = lease.renew(claim, &state, &stop).await else { return };
                tracing::error!(error = %lost, "leadership was lost");
                lease.report(|check| check.not_ready("leadership was lost"));
                lease.step_down();
                state.send_modify(|held| held.lost = Some(lost));
            }
        });
        Leadership { lease: self.clone(), state: watched, stop, renewal: AbortOnDropHandle::new(renewal) }
    }

    /// Renews until that fails, or until it is stopped, which gives none. A write under way is finished first, so that
    /// no late one meets the giving back.
    async fn renew(
        &self,
        mut claim: Claim,
        state: &watch::Sender<Held>,
        stop: &CancellationToken,
    ) -> Option<LeaseLost> {
        let lease = self.to_string();
        let mut next = claim.since + self.times.pace();
        let mut problem = "no time was left for a try".to_owned();
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
                    state.send_modify(|held| held.until = since + self.times.claim());
                    next = since + self.times.pace();
                    continue;
                }
                // Either another holds it, or an earlier write of ours arrived though its answer did not, or someone
                // changed a label: the record tells.
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
            tracing::warn!(%lease, error = problem, "the Lease was not renewed, trying again");
            next = Instant::now() + self.times.pace() / 2;
        }
    }

    /// Empties the record if it is still ours, so that another need not wait for it to expire.
    async fn give_back(&self) -> Result<(), CallError> {
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

/// That this process leads. Dropped without [`release`](Leadership::release), the Lease is left to expire, as when the
/// process is killed.
#[derive(Debug)]
pub struct Leadership {
    lease: Lease,
    state: watch::Receiver<Held>,
    stop: CancellationToken,
    renewal: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    lost: Option<LeaseLost>,
}

impl Leadership {
    /// Whether this process leads at this moment. It knows what a process that was suspended has not noticed yet, so it
    /// is worth asking right before an effect that nothing else guards.
    #[must_use]
    pub fn held(&self) -> bool {
        let state = self.state.borrow();
        state.lost.is_none() && Instant::now() < state.until
    }

    /// Resolves when leadership is lost, in time for this process to stop before another leads. The process must end.
    pub fn lost(&self) -> impl Future<Output = LeaseLost> + Send + use<> {
        let mut state = self.state.clone();
        let stop = self.stop.clone();
        let lease = self.lease.to_string();
        async move {
            match state.wait_for(|held| held.lost.is_some()).await.map(|held| held.lost.clone()) {
                Ok(Some(lost)) => lost,
                // Given back is not lost.
                _ if stop.is_cancelled() => std::future::pending().await,
                _ => LeaseLost::Broken { lease },
            }
        }
    }

    /// Stops renewing and gives the Lease back, so that a standby leads at once. Call it when nothing that needs
    /// leadership runs any more. If it cannot be given back, that is logged, and it expires.
    pub async fn release(self) {
        self.stop.cancel();
        let renewal_broke = self.renewal.await.is_err();
        self.lease.step_down();
        match self.lease.give_back().await {
            Ok(()) => tracing::info!(lease = %self.lease, renewal_broke, "gave up leadership"),
            Err(error) => tracing::warn!(lease = %self.lease, %error, "the Lease was not given back and will expire"),
        }
    }
}

/// Whether the API server says that asking again is of no use.
fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 401 | 403 | 404 | 422))
}

#[cfg(test)]
mod tests;
