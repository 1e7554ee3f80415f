//! Tenants against each other, on a clock that only the tests move.

use super::*;
use std::collections::BTreeSet;

fn at(millisecond: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millisecond).unwrap()
}

fn caller<'a>(uid: &'a str, namespace: &'a str) -> Caller<'a> {
    Caller { uid, namespace, app: "landfall" }
}

fn first(rations: &Rations, uid: &str, namespace: &str, now: Timestamp) -> Result<(), Wait> {
    rations.mint(caller(uid, namespace), Purpose::First, Limits::None, now)
}

#[test]
fn an_object_and_a_namespace_have_their_allowances() {
    let rations = Rations::default();
    for _ in 0..10 {
        first(&rations, "a", "team", at(0)).unwrap();
    }
    assert_eq!(first(&rations, "a", "team", at(0)), Err(Wait { of: Of::Object, until: at(10_000) }));
    first(&rations, "b", "team", at(0)).expect("another object has its own");
    first(&rations, "a", "team", at(10_000)).expect("time gives it back");
    let storm = (0..1000).filter(|n| first(&rations, &format!("object-{n}"), "team", at(10_000)).is_ok()).count();
    assert!(storm < 200, "{storm}: many objects do not make a namespace's allowance larger");
    first(&rations, "c", "other", at(10_000)).expect("another namespace has its own");
}

#[test]
fn an_outage_does_not_use_up_renewals() {
    let rations = Rations::default();
    let caller = caller("a", "team");
    for attempt in 0..20 {
        let now = at(attempt * 10_000);
        rations.mint(caller, Purpose::Renewal, Limits::None, now).unwrap();
        rations.not_minted(caller, Purpose::Renewal);
    }
    // The namespace paid for none of them.
    let firsts = (0..1000).filter(|n| first(&rations, &format!("object-{n}"), "team", at(190_000)).is_ok()).count();
    assert_eq!(firsts, 200);
}

#[test]
fn the_objects_of_a_namespace_wait_for_turns_of_their_own() {
    let rations = Rations::default();
    let mut due: BTreeSet<_> = (0..500).map(|object| (at(0), object)).collect();
    let (mut last, mut looks) = (at(0), 0);
    while let Some((now, object)) = due.pop_first() {
        looks += 1;
        last = now;
        if let Err(Wait { until, .. }) = first(&rations, &format!("object-{object}"), "team", now) {
            assert!(until > now && until <= now + TURNS);
            due.insert((until, object));
        }
    }
    assert_eq!(last, at(300 * 3000), "one each three seconds after the first 200, to the millisecond");
    assert!(looks < 2 * 500, "{looks}: hardly anybody comes in vain");
}

/// Objects whose tokens live for an hour, and how long before the end each is renewed.
struct Tenant {
    name: &'static str,
    tokens: usize,
    limits: Limits,
}

/// Lets the tokens of tenants be renewed for three hours, while other objects of `busy` are made all the time. Returns
/// the shortest time before the end of a token at which its successor was minted, by tenant.
fn renewals(tenants: &[Tenant], busy: Option<&str>) -> HashMap<&'static str, SignedDuration> {
    let rations = Rations::default();
    let mut shortest: HashMap<_, _> = tenants.iter().map(|it| (it.name, SignedDuration::MAX)).collect();
    // All were minted together, so that they fall due within five minutes: 15 to 10 minutes before their end.
    let mut due: BTreeSet<(Timestamp, usize, usize, Timestamp)> = BTreeSet::new();
    let life = SignedDuration::from_hours(1);
    let renewal =
        |number: usize| SignedDuration::from_millis(2_700_000 + (i64::try_from(number).unwrap() * 7919) % 300_000);
    for (tenant, it) in tenants.iter().enumerate() {
        due.extend((0..it.tokens).map(|number| (at(0) + renewal(number), tenant, number, at(0) + life)));
    }
    let mut made = 0;
    while let Some((now, tenant, number, end)) = due.pop_first() {
        if now > at(3 * 3_600_000) {
            break;
        }
        // Somebody makes new objects faster than any limit allows.
        if let Some(busy) = busy {
            made += 1;
            let _ = rations.mint(caller(&format!("new-{made}"), busy), Purpose::First, Limits::OfGitHub, now);
        }
        let Tenant { name, limits, .. } = &tenants[tenant];
        match rations.mint(caller(&format!("{name}-{number}"), name), Purpose::Renewal, *limits, now) {
            Ok(()) => {
                let left = end.duration_since(now);
                shortest.entry(*name).and_modify(|shortest| *shortest = left.min(*shortest));
                due.insert((now + renewal(number), tenant, number, now + life));
            }
            Err(Wait { until, .. }) => {
                assert!(until > now, "nobody waits without a time");
                due.insert((until, tenant, number, end));
            }
        }
    }
    shortest
}

