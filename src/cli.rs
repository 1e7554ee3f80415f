//! The command line: a command for each process. What pods run is a binary of its own, which this one goes on as.
//!
//! Invariant: what is wrong with the configuration is said before anything is started, with the option's name.

mod webhook;
mod workspace;

use crate::features::Features;
use crate::git::AllowedHosts;
use crate::github::{HttpsConnect, PlainHttp};
use crate::guards::Guards;
use crate::operator::{Config, Controller, Environment};
use crate::receiver::{self, InboxLimits, KeySource, Receiver, ServerLimits};
use crate::runtime::clock::SystemClock;
use crate::runtime::jitter::RandomJitter;
use crate::runtime::lease::{self, LeaseTimes};
use crate::runtime::shutdown::on_signal;
use crate::runtime::telemetry::{self, LogFormat};
use crate::settings::WorkspaceSettings;
use crate::{controllers, manifests, metrics_reference};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
    /// Run the receiver of webhook deliveries: every replica serves.
    Receiver(ReceiverArgs),
    /// Run every process of Landfall in one, without election and with readable logs: for development.
    All(AllArgs),
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
    /// Clone a workspace's repository, answer its git, and save its work: what runs inside of a workspace's pod.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Workspace {
        /// What to do: `landfall workspace --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Print the reference of all metrics, in Markdown.
    #[command(hide = true)]
    MetricsReference,
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
    /// Accept plain http in a GitHubApp's spec.apiURL also for hosts other than loopback. Tokens and keys then cross the network in the clear.
    #[arg(long, env = "LANDFALL_INSECURE_DEVELOPMENT")]
    insecure_development: bool,
    /// Let a ProjectRepository's spec.source.url name this host: git.example.com, git.example.com:8443 or *.example.com. May be given several times, or several with commas. Default: none.
    #[arg(long = "allowed-git-host", env = "LANDFALL_ALLOWED_GIT_HOSTS", value_delimiter = ',')]
    allowed_git_hosts: Vec<String>,
    /// Let those hosts be in private networks. Link-local and metadata addresses are refused all the same.
    #[arg(long, env = "LANDFALL_ALLOW_PRIVATE_GIT_ADDRESSES")]
    allow_private_git_addresses: bool,
    #[command(flatten)]
    workspaces: WorkspaceArgs,
    /// Do not elect a leader: for one process alone.
    #[arg(long, env = "LANDFALL_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct WorkspaceArgs {
    /// The image of Landfall's own containers in the pods of workspaces: this program's.
    #[arg(long = "image", env = "LANDFALL_IMAGE", default_value = "localhost/landfall:dev")]
    image: String,
    /// The image that a Workspace is worked in unless it names one: it has a shell, and git if that is to be used.
    #[arg(long, env = "LANDFALL_WORKSPACE_IMAGE", default_value = "localhost/landfall-workspace:dev")]
    workspace_image: String,
    /// When these two are pulled.
    #[arg(long, env = "LANDFALL_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Where reports of workspaces are received, in plain http: they are shown, not trusted.
    #[arg(long, env = "LANDFALL_REPORTS_ADDRESS", default_value = "0.0.0.0:8082")]
    reports_address: SocketAddr,
    /// The address of that as pods reach it: `http://SERVICE.NAMESPACE.svc:8082/v1/report`. Without it they send none.
    #[arg(long, env = "LANDFALL_REPORTS_URL")]
    reports_url: Option<String>,
}

impl WorkspaceArgs {
    fn settings(self) -> WorkspaceSettings {
        WorkspaceSettings {
            image: self.image,
            workspace_image: self.workspace_image,
            pull_policy: self.image_pull_policy,
            reports_url: self.reports_url.filter(|url| !url.is_empty()),
        }
    }
}

