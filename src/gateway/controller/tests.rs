use super::*;
use crate::gateway::messages::Patterns;
use crate::gateway::refs::{Beside, Origin};
use crate::git::reach::Reach;
use crate::github::CaBundleError;
use crate::ids::id;
use crate::runtime::clock::ManualClock;
use http_body_util::Full;
use jiff::SignedDuration;

/// The statuses of the answers about a pod, by its name.
type Answers = HashMap<&'static str, Vec<Option<u16>>>;

/// A controller that answers by the names of pods. No status: it is not reached.
struct Scene {
    controller: Controller,
    clock: Arc<ManualClock>,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    _files: tempfile::TempDir,
}

struct NoGitHub;

impl Connect for NoGitHub {
    fn connect_within(&self, _: Reach, _: Option<&[u8]>) -> Result<Transport, CaBundleError> {
        unreachable!("these tests open no way to GitHub")
    }
}

fn caller(name: &str) -> Caller {
    let address = "10.0.0.7".parse().unwrap();
    Caller { namespace: "team-a".into(), name: name.into(), uid: format!("uid of {name}"), address }
}

fn allowed(name: &str) -> String {
    let answer = AccessAnswer {
        workspace: name.into(),
        uid: format!("workspace of {name}"),
        app: "landfall".into(),
        host: "h.example".into(),
        repository: id(9001),
        branch: "x".into(),
        beside: Beside::No,
        origin: Origin::Workspace,
        asked: Patterns::default(),
        granted: vec![],
    };
    serde_json::to_string(&answer).unwrap()
}

impl Scene {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = Config {
            url: "https://controller.example".into(),
            authority: files.path().join("ca"),
            token: files.path().join("token"),
        };
        for path in [&config.authority, &config.token] {
            std::fs::write(path, "a.b.c").unwrap();
        }
        let clock = Arc::new(ManualClock::new("2026-11-21T01:00:00Z".parse().unwrap()));
        let controller = Controller::new(config, Arc::new(NoGitHub), Arc::clone(&clock) as Arc<dyn Clock>);
        let (answers, asked) =
            (Arc::<Mutex<HashMap<&str, Vec<Option<u16>>>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (answered, called) = (Arc::clone(&answers), Arc::clone(&asked));
        let transport = Transport::new(tower::service_fn(move |request: Request<OctoBody>| {
            let (answers, asked) = (Arc::clone(&answered), Arc::clone(&called));
            async move {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let caller: Caller = serde_json::from_slice(&bytes).unwrap();
                asked.lock().unwrap().push(caller.name.clone());
                let status = answers
                    .lock()
                    .unwrap()
                    .get_mut(caller.name.as_str())
                    .map(|next| if next.len() > 1 { next.remove(0) } else { next[0] });
                let status = status.unwrap_or(Some(200)).ok_or_else(|| std::io::Error::other("no way"))?;
                let body = if status == 200 { allowed(&caller.name) } else { "words".to_owned() };
                let mut response = Response::new(Full::new(bytes::Bytes::from(body)));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok::<_, std::io::Error>(response)
            }
        }));
        *controller.transport.lock().unwrap() = Some((b"a.b.c".to_vec(), transport));
        Self { controller, clock, answers, asked, _files: files }
    }

    /// The answers to a pod from now on, of which the last stays.
    fn answers(&self, name: &'static str, statuses: &[Option<u16>]) {
        self.answers.lock().unwrap().insert(name, statuses.to_vec());
    }

    async fn access(&self, name: &str) -> Result<Arc<Access>, NoAccess> {
        self.controller.access(&caller(name)).await
    }

    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }

    fn after(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }
}

/// 403, 404 and 409 are decisions. The others say that the controller decided nothing, which no pod may turn to its use either.
const ANSWERS: [u16; 9] = [400, 401, 403, 404, 408, 409, 429, 500, 503];

#[tokio::test(start_paused = true)]
async fn an_answer_about_one_pod_concerns_no_other() {
    for status in ANSWERS {
        let scene = Scene::new();
        scene.access("known").await.unwrap();
        scene.after(1);
        scene.answers("a", &[Some(status)]);
        assert!(scene.access("a").await.is_err(), "{status}");
        scene.access("known").await.unwrap();
        assert_eq!(scene.asked("known"), 2, "{status}: it is decided again, and not from memory");
        scene.access("new").await.unwrap_or_else(|error| panic!("{status}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn no_answer_leaves_an_earlier_decision_in_force() {
    for status in ANSWERS {
        let scene = Scene::new();
        scene.access("a").await.unwrap();
        scene.after(1);
        scene.answers("a", &[Some(status)]);
        let denied = scene.access("a").await.expect_err("a decision from memory");
        assert_eq!(matches!(denied, NoAccess::Refused(_)), status == 403, "{status}: {denied}");
        // What was decided against the pod counts also when the controller goes away.
        scene.answers("a", &[None]);
        scene.after(1);
        let is_decision = [403, 404, 409].contains(&status);
        assert_eq!(scene.access("a").await.is_err(), is_decision, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_were_allowed_go_on_while_the_controller_is_not_reached() {
    for answers in [&[None][..], &[Some(421)]] {
        let scene = Scene::new();
        scene.access("a").await.unwrap();
        for name in ["a", "new"] {
            scene.answers(name, answers);
        }
        scene.after(1);
        scene.access("a").await.unwrap();
        let asked = scene.asked.lock().unwrap().len();
        assert!(scene.access("new").await.is_err());
        assert_eq!(scene.asked.lock().unwrap().len(), asked, "nobody is asked twice in a second");
        scene.after(58 * 60);
        scene.access("a").await.unwrap();
        scene.after(2 * 60);
        assert!(scene.access("a").await.is_err(), "its token has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_that_do_not_lead_and_a_busy_review_are_asked_again() {
    for (status, times) in [(421, 20), (429, 20)] {
        let scene = Scene::new();
        scene.answers("a", &[vec![Some(status); times], vec![Some(200)]].concat());
        scene.access("a").await.unwrap();
        assert_eq!(scene.asked("a"), times + 1);
    }
}