#[test]
fn the_tokens_of_a_large_namespace_are_renewed_in_time() {
    for limits in [Limits::OfGitHub, Limits::None] {
        let shortest = renewals(&[Tenant { name: "large", tokens: 950, limits }], None)["large"];
        assert!(shortest > SignedDuration::from_mins(4), "{limits:?}: {shortest:#}");
    }
    let ten = renewals(&[Tenant { name: "large", tokens: 9500, limits: Limits::None }], None)["large"];
    assert!(ten > SignedDuration::from_mins(9), "{ten:#}");
}

#[test]
fn a_tenant_that_uses_up_the_app_delays_no_renewal_of_another() {
    let limits = Limits::OfGitHub;
    // 20,000 tokens need five times as many mints as GitHub gives an App.
    for tokens in [2000, 20_000] {
        let tenants = [Tenant { name: "honest", tokens: 50, limits }, Tenant { name: "greedy", tokens, limits }];
        let shortest = renewals(&tenants, Some("greedy"))["honest"];
        assert!(shortest > SignedDuration::from_mins(9), "beside {tokens}: {shortest:#}");
    }
}

#[test]
fn first_mints_leave_room_for_renewals() {
    let rations = Rations::default();
    let mint =
        |uid: &str, namespace: &str, purpose| rations.mint(caller(uid, namespace), purpose, Limits::OfGitHub, at(0));
    let spaces: Vec<_> = (0..10).map(|number| format!("team-{number}")).collect();
    let made = (0..1000).filter(|n| mint(&format!("o-{n}"), &spaces[n % 10], Purpose::First).is_ok()).count();
    assert!((85..=255).contains(&made), "{made} first mints at once");
    let renewed = (0..10).filter(|n| mint(&format!("r-{n}"), &spaces[*n], Purpose::Renewal).is_ok()).count();
    assert_eq!(renewed, 10);
}

#[test]
fn no_hour_has_more_mints_than_github_allows() {
    let rations = Rations::default();
    let mut minted = 0;
    for second in 0..3600 {
        for number in 0..10 {
            let (uid, namespace) = (format!("{second}-{number}"), format!("team-{number}"));
            let purpose = if number % 2 == 0 { Purpose::Renewal } else { Purpose::First };
            let mint = rations.mint(caller(&uid, &namespace), purpose, Limits::OfGitHub, at(second * 1000));
            minted += usize::from(mint.is_ok());
        }
    }
    assert!((4000..=4850).contains(&minted), "{minted}");
}

#[test]
fn tokens_that_github_does_not_know_are_rationed_by_object_namespace_and_in_all() {
    let rations = Rations::default();
    let sent = |uid: &str, namespace: &str, now| rations.send_unknown(uid, namespace, now).is_ok();
    assert_eq!((0..100).filter(|_| sent("a", "team", at(0))).count(), 3);
    assert_eq!((0..100).filter(|n| sent(&format!("b-{n}"), "team", at(0))).count(), 7);
    let all = (0..1000).filter(|n| sent(&format!("c-{n}"), &format!("team-{n}"), at(0))).count();
    assert_eq!(all, 50);
    let wait = rations.send_unknown("d", "team-d", at(0)).unwrap_err();
    assert!(wait.of == Of::All && wait.until > at(0), "{wait:?}");
    rations.send_unknown("d", "team-d", at(3000)).unwrap();
    // A token that GitHub knew costs nothing.
    for _ in 0..1000 {
        rations.send_unknown("e", "team-e", at(6000)).unwrap();
        rations.was_known("e", "team-e");
    }
}