#[derive(Args)]
struct LogArgs {
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module as in landfall=debug,kube=info.
    #[arg(long, env = "LANDFALL_LOG", default_value = "info")]
    log_level: String,
    /// How it is logged. Default: json; text for `landfall all`.
    #[arg(long, env = "LANDFALL_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct ReceiverArgs {
    /// Where deliveries are received, in plain http: TLS is the ingress's.
    #[arg(long, env = "LANDFALL_RECEIVER_ADDRESS", default_value = "0.0.0.0:8081")]
    address: SocketAddr,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "LANDFALL_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    health_address: SocketAddr,
    /// The directory in which the Secret landfall-webhook-keys is mounted. It is read again when it changes.
    #[arg(long, env = "LANDFALL_KEY_DIRECTORY", default_value = "/etc/landfall/webhook-keys")]
    key_directory: PathBuf,
    #[command(flatten)]
    targets: TargetArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct AllArgs {
    #[command(flatten)]
    controller: ControllerArgs,
    /// Where deliveries are received, in plain http.
    #[arg(long, env = "LANDFALL_RECEIVER_ADDRESS", default_value = "0.0.0.0:8081")]
    receiver_address: SocketAddr,
    #[command(flatten)]
    targets: TargetArgs,
}

#[derive(Args)]
struct TargetArgs {
    /// Deliveries per second that are stored for one repository; an App's own get ten times as many.
    #[arg(long, env = "LANDFALL_TARGET_RATE", default_value_t = 10.0, value_parser = positive)]
    target_rate: f64,
    /// How many of them at once.
    #[arg(long, env = "LANDFALL_TARGET_BURST", default_value_t = 100.0, value_parser = positive)]
    target_burst: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number >= 0.001 { Ok(number) } else { Err("must be 0.001 or more".to_owned()) }
}

/// The same name, with the one command of the program that pods run.
#[derive(Parser)]
#[command(name = "landfall", bin_name = "landfall", version, propagate_version = true)]
struct InPod {
    #[command(subcommand)]
    command: InPodCommand,
}

#[derive(Subcommand)]
enum InPodCommand {
    /// Clone a workspace's repository, answer its git, and save its work: what runs inside of a workspace's pod.
    #[command(subcommand)]
    Workspace(workspace::Command),
}

/// The program that pods run beside [`main`]'s: a process's memory is for the most part pages of its program, in steps of many, and
/// an agent that were part of all of Landfall would have twice as much.
const WORKSPACE_PROGRAM: &str = "landfall-workspace";

/// Runs the command that was given; what went wrong is printed with its causes.
#[must_use]
pub fn main() -> ExitCode {
    ended(run(Cli::parse().command))
}

/// Runs the command of `landfall workspace` that was given; what went wrong is printed with its causes.
#[must_use]
pub fn workspace() -> ExitCode {
    let InPodCommand::Workspace(command) = InPod::parse().command;
    ended(workspace::run(command))
}

fn ended(ended: Result<ExitCode, Box<dyn std::error::Error>>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("landfall: {}", with_causes(&*error));
        ExitCode::FAILURE
    })
}

/// Goes on as `landfall workspace`, from the same folder; returns if it cannot.
fn become_workspace(words: &[OsString]) -> Box<dyn std::error::Error> {
    let program = match std::env::current_exe() {
        Ok(own) => own.with_file_name(WORKSPACE_PROGRAM),
        Err(error) => return format!("where this program is cannot be told: {error}").into(),
    };
    let error = std::process::Command::new(&program).arg0("landfall").arg("workspace").args(words).exec();
    format!("{} cannot be run, which belongs beside this program: {error}", program.display()).into()
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Workspace { words } => return Err(become_workspace(&words)),
        Command::Controller(args) => {
            telemetry::start(&args.log.log_level, args.log.log_format.unwrap_or(LogFormat::Json))?;
            runtime(None)?.block_on(async { control(args, true, on_signal()?).await })
        }
        Command::Receiver(args) => {
            telemetry::start(&args.log.log_level, args.log.log_format.unwrap_or(LogFormat::Json))?;
            runtime(Some(RECEIVER_THREADS))?.block_on(receive(args))
        }
        Command::All(args) => {
            let log = &args.controller.log;
            telemetry::start(&log.log_level, log.log_format.unwrap_or(LogFormat::Text))?;
            runtime(None)?.block_on(all(args))
        }
        Command::Crds => {
            print!("{}", manifests::yaml(&controllers::definitions())?);
            Ok(())
        }
        Command::Rbac { set } => {
            print!("{}", manifests::yaml(&[set.rules(&Features::default())])?);
            Ok(())
        }
        Command::MetricsReference => {
            print!("{}", metrics_reference::page()?);
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
    .map(|()| ExitCode::SUCCESS)
}

/// The receiver's threads: it waits for the API server most of its time, and each thread has its share of memory.
const RECEIVER_THREADS: usize = 2;

fn runtime(threads: Option<usize>) -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()
}

