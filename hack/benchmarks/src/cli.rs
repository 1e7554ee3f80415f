//! The command line of `landfall-bench`: a command for each benchmark. `hack/bench` builds what is measured and calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::figures::FiguresError;
use crate::{BenchmarkError, api_server, receiver};

/// Measures Landfall on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Write the figures to this file, too, as one flat JSON object.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long each measurement takes.
    #[arg(long, global = true, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

#[derive(Subcommand)]
enum Benchmark {
    /// What the API server does alone: changes of status per second, and how long one takes.
    ApiServer,
    /// What the receiver does: deliveries stored per second, wrong signatures refused, memory.
    Receiver,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Benchmark(#[from] BenchmarkError),
    #[error(transparent)]
    Figures(#[from] FiguresError),
}

/// Runs the program.
pub async fn main() -> ExitCode {
    match measure(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut text = format!("landfall-bench: {failure}");
            let mut source = std::error::Error::source(&failure);
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: Arguments) -> Result<(), Failure> {
    let each = Duration::from_secs(arguments.seconds);
    let figures = match arguments.benchmark {
        Benchmark::ApiServer => api_server::run(each).await?,
        Benchmark::Receiver => receiver::run(each).await?,
    };
    print!("{figures}");
    if let Some(path) = arguments.json {
        figures.write(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_script_lists_what_there_is() {
        let script = include_str!("../../bench");
        Arguments::command().debug_assert();
        for benchmark in Arguments::command().get_subcommands() {
            assert!(script.contains(&format!("\n  [{}]=", benchmark.get_name())), "{}", benchmark.get_name());
        }
    }
}
