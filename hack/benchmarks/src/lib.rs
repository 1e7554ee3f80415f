//! Benchmarks of Landfall: what each measures is in its own module, and what they share in the others.
//!
//! Invariant: a figure is what was measured in this run, on this machine, with etcd that syncs each write, against
//! programs built with optimisation. A benchmark in which anything but the expected happened gives no figures.

pub mod api_server;
pub mod cli;
pub mod cluster;
pub mod cost;
pub mod figures;
pub mod floor;
pub mod http_load;
pub mod load;
pub mod memory;
mod objects;
pub mod process;
pub mod program;
pub mod push;
pub mod receiver;
pub mod reference;
pub mod tokens;

/// A benchmark gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// No API server could be had.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// The API server refused a request that was measured.
    #[error("the API server did not do what was measured")]
    Kubernetes(#[from] kube::Error),
    /// A server under load did not answer as it should.
    #[error(transparent)]
    Load(#[from] http_load::LoadError),
    /// A process under load could not be looked at.
    #[error(transparent)]
    Process(#[from] process::ProcessError),
    /// There is no process to measure.
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    /// There is no folder for what a process is given.
    #[error("no folder for keys could be made")]
    Folder(#[source] std::io::Error),
    /// The keys of webhooks are none.
    #[error(transparent)]
    Keys(#[from] landfall::webhook::RootKeyError),
    /// A reference, which runs as this program, did not do its work.
    #[error("the reference failed")]
    Reference(#[source] std::io::Error),
    /// There is no thread for a load.
    #[error("no thread for a load could be started")]
    Thread(#[source] std::io::Error),
    /// There is no simulated GitHub.
    #[error("the simulated GitHub did not start")]
    GitHub(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The audit log cannot be read.
    #[error(transparent)]
    Audit(#[from] landfall_cluster::AuditError),
    /// A user of the API server cannot be had.
    #[error(transparent)]
    Certificate(#[from] landfall_cluster::CertificateError),
    /// Something took too long.
    #[error("this took too long: {what}")]
    Late {
        /// The awaited event.
        what: String,
    },
    /// The chart has no limit where it is looked for.
    #[error("charts/landfall/values.yaml has no limits.memory in Mi on the line of `resources`")]
    NoLimit,
    /// A number is no id of GitHub's.
    #[error(transparent)]
    Id(#[from] landfall::ids::NotAnId),
    /// A figure is none.
    #[error(transparent)]
    Figures(#[from] figures::FiguresError),
}
