//! The command line. Results go to standard output, everything else to standard error.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::cache::Cache;
use crate::cluster::{Cluster, Kind, Name};
use crate::image::{self, ImageError};
use crate::programs;

/// Run a real one-node Kubernetes on this machine, built from source, without a container engine or a registry.
#[derive(Parser)]
#[command(name = "landfall-cluster", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster; the first start builds its programs.
    ///
    /// If KUBECONFIG names a cluster that this program did not start, and no NAME is given, use that cluster as it is.
    Up {
        /// Start only etcd, the API server (on 127.0.0.1) and the controllers: no node, and no need for root.
        #[arg(long)]
        api_only: bool,
        /// The cluster; several clusters can be up at the same time.
        name: Option<Name>,
    },
    /// Stop a cluster and remove everything that belongs to it.
    Down {
        /// The cluster [default: landfall].
        name: Option<Name>,
        /// All clusters.
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show the state of clusters. With a NAME, fail if that cluster is not up.
    Status {
        /// The cluster [default: all].
        name: Option<Name>,
    },
    /// Load an image from an OCI tar into the node.
    Load {
        /// A tar with an OCI layout, whose index names the image (io.containerd.image.name).
        image: PathBuf,
        /// The cluster [default: landfall].
        name: Option<Name>,
    },
    /// Print the path of the admin's kubeconfig.
    Kubeconfig {
        /// The cluster [default: landfall].
        name: Option<Name>,
    },
    /// Print the logs of the programs of a cluster.
    Logs {
        /// The cluster.
        name: Name,
        /// Print the whole log of this program only [default: the last lines of each].
        program: Option<String>,
    },
    /// Kill a program of a cluster, and start it again with the same arguments.
    Restart {
        /// The program: kubelet, containerd, …
        program: String,
        /// The cluster [default: landfall].
        name: Option<Name>,
    },
    /// Print settings for `eval "$(cargo cluster env)"` in a shell: PATH with kubectl and helm, and KUBECONFIG.
    Env {
        /// The cluster [default: landfall].
        name: Option<Name>,
    },
    /// Run a program in the network of a cluster's node, where pods reach it at 10.99.0.1.
    Exec {
        /// The cluster [default: landfall].
        name: Option<Name>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Build the programs that are not in the cache yet.
    Build {
        /// Build only the programs that `up --api-only` needs.
        #[arg(long)]
        api_only: bool,
    },
    /// Make an image without a container engine or a registry, and print the path of its tar.
    Image {
        /// Write the tar to this file [default: NAME.tar in the cache].
        #[arg(long, global = true)]
        output: Option<PathBuf>,
        /// The image to make.
        #[command(subcommand)]
        image: Image,
    },
    /// Print the completion of a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum Image {
    /// The image of the operator, localhost/landfall:dev: Debian, git and the programs.
    Operator {
        /// The program `landfall`, built for this machine, with `landfall-workspace` beside it.
        binary: PathBuf,
    },
    /// The image of workspaces, localhost/landfall-workspace:dev: Debian, git, gh, ssh, editors.
    Workspace,
    /// A foreign image for tests, localhost/plain:dev: a shell and its commands, no git, and root as its user.
    Plain,
}

/// Runs the command line of this process.
pub async fn run() -> ExitCode {
    match dispatch(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprint!("error: {error}");
            let mut cause = error.source();
            while let Some(source) = cause {
                eprint!(": {source}");
                cause = source.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let cache = Cache::from_environment()?;
    match command {
        Command::Up { api_only, name } => {
            if let (None, Some(foreign)) = (&name, foreign_kubeconfig(&cache)) {
                eprintln!("using the cluster of KUBECONFIG={}; unset it to start one here", foreign.display());
                return Ok(ExitCode::SUCCESS);
            }
            up(&named(&cache, name)?, if api_only { Kind::ApiOnly } else { Kind::Node }).await?;
        }
        Command::Down { name, all } => {
            let clusters = if all { Cluster::all(&cache)? } else { vec![named(&cache, name)?] };
            clusters.iter().try_for_each(Cluster::down)?;
        }
        Command::Status { name: Some(name) } => {
            let cluster = Cluster::named(&cache, name);
            show(&cluster)?;
            return Ok(if cluster.status()?.is_up() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Status { name: None } => Cluster::all(&cache)?.iter().try_for_each(show)?,
        Command::Load { image, name } => named(&cache, name)?.load(&image)?,
        Command::Kubeconfig { name } => println!("{}", kubeconfig(&cache, name)?.display()),
        Command::Logs { name, program } => logs(&Cluster::named(&cache, name), program.as_deref())?,
        Command::Restart { program, name } => named(&cache, name)?.restart(&program)?,
        Command::Env { name } => print_environment(&cache, name)?,
        Command::Exec { name, command } => return Err(exec(&named(&cache, name)?, &command)?.into()),
        Command::Build { api_only } => programs::build_all(&cache, if api_only { Kind::ApiOnly } else { Kind::Node })?,
        Command::Image { output, image } => make_image(&cache, output, &image)?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "landfall-cluster", &mut io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn named(cache: &Cache, name: Option<Name>) -> Result<Cluster, Box<dyn Error>> {
    let name = name.map_or_else(|| "landfall".parse(), Ok)?;
    Ok(Cluster::named(cache, name))
}

/// A kubeconfig in the environment that does not belong to a cluster of this program.
fn foreign_kubeconfig(cache: &Cache) -> Option<PathBuf> {
    let path = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)?;
    (!cache.owns(&path)).then_some(path)
}

fn kubeconfig(cache: &Cache, name: Option<Name>) -> Result<PathBuf, Box<dyn Error>> {
    match (&name, foreign_kubeconfig(cache)) {
        (None, Some(foreign)) => Ok(foreign),
        _ => Ok(named(cache, name)?.kubeconfig()?),
    }
}

async fn up(cluster: &Cluster, kind: Kind) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    tokio::select! {
        result = cluster.up(kind) => result?,
        // Started processes are recorded. The next `up` or `down` ends them.
        _ = tokio::signal::ctrl_c() => return Err("interrupted: `cargo cluster down` removes what was started".into()),
    }
    eprintln!("cluster {} is up after {:.1} s", cluster.name(), started.elapsed().as_secs_f32());
    eprintln!("  eval \"$(cargo cluster env {})\"", cluster.name());
    Ok(())
}

fn show(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let status = cluster.status()?;
    let kind = match status.kind {
        _ if !status.is_up() => "down",
        Some(Kind::ApiOnly) => "up (API only)",
        Some(Kind::Node) | None => "up",
    };
    println!("{} {kind}", cluster.name());
    for (process, runs) in &status.processes {
        println!("  {:<24} {:>8}  {}", process.name, process.pid, if *runs { "runs" } else { "ended" });
    }
    Ok(())
}

fn logs(cluster: &Cluster, program: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut output = io::stdout().lock();
    if let Some(program) = program {
        let path = cluster.log(program);
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        output.write_all(&text)?;
        return Ok(());
    }
    for path in cluster.logs()? {
        writeln!(output, "==> {}", path.display())?;
        writeln!(output, "{}", crate::control_plane::tail(&path))?;
    }
    Ok(())
}

fn print_environment(cache: &Cache, name: Option<Name>) -> Result<(), Box<dyn Error>> {
    let cluster = named(cache, name)?;
    println!("export PATH={}:\"$PATH\"", quoted(&cluster.programs()));
    println!("export KUBECONFIG={}", quoted(&cluster.kubeconfig()?));
    Ok(())
}

fn make_image(cache: &Cache, output: Option<PathBuf>, image: &Image) -> Result<(), ImageError> {
    let output = |name: &str| output.unwrap_or_else(|| cache.images().join(format!("{name}.tar")));
    let path = match image {
        Image::Operator { binary } => {
            let path = output("landfall");
            image::write_operator(cache, "localhost/landfall:dev", binary, &path)?;
            path
        }
        Image::Workspace => {
            let path = output("landfall-workspace");
            image::write_workspace(cache, "localhost/landfall-workspace:dev", &path)?;
            path
        }
        Image::Plain => {
            let path = output("plain");
            image::write_plain(cache, "localhost/plain:dev", &path)?;
            path
        }
    };
    println!("{}", path.display());
    Ok(())
}

/// A path as one word of a POSIX shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Replaces this process by the program. Returns only an error.
fn exec(cluster: &Cluster, command: &[OsString]) -> Result<io::Error, Box<dyn Error>> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    Ok(cluster.in_network(program)?.args(arguments).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exec_takes_all_behind_the_dashes() {
        let parsed = Arguments::try_parse_from(["x", "exec", "demo", "--", "sh", "-c", "--all"]).unwrap();
        let Command::Exec { name, command } = parsed.command else { panic!("not exec") };
        assert_eq!(name, Some("demo".parse().unwrap()));
        assert_eq!(command, ["sh", "-c", "--all"]);
        assert!(Arguments::try_parse_from(["x", "exec", "demo"]).is_err());
    }

    #[test]
    fn a_name_is_checked() {
        for name in ["Demo", "-a", "a-", "1a", "a/b", "..", ""] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_quote_in_a_path_stays_a_quote() {
        assert_eq!(quoted(Path::new("/a 'b'")), r"'/a '\''b'\'''");
    }
}
