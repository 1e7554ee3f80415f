//! A real one-node Kubernetes, built from source, for the demo and the tests.
//!
//! There are two forms: [`ApiServer`], an API server with etcd and controllers for one test, and named clusters that
//! outlive the command that started them (`cargo cluster up`). Both start the same programs in the same way.

mod api;
mod api_server;
mod audit;
mod cache;
mod certificates;
pub mod cli;
mod cluster;
mod command;
mod control_plane;
mod debian;
mod growing;
mod image;
mod kubeconfig;
mod namespaces;
mod node;
mod node_config;
mod process;
mod programs;
mod tools;

pub use api_server::{ApiServer, ApiServerError, Options};
pub use audit::{AuditError, AuditLog, Entry, Mark};
pub use cache::{Cache, NoCache};
pub use certificates::CertificateError;
pub use cluster::{Cluster, ClusterError, Kind, Name};
pub use command::CommandError;
pub use control_plane::StartError;
pub use growing::whole_lines;
pub use image::{ImageError, write_operator, write_plain, write_workspace};
pub use namespaces::NamespaceError;
pub use node::NodeError;
pub use process::Process;
pub use programs::{ProgramError, helm, kubectl};
pub use tools::{MissingTools, Tool};
