//! The cost of a load to the processes that it passes: the measured program, the API server and etcd.
//!
//! Invariant: processor time is what the kernel counted between the beginning and the end of the same load whose calls
//! are counted, so that a figure for each call has both from one measurement.

use std::time::Duration;

use landfall_cluster::ApiServer;

use crate::load::Measured;
use crate::process::{ProcessError, cpu_time};
use crate::{BenchmarkError, cluster};

/// The processes whose time is counted.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    own: Option<u32>,
    api_server: u32,
    etcd: u32,
}

/// Processor time of each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// That of the measured program; zero if the load goes to the API server directly.
    pub own: Duration,
    /// That of kube-apiserver.
    pub api_server: Duration,
    /// That of etcd.
    pub etcd: Duration,
}

impl Processes {
    /// Those of an API server alone.
    pub fn of(server: &ApiServer) -> Result<Self, cluster::ClusterError> {
        let (api_server, etcd) = (cluster::pid_of(server, "kube-apiserver")?, cluster::pid_of(server, "etcd")?);
        Ok(Self { own: None, api_server, etcd })
    }

    /// The same, with a program that uses the API server.
    #[must_use]
    pub fn with(self, pid: u32) -> Self {
        Self { own: Some(pid), ..self }
    }

    /// The time that they have used until now.
    pub fn cost(&self) -> Result<Cost, ProcessError> {
        let own = self.own.map(cpu_time).transpose()?.unwrap_or_default();
        Ok(Cost { own, api_server: cpu_time(self.api_server)?, etcd: cpu_time(self.etcd)? })
    }

    /// Runs a load and counts what it costs.
    pub async fn turn<E>(&self, load: impl Future<Output = Result<Measured, E>>) -> Result<Turn, BenchmarkError>
    where
        BenchmarkError: From<E>,
    {
        let before = self.cost()?;
        let measured = load.await?;
        Ok(Turn { measured, cost: self.cost()?.since(before) })
    }
}

impl Cost {
    /// The time used since an earlier count.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            api_server: self.api_server.saturating_sub(before.api_server),
            etcd: self.etcd.saturating_sub(before.etcd),
        }
    }

    /// The sum of two counts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { own: self.own + other.own, api_server: self.api_server + other.api_server, etcd: self.etcd + other.etcd }
    }
}

/// One load, and what it cost.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Its calls.
    pub measured: Measured,
    cost: Cost,
}

impl Turn {
    /// This and another turn of the same load.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { measured: self.measured.and(other.measured), cost: self.cost.and(other.cost) }
    }

    /// The measured program's processor time for each call, in milliseconds.
    #[must_use]
    pub fn own_ms(&self) -> f64 {
        self.each_ms(self.cost.own)
    }

    /// The API server's.
    #[must_use]
    pub fn api_server_ms(&self) -> f64 {
        self.each_ms(self.cost.api_server)
    }

    /// etcd's.
    #[must_use]
    pub fn etcd_ms(&self) -> f64 {
        self.each_ms(self.cost.etcd)
    }

    #[allow(clippy::cast_precision_loss, reason = "nobody makes 2^52 calls")]
    fn each_ms(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 / self.measured.calls() as f64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::load::{Until, drive};

    #[tokio::test]
    async fn the_time_of_a_load_is_counted_for_each_call() {
        let own = std::process::id();
        let processes = Processes { own: Some(own), api_server: own, etcd: own };
        let work = async |(): &mut (), _| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(20) {
                std::hint::black_box(began);
            }
            Ok::<_, BenchmarkError>(())
        };
        let turn = async || processes.turn(drive(&mut [()], Until::Calls(3), work)).await.unwrap();
        let both = turn().await.and(turn().await);
        assert_eq!(both.measured.calls(), 6);
        // The kernel counts in steps, and the other tests of this process count, too.
        assert!(both.own_ms() > 5.0 && both.api_server_ms() > 5.0 && both.etcd_ms() > 5.0, "{both:?}");
    }
}
