//! `github-sim`: the simulator as a program.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use github_sim::{Options, Seed, SeedError, Sim, Site, StartError};

/// Simulates GitHub: REST, GraphQL, git over HTTPS and webhooks on one port, with a control API under /_sim.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Listen on this address; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Serve TLS, with a certificate of an authority that the simulator makes at its start.
    #[arg(long)]
    tls: bool,
    /// Begin with the objects in this file (hack/github-sim/seed.example.yaml shows everything that it can contain).
    #[arg(long, value_name = "FILE.yaml", required_unless_present = "completions")]
    seed: Option<PathBuf>,
    /// Keep the git directories in this directory instead of a temporary one.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Write the authority's certificate to this file, or with `-` to standard output; /_sim/ca serves it too.
    #[arg(long, visible_alias = "print-ca", value_name = "FILE", requires = "tls")]
    ca_file: Option<PathBuf>,
    /// Add these names and addresses to the certificate.
    #[arg(long, value_name = "NAME", num_args = 1.., requires = "tls")]
    tls_san: Vec<String>,
    /// Begin the URLs in answers with this base, if clients reach the simulator by another name.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Accept certificates of webhook receivers from this authority (PEM), too.
    #[arg(long, value_name = "FILE")]
    webhook_ca: Option<PathBuf>,
    /// Connect deliveries for a hook's host and port to another address; the certificate must still be for the host.
    #[arg(long, value_name = "HOST:PORT=ADDRESS:PORT", value_parser = resolve)]
    webhook_resolve: Vec<(String, SocketAddr)>,
    /// Log requests as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Print the completions of a shell and end.
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
}

/// The reason that the program ends before it serves a request.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot read the seed")]
    Seed(#[from] SeedError),
    #[error("cannot start")]
    Start(#[from] StartError),
    #[error("{path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for a signal")]
    Signal(#[source] io::Error),
}

/// Reads `HOST:PORT=ADDRESS:PORT`.
fn resolve(text: &str) -> Result<(String, SocketAddr), String> {
    let (asked, address) = text.split_once('=').ok_or("it has no =")?;
    if asked.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(format!("{asked:?} names no port"));
    }
    let address = address.parse().map_err(|_| format!("{address:?} is no address and port"))?;
    Ok((asked.to_owned(), address))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut Arguments::command(), "github-sim", &mut io::stdout());
        return ExitCode::SUCCESS;
    }
    log(arguments.log_json);
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut text = format!("github-sim: {failure}");
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

async fn serve(arguments: Arguments) -> Result<(), Failure> {
    let seed = arguments.seed.as_deref().map_or_else(|| Ok(Seed::default()), Seed::from_file)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { path, source }
    };
    let webhook_ca = match &arguments.webhook_ca {
        Some(path) => Some(std::fs::read_to_string(path).map_err(file(path))?),
        None => None,
    };
    let (tls_names, base_url, state_dir) = (arguments.tls_san, arguments.base_url, arguments.state_dir);
    let options = Options { listen: arguments.listen, tls: arguments.tls, seed };
    let webhook_resolve = arguments.webhook_resolve.into_iter().collect();
    let site = Site { tls_names, base_url, state_dir, webhook_ca, webhook_resolve };
    let sim = Sim::start_at(options, site).await?;
    match arguments.ca_file.as_deref() {
        Some(path) if path == Path::new("-") => print!("{}", sim.ca_pem()),
        Some(path) => std::fs::write(path, sim.ca_pem()).map_err(file(path))?,
        None => {}
    }
    println!("github-sim listens on {}, REST at {} and {}", sim.address(), sim.base_url(), sim.api_url());
    stopped().await.map_err(Failure::Signal)
}

async fn stopped() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}

fn log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("github_sim=info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    if json { log.json().init() } else { log.init() }
}
