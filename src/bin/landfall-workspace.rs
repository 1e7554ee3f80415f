//! The `landfall-workspace` binary: `landfall workspace`, and nothing else of Landfall.

use std::process::ExitCode;

fn main() -> ExitCode {
    landfall::cli::workspace()
}
