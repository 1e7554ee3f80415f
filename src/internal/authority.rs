//! The operator's own certificate authority, for the gateway and for the internal API. Pure but for the random keys.
//!
//! The invariant: an authority that workspaces do not trust yet signs nothing. Pods keep the certificates that they got when they
//! were made, so a new authority is handed out for most of a year before it signs ([`Authorities::due`]).

use crate::runtime::clock::Clock;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// The life of an authority.
const LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// How long before its end the next authority is made.
const NEXT: SignedDuration = SignedDuration::from_hours(24 * 365);
/// How long before its end it signs no more.
const OVER: SignedDuration = SignedDuration::from_hours(24 * 120);
/// The life of a certificate that an authority signs.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// How long before its end it is replaced.
const LEAF_RENEWAL: SignedDuration = SignedDuration::from_hours(24 * 30);

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const NAME: &str = "name";
const NOT_AFTER: &str = "not-after";
/// The prefix of the next authority's keys in the Secret.
const OF_NEXT: &str = "next-";

/// A certificate authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its common name, which no other authority has.
    name: String,
    certificate: String,
    key: Zeroizing<String>,
    not_after: Timestamp,
}

/// The authority that signs, and the one after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorities {
    pub current: Authority,
    pub next: Option<Authority>,
}

/// A certificate that an authority signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    pub certificate: String,
    pub key: Zeroizing<String>,
    pub not_after: Timestamp,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Sets the days of a certificate. It is good since the day before, because clocks differ.
fn set_time(params: &mut CertificateParams, now: Timestamp, not_after: Timestamp) {
    let day = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        let part = |number: i8| u8::try_from(number).unwrap_or(1);
        date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    params.not_before = day(now.checked_sub(DAY).unwrap_or(now));
    params.not_after = day(not_after);
}

/// The beginning of the day, as certificates have it.
fn end_of(now: Timestamp, life: SignedDuration) -> Timestamp {
    let end = now.checked_add(life).unwrap_or(Timestamp::MAX);
    end.to_zoned(TimeZone::UTC).start_of_day().map_or(end, |day| day.timestamp())
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn fresh(now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let id: [u8; 6] = rand::random();
        let name = format!("Landfall {}", hex::encode(id));
        let (mut params, not_after) = (params(&name), end_of(now, LIFE));
        set_time(&mut params, now, not_after);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { name, certificate, key: Zeroizing::new(key.serialize_pem()), not_after })
    }

    /// Signs a certificate for a server with these names.
    ///
    /// # Errors
    /// A name cannot be in a certificate, or the authority's key is broken.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<Leaf, rcgen::Error> {
        let issuer = Issuer::new(params(&self.name), KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let not_after = end_of(now, LEAF_LIFE).min(self.not_after);
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_time(&mut leaf, now, not_after);
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        Ok(Leaf { certificate, key: Zeroizing::new(key.serialize_pem()), not_after })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn read(data: &BTreeMap<String, ByteString>, prefix: &str) -> Option<Self> {
        let text = |key: &str| String::from_utf8(data.get(&format!("{prefix}{key}"))?.0.clone()).ok();
        Some(Self {
            name: text(NAME)?,
            certificate: text(CERTIFICATE)?,
            key: Zeroizing::new(text(KEY)?),
            not_after: text(NOT_AFTER)?.trim().parse().ok()?,
        })
    }

    fn write(&self, data: &mut BTreeMap<String, ByteString>, prefix: &str) {
        let not_after = self.not_after.to_string();
        for (key, value) in
            [(NAME, &self.name), (CERTIFICATE, &self.certificate), (KEY, &*self.key), (NOT_AFTER, &not_after)]
        {
            data.insert(format!("{prefix}{key}"), ByteString(value.clone().into_bytes()));
        }
    }
}

impl Leaf {
    /// Whether a certificate with this end is to be replaced.
    #[must_use]
    pub fn is_ending(not_after: Timestamp, now: Timestamp) -> bool {
        not_after.duration_since(now) < LEAF_RENEWAL
    }
}