async fn control(
    args: ControllerArgs,
    elects: bool,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut kube = kubernetes().await?;
    let times = LeaseTimes::default();
    let lease =
        if elects && !args.no_leader_election { Some((lease::client(kube.clone(), times)?, times)) } else { None };
    bounded(&mut kube);
    let identity = args.identity.or_else(hostname).unwrap_or_else(|| format!("landfall-{}", std::process::id()));
    let hosts: Vec<_> = args.allowed_git_hosts.into_iter().filter(|host| !host.is_empty()).collect();
    let git_hosts = AllowedHosts::parse(&hosts, args.allow_private_git_addresses)
        .map_err(|error| format!("--allowed-git-host: {error}"))?;
    let config = Config {
        git_hosts,
        reports_address: args.workspaces.reports_address,
        workspaces: args.workspaces.settings(),
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
        guards: Guards::default(),
    };
    let controller = Controller::start(config, environment).await?;
    tracing::info!(address = %controller.health_address(), "serving health and metrics");
    controller.run().await?;
    Ok(())
}

async fn receive(args: ReceiverArgs) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = on_signal()?;
    let mut kube = kubernetes().await?;
    bounded(&mut kube);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let config = receiver::Config {
        address: (args.address, "--address"),
        health_address: Some(args.health_address),
        ..receiver_config(&args.targets)
    };
    let environment = receiver::Environment {
        kube: kube::Client::try_from(kube)?,
        keys: KeySource::Directory(args.key_directory),
        clock: Arc::new(SystemClock),
        shutdown,
        guards: Guards::default(),
    };
    let receiver = Receiver::start(config, environment).await?;
    if let Some(address) = receiver.health_address() {
        tracing::info!(%address, "serving health and metrics");
    }
    tracing::info!(address = %receiver.address(), "receiving deliveries");
    receiver.run().await?;
    Ok(())
}

async fn all(args: AllArgs) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = on_signal()?;
    let mut kube = kubernetes().await?;
    bounded(&mut kube);
    let config =
        receiver::Config { address: (args.receiver_address, "--receiver-address"), ..receiver_config(&args.targets) };
    let environment = receiver::Environment {
        kube: kube.try_into()?,
        // This process may read Secrets anyway.
        keys: KeySource::Secret(args.controller.namespace.clone()),
        clock: Arc::new(SystemClock),
        shutdown: shutdown.clone(),
        guards: Guards::default(),
    };
    let receiver = Receiver::start(config, environment).await?;
    tracing::info!(address = %receiver.address(), "receiving deliveries");
    // Whichever ends first ends the other.
    let receive = async {
        let ended = receiver.run().await;
        shutdown.cancel();
        ended
    };
    let control = async {
        let ended = control(args.controller, false, shutdown.clone()).await;
        shutdown.cancel();
        ended
    };
    let (received, controlled) = tokio::join!(receive, control);
    controlled?;
    received?;
    Ok(())
}

fn receiver_config(targets: &TargetArgs) -> receiver::Config {
    receiver::Config {
        address: (([0, 0, 0, 0], 8081).into(), "--address"),
        health_address: None,
        target_rate: targets.target_rate,
        target_burst: targets.target_burst,
        server: ServerLimits::default(),
        inbox: InboxLimits::default(),
    }
}

async fn kubernetes() -> Result<kube::Config, String> {
    kube::Config::infer().await.map_err(|error| {
        format!("no cluster to talk to: neither a pod's service account nor a kubeconfig ($KUBECONFIG, ~/.kube/config) can be used: {error}")
    })
}

/// Failures come back to whoever asked, and are tried again there; kube's own retries would go on for up to 1000 seconds.
fn bounded(kube: &mut kube::Config) {
    kube.default_retry = false;
    kube.write_timeout = Some(KUBERNETES_TIMEOUT);
    kube.connect_timeout = Some(KUBERNETES_TIMEOUT);
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
        InPod::command().debug_assert();
    }

    #[test]
    fn what_pods_run_gets_every_word_as_it_is() {
        for words in
            [&[][..], &["--help"], &["help", "agent"], &["agent", "--report-url", "x", "--", "--help"], &["-V"]]
        {
            let line = ["landfall", "workspace"].iter().chain(words);
            let Command::Workspace { words: passed } = Cli::try_parse_from(line).unwrap().command else { panic!() };
            assert_eq!(passed, words);
        }
    }

    #[test]
    fn a_wrong_value_names_its_option() {
        let refused = Cli::try_parse_from(["landfall", "controller", "--health-address", "here"]);
        assert!(refused.err().unwrap().to_string().contains("--health-address"));
    }
}
