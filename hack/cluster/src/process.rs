//! A process that was started here: detached from this process or tied to it, recorded, ended, and waited for.
//!
//! A pid alone names the process that has it now. A [`Process`] is a pid, its start time and its boot, and it is
//! signalled through a pidfd that was checked against both. Without that, ending yesterday's cluster could end somebody
//! else's process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::tools;

/// A process that was started here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name for people: `etcd`.
    pub name: String,
    /// Its id in the machine's own pid namespace.
    pub pid: i32,
    /// Clock ticks between the boot and its start (proc(5), `stat`, field 22).
    started: u64,
    /// The boot in which it was started.
    boot: String,
    /// The command that starts it again: the program and its arguments. `None` if it was not started by a [`Launcher`].
    #[serde(default)]
    command: Option<(PathBuf, Vec<String>)>,
}

impl Process {
    /// Records a process that runs now.
    pub fn observe(name: &str, pid: i32) -> io::Result<Self> {
        Ok(Self { name: name.to_owned(), pid, started: Stat::read(pid)?.started, boot: boot_id()?, command: None })
    }

    /// The program and the arguments with which it was started.
    pub(crate) fn command(&self) -> Option<(&Path, &[String])> {
        self.command.as_ref().map(|(program, arguments)| (program.as_path(), arguments.as_slice()))
    }

    /// Records it in the folder of its cluster, so that a later command can end it.
    pub(crate) fn record(&self, folder: &Path) -> io::Result<()> {
        let part = folder.join(format!("{}.json.part", self.name));
        fs::write(&part, serde_json::to_vec(self)?)?;
        // The record appears complete: an unreadable record would keep the rest from being ended. The temporary file is
        // outside of `pids`, where all files are records.
        fs::rename(part, folder.join("pids").join(format!("{}.json", self.name)))
    }

    /// All recorded processes in a folder, in no order.
    pub(crate) fn recorded(folder: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(folder.join("pids")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut processes = Vec::new();
        for entry in entries {
            match fs::read(entry?.path()) {
                Ok(record) => processes.push(serde_json::from_slice(&record)?),
                // Another command is taking the folder down.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(processes)
    }

    /// A handle on exactly this process, or `None` if it has ended.
    fn open(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The comparison comes after the opening: from then on the handle cannot refer to another process.
        let same = Stat::read(self.pid).ok()?.started == self.started && boot_id().is_ok_and(|boot| boot == self.boot);
        // The handle is asked, because in `stat` a process counts as ended with its first thread, while others still
        // write files.
        (same && !gone_within(&pidfd, Duration::ZERO)).then_some(pidfd)
    }

    /// Whether any thread of it still runs. A process that has ended but was not reaped does not count.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.open().is_some()
    }

    /// Asks it to end, kills it after `grace`, and returns when it is gone. Blocks.
    pub fn end(&self, grace: Duration) {
        let Some(pidfd) = self.open() else { return };
        if !grace.is_zero() {
            // It may end by itself between the check and the signal, which is fine.
            let _ = pidfd_send_signal(&pidfd, Signal::TERM);
            if gone_within(&pidfd, grace) {
                return;
            }
        }
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        // A killed process ends when the kernel has released its resources. The first process of a pid namespace ends
        // all the others, which can be a hundred.
        gone_within(&pidfd, Duration::from_mins(1));
    }
}

/// Waits until the process behind the handle has ended, at most `limit`.
fn gone_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The relevant fields of `/proc/PID/stat`.
struct Stat {
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat")))
    }

    fn parse(line: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may contain any character, so the fields count from
        // its end.
        let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        Some(Self { parent, started: fields.nth(17)?.parse().ok()? })
    }
}

/// The processes whose parent is `pid`.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    Ok(pids()?.filter(|child| Stat::read(*child).is_ok_and(|stat| stat.parent == pid)).collect())
}

/// All processes of the machine.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The lifetime of a process.
#[derive(Debug, Clone)]
pub(crate) enum Tie {
    /// It outlives this process: it has its own session, so that neither a closed terminal nor an interrupt reaches it.
    Detached,
    /// It is killed when this process ends for any reason.
    Tied,
    /// It outlives this process, and runs in the namespaces of the process with this id, which is the first of its pid
    /// namespace.
    Inside(i32),
}

