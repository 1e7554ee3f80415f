//! A push, from its commands to GitHub's report.
//!
//! The invariant: the last part of a push goes to GitHub after the pod's access was asked for once more, and no task that a client can
//! end decides whether a push is recorded or concluded.

use super::super::answer::{self, Body, Refusal};
use super::super::commands::{Progress, Push, PushError, PushReader};
use super::super::fast_forward::{Staged, stageable};
use super::super::identity::{Access, NoAccess};
use super::super::limits::Place;
use super::super::metrics::PushResult;
use super::super::report_status::refusal;
use super::super::stream::{Reader, Sender, StreamError, pipe};
use super::super::upstream::{Failed, Passed, Upstream, answer_type};
use super::audit::Record;
use super::{Call, GatewayService, Upload};
use crate::github::transport;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use octocrab::OctoBody;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The bytes of a push's commands that need no place of their own: about 500 refs.
const SMALL_HEAD: usize = 64 << 10;
/// The bytes of commands that are parsed at once, between two looks at the size.
const SLICE: usize = 16 << 10;
/// Time for such a place, and for the commands then.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Time for the rest of a push that was refused while it arrived.
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// The most bytes of GitHub's answer to a push of which branches are moved afterwards.
const LONGEST_REPORT: u64 = 8 << 20;

/// A push that was allowed.
struct Allowed {
    call: Call,
    record: Record,
    /// The commands as GitHub is sent them.
    head: Bytes,
    /// The part of the pack that arrived with the commands.
    pack: Bytes,
    upload: Reader<Incoming>,
    /// The push as git sent it, if branches are to be moved.
    staged: Option<(Push, Staged)>,
    upstream: Arc<Upstream>,
}

/// The right to a push under way.
struct Rights {
    service: Arc<GatewayService>,
    call: super::Caller,
    access: Arc<Access>,
    route: super::Route,
}

impl Rights {
    /// Asks whether the workspace may still do what it might when the push was judged.
    async fn check(&self) -> Result<(), Refusal> {
        let access = self.service.current(&self.call, &self.route).await?;
        if *access == *self.access {
            return Ok(());
        }
        let words = "the rights of the workspace changed during the push; push again";
        Err(Refusal::NoAccess(NoAccess::Refused(words.into())))
    }

