//! The answers of an App's GitHub about branches, shared by all objects that follow the same branch of a repository.
//!
//! Invariant: an answer serves a look only if GitHub was asked after the reason for the look was there, and only objects
//! whose tokens read the same. A delivery is covered by an answer if it waited in an inbox before GitHub was asked.

use super::memory::Task;
use super::seen::{Granted, Seen};
use crate::api::WebhookInbox;
use crate::controllers::caches::Caches;
use crate::controllers::deliveries::{Announced, deliveries};
use crate::git::{self, Refs};
use crate::github::Repository;
use crate::ids::{InstallationId, RepositoryId};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as Turn;

/// A branch of a repository, as the tokens of an installation read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The identity of the App's connection.
    identity: String,
    installation: InstallationId,
    repository: RepositoryId,
    /// The name under which it is asked for.
    full_name: String,
    /// `None`: the default branch.
    branch: Option<String>,
}

impl Question {
    #[must_use]
    pub fn of(seen: &Seen, granted: &Granted, repository: &Repository) -> Self {
        Self {
            identity: seen.tools.identity.clone(),
            installation: granted.installation,
            repository: repository.id,
            full_name: repository.full_name.clone(),
            branch: seen.branch().map(str::to_owned),
        }
    }
}

/// A moment in the order of this process's questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    #[cfg(test)]
    #[must_use]
    pub fn after(moment: Self) -> Self {
        Self(moment.0 + 1)
    }
}

/// An answer, and when GitHub was asked.
#[derive(Clone, Debug)]
pub struct Answer {
    pub refs: Result<Refs, git::Error>,
    pub at: Timestamp,
    moment: Moment,
    /// The last delivery that waited in each inbox then.
    waited: BTreeMap<String, i64>,
}

/// The answers that serve a look.
#[derive(Clone, Debug)]
pub enum Need {
    /// GitHub has to be asked from now on.
    Now,
    /// It was asked after this moment.
    After(Moment),
    /// It was asked after this time, for a poll.
    Since(Timestamp),
    /// It was asked after these deliveries were there.
    Covering(Vec<Announced>),
}

impl Need {
    /// The need of a look at `now`.
    #[must_use]
    pub fn of(seen: &Seen, now: Timestamp) -> Self {
        let known = &seen.known;
        if seen.is_asked() || seen.is_wanted() || known.failed.contains_key(&Task::Look) {
            return Self::Now;
        }
        if seen.is_announced() {
            let waits = seen.pending.iter().filter(|pending| pending.needs_look);
            return Self::Covering(waits.map(|pending| pending.mark.announced.clone()).collect());
        }
        let Some(looked) = &known.looked else {
            return known.first_heard.map_or(Self::Now, Self::After);
        };
        let interval = seen.object.spec.poll_interval.parse().unwrap_or(SignedDuration::ZERO);
        let is_poll = looked.at.checked_add(interval).is_ok_and(|due| due <= now)
            && looked.asked.as_deref() == seen.branch()
            && looked.access == seen.access();
        match now.checked_sub(interval / 2) {
            Ok(since) if is_poll && interval.is_positive() => Self::Since(since.max(looked.at)),
            _ => Self::Now,
        }
    }

    /// Whether this answer serves a look that began at `came`.
    fn is_met_by(&self, answer: &Answer, came: Moment) -> bool {
        if answer.moment > came {
            return true;
        }
        // A failure is shared only by those who waited while it happened.
        answer.refs.is_ok()
            && match self {
                Self::Now => false,
                Self::After(moment) => answer.moment > *moment,
                Self::Since(time) => answer.at > *time,
                Self::Covering(deliveries) => {
                    deliveries.iter().all(|(inbox, number)| answer.waited.get(inbox).is_some_and(|last| last >= number))
                }
            }
    }
}

/// The last answer to each question.
#[derive(Default)]
pub struct Answers {
    by_question: Mutex<Questions>,
    moments: AtomicU64,
}

#[derive(Default)]
struct Questions {
    all: HashMap<Question, Arc<Turn<Option<Answer>>>>,
    /// The number of questions at which those are forgotten that nobody asks now.
    most: usize,
}

impl Answers {
    /// The current moment: a question that is asked from now on comes after it.
    #[must_use]
    pub fn moment(&self) -> Moment {
        Moment(self.moments.load(Ordering::SeqCst))
    }

