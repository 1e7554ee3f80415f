//! `landfall-bench`: the benchmarks as a program.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    landfall_bench::cli::main().await
}
