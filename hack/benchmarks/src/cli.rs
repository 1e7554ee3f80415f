//! The command line of `landfall-bench`: a command for each benchmark. `hack/bench` builds what is measured and calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::figures::FiguresError;
use crate::{BenchmarkError, api_server, memory, process, push, receiver, reference, tokens};

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
    /// The API server alone: the smallest writes and changes of status per second, and the time that one takes.
    ApiServer,
    /// The receiver against a plain one: deliveries stored per second, wrong signatures refused, memory.
    Receiver,
    /// Installation tokens against plain ones: time from cold, requests, memory, a restart.
    Tokens {
        /// How many tokens there are.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        count: u64,
        /// In how many namespaces they are. Default: one for each hundred.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=500))]
        namespaces: Option<u64>,
    },
    /// A push, from its delivery until the Deployment's template names the commit; first sight of many repositories.
    Push {
        /// How many repositories are followed.
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        count: u64,
    },
    /// The controller's most memory against the chart's limit, with many objects, and with 400 full ones beside them.
    Memory {
        /// How many tokens there are, and how many repositories.
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
        count: u64,
    },
    /// Run the plain receiver.
    #[command(hide = true)]
    PlainReceiver {
        /// The way to the API server.
        #[arg(long)]
        kubeconfig: PathBuf,
    },
    /// Run the plain tokens.
    #[command(hide = true)]
    PlainTokens(reference::tokens::Plain),
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
    process::raise_open_files();
    let each = Duration::from_secs(arguments.seconds);
    let figures = match arguments.benchmark {
        Benchmark::ApiServer => api_server::run(each).await?,
        Benchmark::Receiver => receiver::run(each).await?,
        Benchmark::Tokens { count, namespaces } => tokens::run(count, namespaces).await?,
        Benchmark::Push { count } => push::run(count, each).await?,
        Benchmark::Memory { count } => memory::run(count).await?,
        Benchmark::PlainReceiver { kubeconfig } => return Ok(reference::receiver::serve(&kubeconfig).await?),
        Benchmark::PlainTokens(plain) => return Ok(reference::tokens::publish(&plain).await?),
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
        for benchmark in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(script.contains(&format!("\n  [{}]=", benchmark.get_name())), "{}", benchmark.get_name());
        }
    }

    #[test]
    fn the_plain_tokens_read_the_options_that_they_are_given() {
        let plain = reference::tokens::Plain {
            kubeconfig: "a".into(),
            github: "http://127.0.0.1:1/api/v3".into(),
            app_id: 1,
            installation: 2,
            repository: "shop".into(),
            key_file: "b".into(),
            count: 3,
            namespaces: 4,
        };
        let words = ["landfall-bench".into(), "plain-tokens".into()].into_iter().chain(plain.to_arguments());
        let Benchmark::PlainTokens(read) = Arguments::parse_from(words).benchmark else { panic!("another command") };
        assert_eq!(format!("{read:?}"), format!("{plain:?}"));
    }
}