/// Starts processes that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Launcher {
    pub(crate) tie: Tie,
    /// The working directory, which also contains the logs.
    pub(crate) folder: PathBuf,
}

impl Launcher {
    /// The log of the process with this name: its standard output and error.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        log_file(&self.folder, name)
    }

    /// Starts `program` and returns it together with the handle that reaps our own child.
    pub(crate) fn start(&self, name: &str, program: &Path, arguments: &[String]) -> io::Result<(Process, Child)> {
        let mut command = match &self.tie {
            Tie::Detached => Command::new("setsid"),
            Tie::Tied => {
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL"]);
                // It lives for minutes, and little of its memory lasts, so it trades memory for less garbage collection
                // (Go's default is 100).
                command.env("GOGC", "400");
                command
            }
            Tie::Inside(first) => {
                let mut command = Command::new("setsid");
                command.args(["nsenter", "--target", &first.to_string(), "--net", "--mount", "--pid"]);
                // Entering mounts leaves the working directory, so it is entered again.
                command.args(["--", "sh", "-c", r#"cd "$0" && exec "$@""#]).arg(&self.folder);
                command
            }
        };
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log(name))?;
        if !matches!(self.tie, Tie::Inside(_)) {
            command.arg("--");
        }
        command.arg(program).args(arguments).current_dir(&self.folder).env("PATH", tools::search_path());
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log);
        let mut child = match self.tie {
            Tie::Tied => spawn_from_lasting_thread(command)?,
            Tie::Detached | Tie::Inside(_) => command.spawn()?,
        };
        let own = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pid = match self.tie {
            Tie::Detached | Tie::Tied => own,
            // Entering a pid namespace needs a fork, so the started process is the parent of the wanted one.
            Tie::Inside(_) => only_child(&mut child, own)?,
        };
        let command = Some((program.to_owned(), arguments.to_vec()));
        let process = Process { command, ..Process::observe(name, pid)? };
        process.record(&self.folder)?;
        Ok((process, child))
    }
}

/// The log of a process in the folder of its cluster.
pub(crate) fn log_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("logs").join(format!("{name}.log"))
}

/// Waits until a process has forked.
pub(crate) fn only_child(parent: &mut Child, pid: i32) -> io::Result<i32> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(child) = children(pid)?.first() {
            return Ok(*child);
        }
        if let Some(status) = parent.try_wait()? {
            return Err(io::Error::other(format!("ended at once: {status}")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "did not fork within a minute"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns from a thread that lasts as long as our process: the kernel sends the parent-death signal when the *thread*
/// that started a child ends (prctl(2), `PR_SET_PDEATHSIG`), and the thread of a test ends with the test.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, spawned) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts processes has ended");
    orders.send((command, answer)).map_err(|error| gone(error.to_string()))?;
    spawned.recv().map_err(|error| gone(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growing::whole_lines;

    #[test]
    fn a_program_name_cannot_shift_the_fields() {
        let line = "42 (a) Z 7 (b)) S 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8675309 1 2";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.started), (17, 8_675_309));
        assert!(Stat::parse("42 (a").is_none());
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::observe("sleep", i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_running());
        for other in [
            Process { started: process.started - 1, ..process.clone() },
            Process { boot: "another".to_owned(), ..process.clone() },
        ] {
            assert!(!other.is_running());
            other.end(Duration::ZERO);
        }
        assert!(process.is_running(), "a stale record must not end it");
        process.end(Duration::from_secs(5));
        assert!(!process.is_running());
        child.wait().unwrap();
    }

    #[test]
    fn what_ignores_the_request_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["logs", "pids"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let launcher = Launcher { tie: Tie::Tied, folder: folder.path().to_owned() };
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done".to_owned();
        let (process, mut child) = launcher.start("stubborn", Path::new("sh"), &["-c".to_owned(), script]).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while whole_lines(&launcher.log("stubborn")).unwrap().is_empty() {
            assert!(Instant::now() < deadline, "not within a minute: it ignores the request");
            std::thread::yield_now();
        }
        process.end(Duration::from_millis(100));
        assert!(!process.is_running());
        assert_eq!(Process::recorded(folder.path()).unwrap(), [process]);
        assert!(!child.wait().unwrap().success());
    }
}
