//! The command line: one binary, a command for each process.
//!
//! Invariant: what is wrong with the configuration is said before anything is started, with the option's name.

mod webhook;

use crate::controller::{Config, Controller, Environment};
use crate::git::AllowedHosts;
use crate::github::{HttpsConnect, PlainHttp};
use crate::runtime::clock::SystemClock;
use crate::runtime::jitter::RandomJitter;
use crate::runtime::lease::{self, LeaseTimes};
use crate::runtime::shutdown::on_signal;
use crate::runtime::telemetry::{self, LogFormat};
use crate::{api, manifests};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long one request to Kubernetes may take, watches excepted.
const KUBERNETES_TIMEOUT: Duration = Duration::from_secs(15);

/// Ties GitHub to a Kubernetes cluster through a GitHub App.
#[derive(Parser)]
#[command(name = "landfall", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controllers: one of several replicas leads, the others stand by.
    Controller(ControllerArgs),
    /// Run every process of Landfall in one, without election and with readable logs: for development.
    All(ControllerArgs),
    /// Print the custom resource definitions as YAML, for kubectl apply.
    Crds,
    /// Print RBAC rules, as YAML: what the controllers need, and what people are given.
    Rbac {
        /// Which set of rules.
        #[arg(value_enum)]
        set: manifests::RuleSet,
    },
    /// See and rotate what webhooks are signed with, with your own rights in the cluster.
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Print a completion script.
    Completion {
        /// For which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct ControllerArgs {
    /// The operator's own namespace: the credentials of the Apps and the Lease are there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// The name of this process among several. Default: the pod's name, else the machine's.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "LANDFALL_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    health_address: SocketAddr,
    /// Read and write Secrets of tokens in this namespace only. May be given several times, or several with commas. Default: in all.
    #[arg(long = "secret-namespace", env = "LANDFALL_SECRET_NAMESPACES", value_delimiter = ',')]
    secret_namespaces: Vec<String>,
    /// Accept plain http in a GitHubApp's spec.apiUrl also for hosts other than loopback. Tokens and keys then cross the network in the clear.
    #[arg(long, env = "LANDFALL_INSECURE_DEVELOPMENT")]
    insecure_development: bool,
    /// Let a ProjectRepository's spec.source.url name this host: git.example.com, git.example.com:8443 or *.example.com. May be given several times, or several with commas. Default: none.
    #[arg(long = "allowed-git-host", env = "LANDFALL_ALLOWED_GIT_HOSTS", value_delimiter = ',')]
    allowed_git_hosts: Vec<String>,
    /// Let those hosts be in private networks. Link-local and metadata addresses are refused all the same.
    #[arg(long, env = "LANDFALL_ALLOW_PRIVATE_GIT_ADDRESSES")]
    allow_private_git_addresses: bool,
    /// Do not elect a leader: for one process alone.
    #[arg(long, env = "LANDFALL_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module as in landfall=debug,kube=info.
    #[arg(long, env = "LANDFALL_LOG", default_value = "info")]
    log_level: String,
    /// How it is logged. Default: json; text for `landfall all`.
    #[arg(long, env = "LANDFALL_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

/// Runs the command that was given; what went wrong is printed with its causes.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Controller(args) => start(args, LogFormat::Json, true),
        Command::All(args) => start(args, LogFormat::Text, false),
        Command::Crds => {
            print!("{}", manifests::yaml(&api::crds())?);
            Ok(())
        }
        Command::Rbac { set } => {
            print!("{}", manifests::yaml(&[set.rules()])?);
            Ok(())
        }
        Command::Webhook(command) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(webhook::run(command))
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "landfall", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn start(args: ControllerArgs, format: LogFormat, elects: bool) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::start(&args.log_level, args.log_format.unwrap_or(format))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(control(args, elects))
}

async fn control(args: ControllerArgs, elects: bool) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = on_signal()?;
    let mut kube = kube::Config::infer().await.map_err(|error| {
        format!("no cluster to talk to: neither a pod's service account nor a kubeconfig ($KUBECONFIG, ~/.kube/config) can be used: {error}")
    })?;
    let times = LeaseTimes::default();
    let lease =
        if elects && !args.no_leader_election { Some((lease::client(kube.clone(), times)?, times)) } else { None };
    // Failures come back to the due queue, which tries again; kube's own retries would go on for up to 1000 seconds.
    kube.default_retry = false;
    kube.write_timeout = Some(KUBERNETES_TIMEOUT);
    kube.connect_timeout = Some(KUBERNETES_TIMEOUT);
    let identity = args.identity.or_else(hostname).unwrap_or_else(|| format!("landfall-{}", std::process::id()));
    let hosts: Vec<_> = args.allowed_git_hosts.into_iter().filter(|host| !host.is_empty()).collect();
    let git_hosts = AllowedHosts::parse(&hosts, args.allow_private_git_addresses)
        .map_err(|error| format!("--allowed-git-host: {error}"))?;
    let config = Config {
        git_hosts,
        namespace: args.namespace,
        identity,
        health_address: args.health_address,
        secret_namespaces: args.secret_namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
        plain_http: if args.insecure_development { PlainHttp::Anywhere } else { PlainHttp::OnLoopback },
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.namespace,
        identity = config.identity,
        "starting"
    );
    let environment = Environment {
        kube: kube::Client::try_from(kube)?,
        lease,
        clock: Arc::new(SystemClock),
        jitter: Arc::new(RandomJitter),
        github: Arc::new(HttpsConnect::new()),
        shutdown,
        #[cfg(feature = "sabotage")]
        sabotage: crate::controller::Sabotage::default(),
    };
    let controller = Controller::start(config, environment).await?;
    tracing::info!(address = %controller.health_address(), "serving health and metrics");
    controller.run().await?;
    Ok(())
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_value_names_its_option() {
        let refused = Cli::try_parse_from(["landfall", "controller", "--health-address", "here"]);
        assert!(refused.err().unwrap().to_string().contains("--health-address"));
    }
}