    /// Sends the commands and the pack. The last part waits for the last look at the rights: a pack shows its end itself, so GitHub
    /// may take it for complete before the body is.
    async fn send(self, to: Sender, (head, pack): (Bytes, Bytes), mut upload: Reader<Incoming>) -> Result<(), Refusal> {
        let time = upload.time();
        match self.sent(&to, (head, pack), &mut upload).await {
            Ok(()) => Ok(to.end(time).await?),
            Err(refusal @ (Refusal::NoAccess(_) | Refusal::OtherRepository)) => {
                // git reads the answer after it has sent everything.
                let _ = timeout(DISCARD_TIME, upload.discard()).await;
                Err(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn sent(
        &self,
        to: &Sender,
        (head, pack): (Bytes, Bytes),
        upload: &mut Reader<Incoming>,
    ) -> Result<(), Refusal> {
        let (time, counted) = (upload.time(), self.service.surroundings.metrics.to_github());
        to.send(head, time).await?;
        let (mut waiting, mut checked_at) = (pack, Instant::now());
        while let Some(bytes) = upload.next().await? {
            if checked_at.elapsed() >= self.service.limits.recheck {
                self.check().await?;
                checked_at = Instant::now();
            }
            let bytes = std::mem::replace(&mut waiting, bytes);
            if !bytes.is_empty() {
                counted.inc_by(bytes.len() as u64);
                to.send(bytes, time).await?;
            }
        }
        self.check().await?;
        if !waiting.is_empty() {
            counted.inc_by(waiting.len() as u64);
            to.send(waiting, time).await?;
        }
        Ok(())
    }
}

impl GatewayService {
    pub(super) async fn push(self: &Arc<Self>, mut call: Call, body: Incoming) -> Result<Response<Body>, Refusal> {
        let upload = Reader::decoded(&call.headers, body, self.limits.push, call.time)?;
        let mut upload = upload.of_connection(call.gone.clone());
        let (mut push, pack, place) = match self.commands(&call.pod.namespace, &mut upload).await {
            Ok(read) => read,
            Err(refusal @ Refusal::Push(_)) => {
                upload.discard().await?;
                return Err(refusal);
            }
            Err(refusal) => return Err(refusal),
        };
        let kind = answer_type(&call.route);
        if push.commands.is_empty() {
            // git's probe: it learns from the status whether it has to authenticate.
            upload.discard().await?;
            return Ok(answer::own(StatusCode::OK, &kind, Bytes::new()));
        }
        // The commands may have taken their time.
        call.access = match self.current(&call.caller, &call.route).await {
            Ok(access) => access,
            Err(refusal) => {
                upload.discard().await?;
                return Err(refusal);
            }
        };
        let judged = self.surroundings.guards.verdicts(call.access.policy.judge(&push));
        let verdicts = stageable(&push, judged);
        let record = Record::new(&call, &push);
        if verdicts.iter().any(Result::is_err) {
            self.surroundings.metrics.pushed(PushResult::Refused);
            self.surroundings.metrics.refused_refs(verdicts.iter().filter(|verdict| verdict.is_err()).count());
            record.refused(&push);
            upload.discard().await?;
            return Ok(answer::own(StatusCode::OK, &kind, refusal(&push, &verdicts)));
        }
        let is_well_formed = push.has_pack() || (pack.is_empty() && upload.next().await?.is_none());
        if !is_well_formed {
            return Err(Refusal::Push(PushError::Malformed("what follows its deletions")));
        }
        let upstream = self.open(&call).await?;
        let staged = Staged::of(&push, &verdicts, &call.access.uid, (Timestamp::now(), rand::random()));
        record.begun(&push);
        let (head, staged) = match staged {
            None => {
                let head = push.encode();
                drop(push);
                (head, None)
            }
            Some((sent, staged)) => {
                push.shallow = Vec::new();
                (sent.encode(), Some((push, staged)))
            }
        };
        // Only the bytes for GitHub are left of the commands, or a few of them.
        drop((verdicts, place));
        let allowed = Allowed { call, record, head, pack, upload, staged, upstream };
        // A client that hangs up ends its request, and not this task.
        let exchanged = self.transfers.spawn(Arc::clone(self).exchange_push(allowed));
        exchanged.await.map_err(|_| Refusal::Upstream(Failed::NotGit))?
    }

    async fn exchange_push(self: Arc<Self>, allowed: Allowed) -> Result<Response<Body>, Refusal> {
        let Allowed { call, record, head, pack, upload, staged, upstream } = allowed;
        let (sender, piped) = pipe();
        let rights = Rights {
            service: Arc::clone(&self),
            call: call.caller.clone(),
            access: Arc::clone(&call.access),
            route: call.route.clone(),
        };
        let mut sending: Option<Upload> = Some(Box::pin(rights.send(sender, (head, pack), upload)));
        let passed = Passed::decoded(&call.headers);
        let response = self.exchange(&call, &upstream, &passed, OctoBody::new(piped), &mut sending).await;
        let result = if response.is_ok() { PushResult::Answered } else { PushResult::Failed };
        self.surroundings.metrics.pushed(result);
        record.ended(result);
        let response = response?;
        match staged {
            None => Ok(self.passed_on(call, response, sending)),
            Some(staged) => self.conclude(call, staged, (response, sending), upstream).await,
        }
    }

    /// Moves the branches of a push that GitHub has taken.
    async fn conclude(
        &self,
        call: Call,
        (push, staged): (Push, Staged),
        (response, sending): (Response<transport::Body>, Option<Upload>),
        upstream: Arc<Upstream>,
    ) -> Result<Response<Body>, Refusal> {
        let answer = Reader::plain(response.into_body(), LONGEST_REPORT, call.time).bytes();
        let upload = async {
            if let Some(upload) = sending {
                let _ = upload.await;
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            biased;
            answer = answer => answer?,
            () = upload => return Err(Refusal::Upstream(Failed::NotGit)),
        };
        let told = staged.conclude(&push, &answer, &upstream).await;
        let Call { held, route, .. } = call;
        self.transfers.spawn(async move {
            upstream.remove_incoming(Timestamp::now()).await;
            drop(held);
        });
        let told = told.ok_or(Refusal::Upstream(Failed::NotGit))?;
        Ok(answer::own(StatusCode::OK, &answer_type(&route), told))
    }

    /// Reads a push up to its pack. One with many commands needs a place among those, and has to arrive soon.
    async fn commands(
        &self,
        namespace: &str,
        upload: &mut Reader<Incoming>,
    ) -> Result<(Push, Bytes, Option<Place>), Refusal> {
        let (mut reader, mut place, mut until) = (PushReader::default(), None, None);
        let mut rest = Bytes::new();
        loop {
            if rest.is_empty() {
                let next = upload.next();
                let bytes = match until {
                    None => next.await?,
                    Some(until) => timeout_at(until, next).await.map_err(|_| StreamError::Slow)??,
                };
                let Some(bytes) = bytes else { break };
                rest = bytes;
            }
            let slice = rest.split_to(rest.len().min(SLICE));
            if place.is_none() && reader.read() + slice.len() > SMALL_HEAD {
                let found = timeout(HEAD_TIME, self.large_heads.take(namespace)).await.map_err(|_| Refusal::Busy)?;
                place = Some(found.ok_or(Refusal::Busy)?);
                until = Some(Instant::now() + HEAD_TIME);
            }
            if reader.push(&slice)? == Progress::Complete {
                break;
            }
        }
        let (push, pack) = reader.finish()?;
        let pack = if rest.is_empty() {
            pack
        } else {
            let mut all = BytesMut::from(pack);
            all.extend_from_slice(&rest);
            all.freeze()
        };
        Ok((push, pack, place))
    }
}