impl Authorities {
    /// The content of the Secret. None if it is not complete.
    #[must_use]
    pub fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        Some(Self { current: Authority::read(data, "")?, next: Authority::read(data, OF_NEXT) })
    }

    /// The content of the Secret.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        self.current.write(&mut data, "");
        if let Some(next) = &self.next {
            next.write(&mut data, OF_NEXT);
        }
        data
    }

    /// The certificates that clients trust, as PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        [Some(&self.current), self.next.as_ref()].into_iter().flatten().map(|it| it.certificate.as_str()).collect()
    }

    /// The authorities that these have to become now. None if they stay.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn due(&self, now: Timestamp) -> Result<Option<Self>, rcgen::Error> {
        let left = self.current.not_after.duration_since(now);
        match &self.next {
            Some(next) if left < OVER => Ok(Some(Self { current: next.clone(), next: None })),
            // Nobody looked for a year: no pod can trust what comes next, whenever it comes.
            None if left < OVER => Ok(Some(Self { current: Authority::fresh(now)?, next: None })),
            None if left < NEXT => Ok(Some(Self { current: self.current.clone(), next: Some(Authority::fresh(now)?) })),
            _ => Ok(None),
        }
    }
}

/// New authorities.
///
/// # Errors
/// The system gives no random bytes.
pub fn fresh(clock: &dyn Clock) -> Result<Authorities, rcgen::Error> {
    Ok(Authorities { current: Authority::fresh(clock.now())?, next: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{CertificateError, RootCertStore};
    use std::sync::Arc;
    use std::time::Duration;

    fn accepts(bundle: &str, leaf: &Leaf, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
        verifier.verify_server_cert(&leaf, &[], &name, &[], at).map(drop)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_certificate_is_good_for_its_names_and_time() {
        let now = at("2026-11-30T12:00:00Z");
        let authorities = Authorities { current: Authority::fresh(now).unwrap(), next: None };
        let names = vec!["landfall-gateway.landfall-system.svc".to_owned(), "127.0.0.1".to_owned()];
        let leaf = authorities.current.issue(&names, now).unwrap();
        let bundle = authorities.bundle();
        for name in &names {
            accepts(&bundle, &leaf, name, now).unwrap();
        }
        let wrong = accepts(&bundle, &leaf, "landfall-gateway.team-a.svc", now).unwrap_err();
        assert!(matches!(
            wrong,
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            )
        ));
        accepts(&bundle, &leaf, &names[0], leaf.not_after - SignedDuration::from_secs(1)).unwrap();
        accepts(&bundle, &leaf, &names[0], leaf.not_after + DAY).unwrap_err();
        let stranger = Authority::fresh(now).unwrap().issue(&names, now).unwrap();
        accepts(&bundle, &stranger, &names[0], now).unwrap_err();
        assert!(!Leaf::is_ending(leaf.not_after, now) && Leaf::is_ending(leaf.not_after, now + DAY * 61));
    }

    #[test]
    fn the_secret_has_all_of_it() {
        let now = at("2026-11-30T12:00:00Z");
        let authorities =
            Authorities { current: Authority::fresh(now).unwrap(), next: Some(Authority::fresh(now).unwrap()) };
        let mut data = authorities.data();
        assert_eq!(Authorities::read(&data).as_ref(), Some(&authorities));
        assert!(!format!("{authorities:?}").contains("PRIVATE"));
        data.remove(KEY);
        assert_eq!(Authorities::read(&data), None);
    }

    /// A pod that was made after the next authority trusts what both sign, and each signs only while those pods are the most.
    #[test]
    fn the_next_authority_is_trusted_long_before_it_signs() {
        let now = at("2026-11-30T12:00:00Z");
        let first = Authorities { current: Authority::fresh(now).unwrap(), next: None };
        assert_eq!(first.due(now).unwrap(), None);
        let end = first.current.not_after;
        let early = end - DAY * 300;
        let both = first.due(early).unwrap().unwrap();
        assert_eq!(both.current, first.current);
        assert_eq!(both.due(early).unwrap(), None);
        let late = end - DAY * 100;
        let second = both.due(late).unwrap().unwrap();
        assert_eq!((Some(&second.current), &second.next), (both.next.as_ref(), &None));
        let names = ["landfall-gateway.landfall-system.svc".to_owned()];
        for signer in [&both.current, &second.current] {
            accepts(&both.bundle(), &signer.issue(&names, late).unwrap(), &names[0], late).unwrap();
        }
        // No certificate outlives its authority.
        assert!(both.current.issue(&names, end - DAY * 10).unwrap().not_after <= end);
        // An operator that was away for the whole year begins anew.
        let anew = first.due(late).unwrap().unwrap();
        assert!(anew.next.is_none() && anew.current != first.current);
    }
}
