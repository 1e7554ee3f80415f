//! Reading and writing the record of a Lease. Everything here is pure and gets the time.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as Record, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use tokio::time::Instant;

use super::TTL;

/// A record of another holder, and since when it has not changed, by this process's clock.
pub(super) struct Observed {
    spec: LeaseSpec,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The record has no holder, is our own, or has expired.
    Free,
    HeldBy(String),
}

/// The standing of a record that was just received.
pub(super) fn standing(
    spec: Option<&LeaseSpec>,
    identity: &str,
    observed: &mut Option<Observed>,
    now: Instant,
) -> Standing {
    let Some((spec, holder)) = spec.and_then(|spec| Some((spec, holder(Some(spec))?))) else { return Standing::Free };
    if holder == identity {
        return Standing::Free;
    }
    let since = match observed {
        Some(known) if known.spec == *spec => known.since,
        _ => observed.insert(Observed { spec: spec.clone(), since: now }).since,
    };
    let ttl = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    match ttl {
        Some(ttl) if now.duration_since(since) >= ttl => Standing::Free,
        // Nobody renews a record without a lease duration.
        None if now.duration_since(since) >= TTL => Standing::Free,
        _ => Standing::HeldBy(holder.to_owned()),
    }
}

pub(super) fn holder(spec: Option<&LeaseSpec>) -> Option<&str> {
    spec?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The record with `identity` as its holder, renewed.
pub(super) fn held(mut record: Record, identity: &str, ttl: Duration, now: Timestamp) -> Record {
    let spec = record.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(identity) {
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1)));
        spec.acquire_time = Some(MicroTime(now));
        spec.holder_identity = Some(identity.to_owned());
    }
    spec.lease_duration_seconds = Some(i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX));
    renewed(record, now)
}

/// The record without a holder.
pub(super) fn emptied(mut record: Record, now: Timestamp) -> Record {
    record.spec.get_or_insert_default().holder_identity = None;
    renewed(record, now)
}

fn renewed(mut record: Record, now: Timestamp) -> Record {
    record.spec.get_or_insert_default().renew_time = Some(MicroTime(now));
    // The API server keeps its own managed fields.
    record.metadata.managed_fields = None;
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_the_record_restarts_the_wait() {
        let record = |renewed: i64| LeaseSpec {
            holder_identity: Some("other".to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(renewed))),
            ..LeaseSpec::default()
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let held = || Standing::HeldBy("other".to_owned());
        let mut observed = None;
        let mut look = |spec: &LeaseSpec, seconds| standing(Some(spec), "me", &mut observed, at(seconds));
        assert_eq!(look(&record(0), 0), held());
        assert_eq!(look(&record(0), 14), held());
        assert_eq!(look(&record(1), 15), held(), "renewed just before");
        assert_eq!(look(&record(1), 29), held());
        assert_eq!(look(&record(1), 30), Standing::Free);

        let ours = LeaseSpec { holder_identity: Some("me".to_owned()), ..record(0) };
        assert_eq!(look(&ours, 30), Standing::Free);
        let empty = LeaseSpec { holder_identity: Some(String::new()), ..record(0) };
        assert_eq!(look(&empty, 30), Standing::Free);
        let endless = LeaseSpec { lease_duration_seconds: None, ..record(0) };
        assert_eq!((look(&endless, 30), look(&endless, 44), look(&endless, 45)), (held(), held(), Standing::Free));
    }
}
