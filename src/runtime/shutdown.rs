//! The end of a process: a signal asks for it, or one of its background tasks ended.
//!
//! Invariant: no background task ends unnoticed. A process whose watch or queue has stopped would look healthy and do
//! nothing; so the end of any task ends the process, with an error that names the task.

use std::{collections::HashMap, future::Future, io, time::Duration};

use futures::FutureExt as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// The error of a background task.
pub type TaskFailure = Box<dyn std::error::Error + Send + Sync>;

/// The reason why the process ends without a signal.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    #[error("cannot listen for SIGTERM and SIGINT")]
    Signals(#[source] io::Error),
    #[error("{task} failed")]
    Failed {
        task: &'static str,
        #[source]
        source: TaskFailure,
    },
    #[error("{task} ended before the process was asked to stop")]
    Ended { task: &'static str },
    #[error("{task} panicked")]
    Panicked {
        task: &'static str,
        #[source]
        source: JoinError,
    },
    #[error("still running {grace:?} after shutdown began: {tasks}")]
    NotStopped { tasks: String, grace: Duration },
}

/// A token that the first SIGTERM or SIGINT cancels. The second ends the process at once, with the exit status that a shell
/// gives for the signal.
pub fn on_signal() -> Result<CancellationToken, ShutdownError> {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    tokio::spawn(async move {
        let (name, _) = signals.next().await;
        tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        cancel.cancel();
        let (name, status) = signals.next().await;
        tracing::warn!(signal = name, "a second signal ends the process");
        std::process::exit(status);
    });
    Ok(shutdown)
}

/// A token that the first SIGTERM or SIGINT cancels. Further signals are ignored: they must not cut short the work at the
/// end.
pub fn on_first_signal() -> Result<CancellationToken, ShutdownError> {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let cancel = shutdown.clone();
    tokio::spawn(async move {
        loop {
            signals.next().await;
            cancel.cancel();
        }
    });
    Ok(shutdown)
}

/// The signals that ask a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, ShutdownError> {
        let listen = |kind| signal(kind).map_err(ShutdownError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next signal, and the exit status that a shell gives for it.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 128 + SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", 128 + SignalKind::interrupt().as_raw_value()),
        }
    }
}

/// The background tasks of a process. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    running: JoinSet<Result<(), TaskFailure>>,
    names: HashMap<Id, &'static str>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// Tasks watch `shutdown`; the end of one of them cancels it.
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { running: JoinSet::new(), names: HashMap::new(), shutdown }
    }

    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task that runs until shutdown.
    pub fn spawn<E: Into<TaskFailure>>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.running.spawn(task.map(|result| result.map_err(Into::into)));
        self.names.insert(handle.id(), name);
    }

    /// Waits for shutdown, which the end of a task causes as well. Then waits up to `grace` for all tasks to end.
    ///
    /// # Errors
    /// The first task that failed, panicked or ended before shutdown; otherwise the tasks that did not end in time.
    pub async fn supervise(mut self, grace: Duration) -> Result<(), ShutdownError> {
        let asked = self.shutdown.clone();
        let mut first_failure = tokio::select! {
            biased;
            () = asked.cancelled() => None,
            ended = self.next(), if !self.names.is_empty() => ended.and_then(|(task, failure)| failure.or(Some(ShutdownError::Ended { task }))),
        };
        self.shutdown.cancel();
        let finish = async {
            while let Some((_, failure)) = self.next().await {
                if let Some(failure) = failure {
                    tracing::warn!(error = %failure, "a task failed during shutdown");
                    first_failure.get_or_insert(failure);
                }
            }
        };
        let in_time = tokio::time::timeout(grace, finish).await.is_ok();
        match first_failure {
            Some(failure) => Err(failure),
            None if in_time => Ok(()),
            None => {
                let mut tasks: Vec<&str> = self.names.into_values().collect();
                tasks.sort_unstable();
                Err(ShutdownError::NotStopped { tasks: tasks.join(", "), grace })
            }
        }
    }

    /// The next task that ends, with its failure. None when no task is left.
    async fn next(&mut self) -> Option<(&'static str, Option<ShutdownError>)> {
        let ended = self.running.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).unwrap_or("a task");
        let failure = match ended {
            Ok((_, Ok(()))) => None,
            Ok((_, Err(source))) => Some(ShutdownError::Failed { task, source }),
            Err(source) => Some(ShutdownError::Panicked { task, source }),
        };
        Some((task, failure))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GRACE: Duration = Duration::from_mins(1);

    async fn until(shutdown: CancellationToken) -> Result<(), Infallible> {
        shutdown.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_process_ends_once_its_tasks_have_ended() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let shutdown = tasks.shutdown();
        tasks.spawn("the due queue", until(shutdown.clone()));
        shutdown.cancel();
        tasks.supervise(GRACE).await.expect("ends well");
    }

    #[tokio::test]
    async fn a_process_without_tasks_still_waits_for_shutdown() {
        let shutdown = CancellationToken::new();
        let ended = Tasks::new(shutdown.clone()).supervise(GRACE);
        tokio::pin!(ended);
        assert!(futures::poll!(&mut ended).is_pending());
        shutdown.cancel();
        ended.await.expect("ends well");
    }

    #[tokio::test]
    async fn a_signal_asks_the_process_to_end() {
        let shutdown = on_signal().expect("listens");
        assert!(!shutdown.is_cancelled());
        let process = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &process]).status().expect("kill runs");
        assert!(sent.success());
        tokio::time::timeout(GRACE, shutdown.cancelled()).await.expect("cancelled");
    }

    #[tokio::test]
    async fn a_task_that_ends_stops_the_others_and_is_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let shutdown = tasks.shutdown();
        tasks.spawn("the due queue", until(shutdown.clone()));
        tasks.spawn("the watch of Secrets", async { Ok::<_, Infallible>(()) });
        let error = tasks.supervise(GRACE).await.expect_err("a task ended");
        assert!(error.to_string().starts_with("the watch of Secrets ended"), "{error}");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_are_named_with_their_cause() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("the server", async { Err(io::Error::other("no more sockets")) });
        let error = tasks.supervise(GRACE).await.expect_err("a task failed");
        assert_eq!(error.to_string(), "the server failed");
        assert_eq!(std::error::Error::source(&error).map(ToString::to_string).as_deref(), Some("no more sockets"));

        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn::<Infallible>("the server", async { panic!("told to") });
        let error = tasks.supervise(GRACE).await.expect_err("a task panicked");
        assert_eq!(error.to_string(), "the server panicked");
    }

    #[tokio::test]
    async fn tasks_that_do_not_end_in_time_are_named() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("the server", std::future::pending::<Result<(), Infallible>>());
        tasks.spawn("the lease", std::future::pending::<Result<(), Infallible>>());
        let shutdown = tasks.shutdown();
        tasks.spawn("the due queue", until(shutdown.clone()));
        shutdown.cancel();
        let error = tasks.supervise(Duration::from_millis(50)).await.expect_err("two go on");
        assert_eq!(error.to_string(), "still running 50ms after shutdown began: the lease, the server");
    }
}
