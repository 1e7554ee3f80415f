//! The command `cargo cluster`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    landfall_cluster::cli::run().await
}
