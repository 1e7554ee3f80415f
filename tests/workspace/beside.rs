//! A running agent, and a server in place of the controller.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use landfall_cluster::whole_lines;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::scene::{Done, Scene, UID};

/// How long a condition may take. Far more than it does; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits for a condition.
pub async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} and not yet: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Accepts all reports, and records them.
pub struct Controller {
    pub url: String,
    book: Arc<Mutex<Book>>,
}

struct Book {
    /// The bearer token, the report, and the status of the answer.
    heard: Vec<(String, Value, u16)>,
    /// `None`: it never answers.
    answer: Option<(u16, String)>,
    /// Whether another replica answers every other request.
    has_standby: bool,
}

impl Controller {
    /// A controller with this answer.
    pub async fn answering(status: u16, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/report", listener.local_addr().unwrap());
        let book = Arc::new(Mutex::new(Book {
            heard: Vec::new(),
            answer: Some((status, body.to_owned())),
            has_standby: false,
        }));
        let shared = Arc::clone(&book);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&shared)));
            }
        });
        Self { url, book }
    }

    pub fn answer(&self, status: u16, body: &str) {
        self.book.lock().unwrap().answer = Some((status, body.to_owned()));
    }

    /// From now on, every other request is answered by a replica that is not the leader.
    pub fn stand_by(&self) {
        self.book.lock().unwrap().has_standby = true;
    }

    /// From now on, it reads reports and does not answer.
    pub fn be_silent(&self) {
        self.book.lock().unwrap().answer = None;
    }

    pub fn heard(&self) -> Vec<(String, Value, u16)> {
        self.book.lock().unwrap().heard.clone()
    }

    /// Waits until the newest report satisfies a condition.
    pub async fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut newest = None;
        let began = Instant::now();
        loop {
            newest = self.heard().pop().map(|(_, report, _)| report).or(newest);
            match &newest {
                Some(report) if is_it(report) => return report.clone(),
                newest => assert!(began.elapsed() < PATIENCE, "not yet: {what}; the newest report is {newest:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(mut stream: TcpStream, book: Arc<Mutex<Book>>) -> Option<()> {
    let mut heard = Vec::new();
    let (head, body) = loop {
        let text = String::from_utf8(heard.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                break (head.to_owned(), body.to_owned());
            }
        }
        if stream.read_buf(&mut heard).await.unwrap() == 0 {
            return None;
        }
    };
    assert!(head.starts_with("POST /v1/report HTTP/1.1\r\n"), "{head}");
    let bearer = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default();
    let answer = {
        let mut book = book.lock().unwrap();
        let standby = book.has_standby && book.heard.len().is_multiple_of(2);
        let answer = if standby { Some((503, "another leads".to_owned())) } else { book.answer.clone() };
        let status = answer.as_ref().map_or(0, |(status, _)| *status);
        book.heard.push((bearer.to_owned(), serde_json::from_str(&body).unwrap(), status));
        answer
    };
    let Some((status, body)) = answer else {
        // Until the client closes the connection.
        let _ = stream.read_u8().await;
        return None;
    };
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
    Some(())
}

/// A running agent. It is killed when it is dropped.
pub struct Agent {
    child: Child,
    said: PathBuf,
    words: PathBuf,
}

impl Scene {
    /// Starts an agent that reports to `url`, and autosaves only at its end unless told otherwise.
    pub fn agent(&self, url: Option<&str>, further: &[&str]) -> Agent {
        self.agent_without("", url, further)
    }

    /// The same without these guards.
    pub fn agent_without(&self, guards: &str, url: Option<&str>, further: &[&str]) -> Agent {
        let mut arguments = self.save_arguments(&[]);
        "agent".clone_into(&mut arguments[0]);
        let path = |name: &str| self.at(name).to_str().unwrap().to_owned();
        arguments.extend(["--termination-log".to_owned(), path("last-message")]);
        if !self.at("identity").exists() {
            self.identify("one");
        }
        if let Some(url) = url {
            arguments.extend(["--report-url", url, "--identity-file"].map(str::to_owned));
            arguments.push(path("identity"));
        }
        if !further.contains(&"--interval") {
            arguments.extend(["--interval", "0"].map(str::to_owned));
        }
        arguments.extend(further.iter().map(|&word| word.to_owned()));
        let (said, words) = (self.at("agent.said"), self.at("agent.words"));
        let file = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_landfall"))
            .arg("workspace")
            .args(arguments)
            .env("no_proxy", "*")
            .env("HOME", self.at("home"))
            .env("LANDFALL_SABOTAGE", guards)
            .stdin(Stdio::null())
            .stdout(file(&said))
            .stderr(file(&words))
            .spawn()
            .unwrap();
        Agent { child, said, words }
    }

    /// Writes another token for reports into its file, like a kubelet.
    pub fn identify(&self, token: &str) {
        std::fs::write(self.at("identity.new"), format!("identity.{token}.x\n")).unwrap();
        std::fs::rename(self.at("identity.new"), self.at("identity")).unwrap();
    }

    pub fn autosave_ref() -> String {
        format!("refs/landfall/wip/{UID}")
    }

    /// The newest autosave on the remote.
    pub fn autosaved(&self) -> Option<String> {
        self.refs().remove(&Self::autosave_ref())
    }
}

impl Agent {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its children that have ended and that it has not reaped yet.
    pub fn left(&self) -> usize {
        let id = self.child.id().to_string();
        let is_left = |stat: &str| {
            // PID (NAME) STATE PPID …
            let mut words = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            words.next() == Some("Z") && words.next() == Some(&id)
        };
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        processes
            .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok())
            .filter(|stat| is_left(stat))
            .count()
    }

    /// Waits until it handles SIGTERM. Before that, the signal would kill it.
    pub async fn hears(&self) {
        let file = format!("/proc/{}/status", self.child.id());
        let caught = || {
            let status = std::fs::read_to_string(&file).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let bit = 1 << (Signal::TERM.as_raw() - 1);
            (u64::from_str_radix(caught.trim(), 16).unwrap() & bit != 0).then_some(())
        };
        until("the agent hears signals", caught).await;
    }

    /// Its output for people so far.
    pub fn words(&self) -> String {
        whole_lines(&self.words).unwrap()
    }

    /// Waits for its end, and returns the result.
    pub async fn ended(&mut self) -> Done {
        let mut status = None;
        until("the agent ends", || {
            status = self.child.try_wait().unwrap();
            status
        })
        .await;
        let said = std::fs::read_to_string(&self.said).unwrap();
        let said = serde_json::from_str(&said).unwrap_or(Value::String(said));
        Done { code: status.and_then(|status| status.code()), said, words: self.words() }
    }

    pub async fn stop(&mut self) -> Done {
        self.hears().await;
        self.signal(Signal::TERM);
        self.ended().await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
