//! A real one-node Kubernetes, built from source, for the demo and the tests.
//!
//! Two forms: [`ApiServer`], an API server with etcd and controllers that lives within a test, and named clusters that
//! outlive the command that started them (`cargo cluster up`). Both start the same programs in the same way.

mod api;
mod api_server;
mod audit;
mod cache;
mod certificates;
pub mod cli;
mod cluster;
mod control_plane;
mod kubeconfig;
mod process;
mod programs;
mod tools;

pub use api_server::{ApiServer, ApiServerError, Options};
pub use audit::{AuditError, AuditLog, Entry, Mark};
pub use cache::{Cache, NoCache};
pub use certificates::CertificateError;
pub use cluster::{Cluster, ClusterError, Kind, Name};
pub use control_plane::StartError;
pub use programs::{ProgramError, kubectl};
pub use tools::{MissingTools, Tool};
