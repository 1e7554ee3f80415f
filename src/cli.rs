//! The command line: a command for each process. The program that runs in pods is a binary of its own; this one executes it.
//!
//! Invariant: an error in the configuration is reported before anything starts, with the option's name.

mod gateway;
mod kubernetes;
mod uninstall;
mod webhook;
mod workspace;

use crate::features::{Feature, Features};
use crate::git::{AllowedHosts, Reach};
use crate::github::{HttpsConnect, PlainHttp, Proxies};
use crate::guards::Guards;
use crate::operator::{Config, Controller, Environment};
use crate::receiver::{self, InboxPlace, KeySource, Receiver, ServerLimits, WriteLimits};
use crate::runtime::clock::SystemClock;
use crate::runtime::jitter::RandomJitter;
use crate::runtime::lease::{self, LeaseTimes};
use crate::runtime::shutdown::on_signal;
use crate::runtime::telemetry::{self, LogFormat};
use crate::settings::{GatewayAuthority, GatewaySettings, GatewayUrl, WorkspaceSettings};
use crate::{controllers, manifests, metrics_reference};
use clap::{Args, CommandFactory, Parser, Subcommand};
use kubernetes::bounded;
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Ties GitHub to a Kubernetes cluster through a GitHub App.
#[derive(Parser)]
#[command(name = "landfall", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controllers. One of several replicas leads; the others are standbys.
    Controller(ControllerArgs),
    /// Run the receiver of webhook deliveries. Every replica serves.
    Receiver(ReceiverArgs),
    /// Run the gateway, through which the git of workspaces reaches GitHub. Every replica serves.
    Gateway(gateway::GatewayArgs),
    /// For development: run every process of Landfall in one, without leader election and with readable logs.
    All(AllArgs),
    /// Print the custom resource definitions as YAML for kubectl apply.
    Crds,
    /// Print RBAC rules as YAML, for the controllers or for people.
    Rbac {
        /// The set of rules.
        #[arg(value_enum)]
        set: manifests::RuleSet,
        /// Only what this feature adds to the set. Default: the rules of all features.
        #[arg(long, value_enum)]
        feature: Option<Feature>,
    },
    /// Show and rotate the secrets of webhooks, with your own rights in the cluster.
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Before or after the operator is removed: let go of everything that its finalizers hold, and revoke tokens. Volumes of workspaces are kept.
    Uninstall(uninstall::Command),
    /// Inside a workspace's pod: clone the repository, answer git's requests for credentials, and save the work.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Workspace {
        /// The command and its options; see `landfall workspace --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Print the operations for the admission policy of the controller's account, as YAML.
    #[command(hide = true)]
    Operations,
    /// Print the reference of all metrics, in Markdown.
    #[command(hide = true)]
    MetricsReference,
    /// Print a completion script.
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct ControllerArgs {
    /// The operator's own namespace, which has the credentials of the Apps and the Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// The name of this replica. Default: the pod's name, or the machine's.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// The address that serves /livez, /readyz and /metrics.
    #[arg(long, env = "LANDFALL_HEALTH_ADDRESS", default_value = "[::]:8080")]
    health_address: SocketAddr,
    /// The features, with commas: tokens (always on), repositories, workspaces. The kinds of a feature that is off are not watched, and need no rights.
    #[arg(long, env = "LANDFALL_FEATURES", default_value_t)]
    features: Features,
    /// Read and write Secrets of tokens only in these namespaces. Repeat it or separate with commas. Default: all namespaces.
    #[arg(long = "secret-namespace", env = "LANDFALL_SECRET_NAMESPACES", value_delimiter = ',')]
    secret_namespaces: Vec<String>,
    /// Accept plain http in a GitHubApp's spec.apiURL for hosts other than loopback, too. Tokens and keys then cross the network unencrypted.
    #[arg(long, env = "LANDFALL_INSECURE_DEVELOPMENT")]
    insecure_development: bool,
    /// Allow this host in a ProjectRepository's spec.source.url: git.example.com, git.example.com:8443 or *.example.com. Repeat it or separate with commas. Default: none.
    #[arg(long = "allowed-git-host", env = "LANDFALL_ALLOWED_GIT_HOSTS", value_delimiter = ',')]
    allowed_git_hosts: Vec<String>,
    /// Allow these hosts in private networks. Link-local and metadata addresses are still refused.
    #[arg(long, env = "LANDFALL_ALLOW_PRIVATE_GIT_ADDRESSES")]
    allow_private_git_addresses: bool,
    #[command(flatten)]
    workspaces: WorkspaceArgs,
    #[command(flatten)]
    gateway: gateway::GatewayOptions,
    /// Do not elect a leader. Only for a single replica.
    #[arg(long, env = "LANDFALL_NO_LEADER_ELECTION")]
    no_leader_election: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct WorkspaceArgs {
    /// The image of Landfall's own containers in the pods of workspaces; it contains this program.
    #[arg(long = "image", env = "LANDFALL_IMAGE", default_value = "localhost/landfall:dev")]
    image: String,
    /// The image of the person's container for a Workspace that names none. It needs a shell, and git to use git.
    #[arg(long, env = "LANDFALL_WORKSPACE_IMAGE", default_value = "localhost/landfall-workspace:dev")]
    workspace_image: String,
    /// The pull policy of these two images.
    #[arg(long, env = "LANDFALL_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// The address that receives reports of workspaces, in plain http: reports are shown and not trusted.
    #[arg(long, env = "LANDFALL_REPORTS_ADDRESS", default_value = "[::]:8082")]
    reports_address: SocketAddr,
    /// The URL of that address for pods: `http://SERVICE.NAMESPACE.svc:8082/v1/report`. Without it pods send no reports.
    #[arg(long, env = "LANDFALL_REPORTS_URL")]
    reports_url: Option<String>,
    /// The gateway's URL for pods: `https://SERVICE.NAMESPACE.svc`. git in workspaces then goes there, and their pods hold no token of GitHub. Without it, it goes to GitHub itself.
    #[arg(long, env = "LANDFALL_GATEWAY_URL")]
    gateway_url: Option<GatewayUrl>,
    /// The user and group of the pods of Workspaces that name none: an id, or `unset`, which leaves them to the cluster (`restricted-v2` of `OpenShift`).
    #[arg(long, env = "LANDFALL_WORKSPACE_USER", default_value = "1000", value_parser = workspace_user)]
    workspace_user: WorkspaceUser,
}

impl WorkspaceArgs {
    fn settings(self, proxies: &Proxies) -> WorkspaceSettings {
        WorkspaceSettings {
            image: self.image,
            workspace_image: self.workspace_image,
            pull_policy: self.image_pull_policy,
            reports_url: self.reports_url.filter(|url| !url.is_empty()),
            gateway: self.gateway_url.map(|url| GatewaySettings { url, authority: GatewayAuthority::default() }),
            user: match self.workspace_user {
                WorkspaceUser::Id(id) => Some(id),
                WorkspaceUser::Unset => None,
            },
            proxy: proxies.for_pods(),
        }
    }
}

#[derive(Args)]
struct LogArgs {
    /// The log level: error, warn, info, debug or trace, or levels by module as in landfall=debug,kube=info.
    #[arg(long, env = "LANDFALL_LOG", default_value = "info")]
    log_level: String,
    /// The log format. Default: json; text for `landfall all`.
    #[arg(long, env = "LANDFALL_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Args)]
struct ReceiverArgs {
    /// The address that receives deliveries, in plain http: the ingress terminates TLS.
    #[arg(long, env = "LANDFALL_RECEIVER_ADDRESS", default_value = "[::]:8081")]
    address: SocketAddr,
    /// The address that serves /livez, /readyz and /metrics.
    #[arg(long, env = "LANDFALL_HEALTH_ADDRESS", default_value = "[::]:8080")]
    health_address: SocketAddr,
    /// The features, with commas: tokens (always on), repositories, workspaces. Without repositories, the receiver takes deliveries to Apps only.
    #[arg(long, env = "LANDFALL_FEATURES", default_value_t)]
    features: Features,
    /// The namespace of this receiver's WebhookInbox: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "landfall-system")]
    namespace: String,
    /// The name of this receiver's WebhookInbox, which the controller makes for the pod of that name.
    #[arg(long, env = "POD_NAME")]
    inbox: String,
    /// The directory in which the Secret landfall-webhook-keys is mounted. Changes are read.
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
    /// The address that receives deliveries, in plain http.
    #[arg(long, env = "LANDFALL_RECEIVER_ADDRESS", default_value = "[::]:8081")]
    receiver_address: SocketAddr,
    #[command(flatten)]
    targets: TargetArgs,
}

#[derive(Args)]
struct TargetArgs {
    /// Deliveries per second that are stored for one repository; an App's own webhook gets ten times as many.
    #[arg(long, env = "LANDFALL_TARGET_RATE", default_value_t = 10.0, value_parser = positive)]
    target_rate: f64,
    /// The most of them at once.
    #[arg(long, env = "LANDFALL_TARGET_BURST", default_value_t = 100.0, value_parser = positive)]
    target_burst: f64,
}

/// Whose the pods of workspaces are.
#[derive(Clone, Copy)]
enum WorkspaceUser {
    Id(i64),
    Unset,
}

fn workspace_user(text: &str) -> Result<WorkspaceUser, String> {
    if text == "unset" {
        return Ok(WorkspaceUser::Unset);
    }
    let id = text.parse().ok().filter(|id| (1..=i64::from(i32::MAX)).contains(id));
    id.map(WorkspaceUser::Id).ok_or_else(|| "must be an id from 1 to 2147483647, or unset".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number.is_finite() && number >= 0.001 { Ok(number) } else { Err("must be 0.001 or more".to_owned()) }
}

/// The command line of the program that runs in pods. It has the same name and one command.
#[derive(Parser)]
#[command(name = "landfall", bin_name = "landfall", version, propagate_version = true)]
struct InPod {
    #[command(subcommand)]
    command: InPodCommand,
}

#[derive(Subcommand)]
enum InPodCommand {
    /// Inside a workspace's pod: clone the repository, answer git's requests for credentials, and save the work.
    #[command(subcommand)]
    Workspace(workspace::Command),
}

/// The program that runs in pods. Most of a process's memory are the pages of its program: an agent that contained all of
/// Landfall would take twice as much.
const WORKSPACE_PROGRAM: &str = "landfall-workspace";

/// Runs the command; prints an error with its causes.
#[must_use]
pub fn main() -> ExitCode {
    ended(run(Cli::parse().command))
}

/// Runs a command of `landfall workspace`; prints an error with its causes.
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

/// Executes `landfall workspace` from the same folder in place of this program; returns only an error.
fn become_workspace(words: &[OsString]) -> Box<dyn std::error::Error> {
    let program = match std::env::current_exe() {
        Ok(own) => own.with_file_name(WORKSPACE_PROGRAM),
        Err(error) => return format!("cannot find the path of this program: {error}").into(),
    };
    let error = std::process::Command::new(&program).arg0("landfall").arg("workspace").args(words).exec();
    format!("cannot run {}, which belongs beside this program; install both: {error}", program.display()).into()
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Workspace { words } => return Err(become_workspace(&words)),
        Command::Controller(args) => {
            telemetry::start(&args.log.log_level, args.log.log_format.unwrap_or(LogFormat::Json))?;
            runtime(None)?.block_on(async { control(args, Election::ByLease, on_signal()?).await })
        }
        Command::Receiver(args) => {
            telemetry::start(&args.log.log_level, args.log.log_format.unwrap_or(LogFormat::Json))?;
            runtime(Some(RECEIVER_THREADS))?.block_on(receive(args))
        }
        Command::Gateway(args) => {
            telemetry::start(&args.log.log_level, args.log.log_format.unwrap_or(LogFormat::Json))?;
            runtime(None)?.block_on(gateway::run(args))
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
        Command::Rbac { set, feature } => {
            let rules = match feature {
                Some(feature) => set.rules_of(feature),
                None => set.rules(&Features::default()),
            };
            print!("{}", manifests::yaml(&[rules])?);
            Ok(())
        }
        Command::Operations => {
            print!("{}", manifests::operations_variable());
            Ok(())
        }
        Command::MetricsReference => {
            print!("{}", metrics_reference::page()?);
            Ok(())
        }
        Command::Webhook(command) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(webhook::run(command))
        }
        Command::Uninstall(command) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(uninstall::run(command))
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "landfall", &mut std::io::stdout());
            Ok(())
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Election {
    ByLease,
    /// This process leads.
    None,
}

/// The receiver's threads. It mostly waits for the API server, and each thread takes memory.
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
    election: Election,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error>> {
    let proxies = Proxies::from_env()?;
    let mut kube = kubernetes::config(&proxies).await?;
    let times = LeaseTimes::default();
    let elects = election == Election::ByLease && !args.no_leader_election;
    let lease = if elects { Some((lease::client(kube.clone(), times)?, times)) } else { None };
    bounded(&mut kube);
    let identity = args.identity.or_else(hostname).unwrap_or_else(|| format!("landfall-{}", std::process::id()));
    let hosts: Vec<_> = args.allowed_git_hosts.into_iter().filter(|host| !host.is_empty()).collect();
    let reach = if args.allow_private_git_addresses { Reach::Private } else { Reach::Public };
    let git_hosts = AllowedHosts::parse(&hosts, reach).map_err(|error| format!("--allowed-git-host: {error}"))?;
    let config = Config {
        git_hosts,
        reports_address: args.workspaces.reports_address,
        workspaces: args.workspaces.settings(&proxies),
        internal_address: args.gateway.internal_address,
        internal: args.gateway.settings(&args.namespace),
        namespace: args.namespace,
        features: args.features,
        identity,
        health_address: args.health_address,
        secret_namespaces: args.secret_namespaces.into_iter().filter(|name| !name.is_empty()).collect(),
        plain_http: if args.insecure_development { PlainHttp::Anywhere } else { PlainHttp::OnLoopback },
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.namespace,
        identity = config.identity,
        features = %config.features,
        "starting"
    );
    if let Some(variable) = proxies.withheld().filter(|_| config.features.has(Feature::Workspaces)) {
        tracing::warn!(
            variable,
            "the pods of workspaces do not get the proxy, because its address has a user and a password, which everybody who \
             reads a pod would see; let the proxy accept workspaces without a password, or write the variable into spec.pod.env"
        );
    }
    let environment = Environment {
        kube: kube::Client::try_from(kube)?,
        lease,
        clock: Arc::new(SystemClock),
        jitter: Arc::new(RandomJitter),
        github: Arc::new(HttpsConnect::through(proxies)),
        shutdown,
        guards: Guards::default(),
    };
    let controller = Controller::start(config, environment).await?;
    tracing::info!(address = %controller.health_address(), "serving health and metrics");
    if let Some(address) = controller.reports_address() {
        tracing::info!(%address, "receiving reports");
    }
    controller.run().await?;
    Ok(())
}

async fn receive(args: ReceiverArgs) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = on_signal()?;
    let mut kube = kubernetes::config(&Proxies::from_env()?).await?;
    bounded(&mut kube);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let config = receiver::Config {
        address: (args.address, "--address"),
        health_address: Some(args.health_address),
        ..receiver_config(args.features, &args.targets, InboxPlace { namespace: args.namespace, name: args.inbox })
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
    let mut kube = kubernetes::config(&Proxies::from_env()?).await?;
    bounded(&mut kube);
    let kube = kube::Client::try_from(kube)?;
    // Here no pod stands for the receiver, so the controller makes no inbox for it.
    let inbox = InboxPlace { namespace: args.controller.namespace.clone(), name: "landfall-all".to_owned() };
    controllers::make_inbox(&kube, &inbox.namespace, &inbox.name, None).await?;
    let config = receiver::Config {
        address: (args.receiver_address, "--receiver-address"),
        ..receiver_config(args.controller.features.clone(), &args.targets, inbox)
    };
    let environment = receiver::Environment {
        kube,
        // This process may read Secrets anyway.
        keys: KeySource::Secret(args.controller.namespace.clone()),
        clock: Arc::new(SystemClock),
        shutdown: shutdown.clone(),
        guards: Guards::default(),
    };
    let receiver = Receiver::start(config, environment).await?;
    tracing::info!(address = %receiver.address(), "receiving deliveries");
    // The first to end also ends the other.
    let receive = async {
        let ended = receiver.run().await;
        shutdown.cancel();
        ended
    };
    let control = async {
        let ended = control(args.controller, Election::None, shutdown.clone()).await;
        shutdown.cancel();
        ended
    };
    let (received, controlled) = tokio::join!(receive, control);
    controlled?;
    received?;
    Ok(())
}

fn receiver_config(features: Features, targets: &TargetArgs, inbox: InboxPlace) -> receiver::Config {
    receiver::Config {
        address: ((Ipv6Addr::UNSPECIFIED, 8081).into(), "--address"),
        health_address: None,
        inbox,
        features,
        target_rate: targets.target_rate,
        target_burst: targets.target_burst,
        server: ServerLimits::default(),
        writes: WriteLimits::default(),
    }
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
    fn the_program_in_pods_gets_every_word_unchanged() {
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