    /// The moment of something that happens now.
    #[must_use]
    pub fn next_moment(&self) -> Moment {
        Moment(self.moments.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// An answer that serves the need. One caller asks at a time, and those that wait meanwhile share the next answer.
    pub async fn get(
        &self,
        question: Question,
        need: &Need,
        caches: &Caches,
        now: impl Fn() -> Timestamp,
        ask: impl Future<Output = Result<Refs, git::Error>>,
    ) -> Answer {
        let came = self.moment();
        let turn = self.turn(question);
        let mut last = turn.lock().await;
        if let Some(answer) = last.as_ref().filter(|answer| need.is_met_by(answer, came)) {
            return answer.clone();
        }
        let moment = self.next_moment();
        let (at, waited) = (now(), waiting(caches));
        let answer = Answer { refs: ask.await, at, moment, waited };
        *last = Some(answer.clone());
        answer
    }

    fn turn(&self, question: Question) -> Arc<Turn<Option<Answer>>> {
        let mut questions = self.by_question.lock().unwrap_or_else(PoisonError::into_inner);
        if questions.all.len() > questions.most && !questions.all.contains_key(&question) {
            questions.all.retain(|_, turn| Arc::strong_count(turn) > 1);
            questions.most = 2 * questions.all.len() + 1000;
        }
        Arc::clone(questions.all.entry(question).or_default())
    }
}

/// The last delivery in each inbox. A receiver numbers the deliveries of its inbox upwards.
fn waiting(caches: &Caches) -> BTreeMap<String, i64> {
    let inboxes = caches.all::<WebhookInbox>();
    let last = inboxes
        .iter()
        .filter_map(|inbox| Some((inbox.name_any(), deliveries(inbox).map(|delivery| delivery.id).max()?)));
    last.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Head;
    use crate::ids::id;
    use std::sync::atomic::AtomicUsize;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn question() -> Question {
        Question {
            identity: "x".into(),
            installation: id(501),
            repository: id(9001),
            full_name: "acme/shop".into(),
            branch: None,
        }
    }

    fn refs() -> Refs {
        Refs { default_branch: None, head: Head::Empty }
    }

    async fn ask(answers: &Answers, need: &Need, second: i64, asked: &AtomicUsize) -> Timestamp {
        let exchange = async {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(refs())
        };
        answers.get(question(), need, &Caches::default(), || at(second), exchange).await.at
    }

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_share_two_questions_at_most() {
        let (answers, asked) = (Answers::default(), AtomicUsize::new(0));
        let all = (0..50).map(|_| ask(&answers, &Need::Now, 0, &asked));
        futures::future::join_all(all).await;
        // The first began before the others came, and the second serves them all.
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        ask(&answers, &Need::Now, 1, &asked).await;
        assert_eq!(asked.load(Ordering::SeqCst), 3, "a later one needs a later answer");
    }

    #[tokio::test]
    async fn a_poll_takes_an_answer_that_is_recent_and_a_first_look_one_that_came_after_its_object() {
        let (answers, asked) = (Answers::default(), AtomicUsize::new(0));
        let before = answers.moment();
        ask(&answers, &Need::Now, 100, &asked).await;
        assert_eq!(ask(&answers, &Need::Since(at(90)), 110, &asked).await, at(100));
        assert_eq!(ask(&answers, &Need::After(before), 110, &asked).await, at(100));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(ask(&answers, &Need::After(answers.moment()), 110, &asked).await, at(110));
        assert_eq!(ask(&answers, &Need::Since(at(110)), 120, &asked).await, at(120));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_delivery_is_covered_by_a_question_that_was_asked_after_it_came() {
        let waited = BTreeMap::from([("one".to_owned(), 7)]);
        let answer = Answer { refs: Ok(refs()), at: at(0), moment: Moment(1), waited };
        let is_met = |deliveries: &[(&str, i64)]| {
            let deliveries = deliveries.iter().map(|(inbox, number)| ((*inbox).to_owned(), *number)).collect();
            Need::Covering(deliveries).is_met_by(&answer, Moment(1))
        };
        assert!(is_met(&[("one", 7)]) && is_met(&[("one", 3)]));
        assert!(!is_met(&[("one", 8)]) && !is_met(&[("two", 1)]) && !is_met(&[("one", 3), ("two", 1)]));
    }

    #[test]
    fn a_failure_serves_only_those_who_waited_for_it() {
        let refused = git::Error::CredentialsRefused { remote: "r".into(), message: "no".into() };
        let answer = Answer { refs: Err(refused), at: at(5), moment: Moment(2), waited: BTreeMap::new() };
        assert!(Need::Now.is_met_by(&answer, Moment(1)));
        assert!(!Need::Since(at(0)).is_met_by(&answer, Moment(2)));
    }
}
