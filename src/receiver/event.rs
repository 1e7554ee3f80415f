//! Reading a delivery: a handful of fields are kept, and nothing else.
//!
//! Invariant: reading costs memory in proportion to the number of bytes, and no stack. Unwanted values are skipped without
//! being built, however deeply they are nested, and a wanted field of another type than GitHub's counts as absent. Nothing
//! here is trusted: the signature covers only the body, so the sender can choose the event's name and GUID, and a delivery
//! only ever makes the operator look. `X-GitHub-Enterprise-Host` and `-Version` are not read at all.
//!
//! Source: <https://docs.github.com/en/webhooks/webhook-events-and-payloads>.

use crate::ids::{AccountId, RepositoryId};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

pub const EVENT_HEADER: &str = "x-github-event";
pub const GUID_HEADER: &str = "x-github-delivery";
/// The most characters of an event, an action or a commit id, as in the definitions of our kinds.
const LONGEST_WORD: usize = 64;
/// The most characters of a ref, as in the definitions of our kinds.
const LONGEST_REF: usize = 1024;
/// A selection with more repositories counts as a selection of all repositories of the account.
pub const MOST_LISTED: usize = 10_000;

/// Why a request is not a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("X-GitHub-Event is missing or is not the name of an event")]
    Name,
    #[error("X-GitHub-Delivery is missing or is not a GUID")]
    Guid,
    #[error("Content-Type is neither application/json nor application/x-www-form-urlencoded")]
    ContentType,
    #[error("the form has no field `payload`")]
    Form,
    #[error("the payload is not the JSON of an event")]
    Json,
    #[error("`{0}` in the payload has a control character")]
    ControlCharacter(&'static str),
}

/// The headers of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Lower-case letters, digits and underscores, as in `projects_v2_item`.
    pub event: String,
    /// In lower case.
    pub guid: String,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Form,
}

impl Head {
    pub fn read(headers: &HeaderMap) -> Result<Self, EventError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let event = text(EVENT_HEADER).filter(|name| is_event(name)).ok_or(EventError::Name)?;
        let guid = text(GUID_HEADER).filter(|guid| is_guid(guid)).ok_or(EventError::Guid)?;
        let media = text(CONTENT_TYPE.as_str()).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let format = match media {
            json if json.eq_ignore_ascii_case("application/json") => Format::Json,
            form if form.eq_ignore_ascii_case("application/x-www-form-urlencoded") => Format::Form,
            _ => return Err(EventError::ContentType),
        };
        Ok(Self { event: event.to_owned(), guid: guid.to_ascii_lowercase(), format })
    }
}

fn is_event(name: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=LONGEST_WORD).contains(&name.len()) && name.bytes().all(is_usual)
}

fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The fields of a payload that the receiver uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    pub action: Option<String>,
    /// The pushed ref.
    pub reference: Option<String>,
    /// The commit that the ref points to now; none if it was deleted.
    pub sha: Option<String>,
    pub repository: Option<Repository>,
    /// The repositories that were added to an installation or removed from it.
    pub selection: Option<Selection>,
    /// The account of the installation that an event is about.
    pub account: Option<Account>,
}

/// An account in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub login: Option<String>,
}

/// The repositories that were added to an installation or removed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The id of the installation's account.
    pub owner: AccountId,
    /// Their ids. Empty if GitHub does not list them, as when all unselected repositories were removed at once, or if they
    /// are more than [`MOST_LISTED`].
    pub repositories: BTreeSet<RepositoryId>,
}

/// A repository in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub id: RepositoryId,
    /// Its name and, after a rename, the former one.
    pub names: Vec<String>,
    /// Its owner's id and, after a transfer, the former owner's.
    pub owners: Vec<AccountId>,
}

impl Account {
    fn of(raw: RawAccount<'_>) -> Option<Self> {
        Some(Self { id: raw.id.number()?, login: raw.login.text().map(Cow::into_owned) })
    }
}

impl Payload {
    pub fn read(head: &Head, body: &[u8]) -> Result<Self, EventError> {
        match head.format {
            Format::Json => Self::of_json(body),
            Format::Form => {
                let mut fields = url::form_urlencoded::parse(body);
                let (_, payload) = fields.find(|(name, _)| name == "payload").ok_or(EventError::Form)?;
                Self::of_json(payload.as_bytes())
            }
        }
    }

    fn of_json(json: &[u8]) -> Result<Self, EventError> {
        let Ok(Object(Some(raw))) = serde_json::from_slice::<Object<Raw<'_>>>(json) else {
            return Err(EventError::Json);
        };
        let repository = raw.repository.0.and_then(|raw_repository| {
            let changes = raw.changes.0.unwrap_or_default();
            let former_name =
                changes.repository.0.and_then(|repository| repository.name.0).and_then(|name| name.from.text());
            let former_owner = changes
                .owner
                .0
                .and_then(|owner| owner.from.0)
                .and_then(|from| from.user.0.or(from.organization.0).and_then(|owner| owner.id.number()));
            let name = raw_repository.name.text()?;
            let owner = raw_repository.owner.0?.id.number()?;
            Some(Repository {
                id: raw_repository.id.number()?,
                names: [Some(name), former_name].into_iter().flatten().map(Cow::into_owned).collect(),
                owners: [Some(owner), former_owner].into_iter().flatten().collect(),
            })
        });
        let installed_on = raw.installation.0.and_then(|installation| installation.account.0).and_then(Account::of);
        // Status is printed in terminals, and git allows no control character in a ref.
        let printable = |field, text: Option<Cow<'_, str>>, longest| {
            if text.as_ref().is_some_and(|text| text.contains(|c: char| c.is_ascii_control())) {
                return Err(EventError::ControlCharacter(field));
            }
            Ok(text.filter(|text| text.len() <= longest).map(Cow::into_owned))
        };
        Ok(Self {
            action: printable("action", raw.action.text(), LONGEST_WORD)?,
            reference: printable("ref", raw.reference.text(), LONGEST_REF)?,
            sha: raw.after.text().filter(|sha| is_commit(sha)).map(Cow::into_owned),
            repository,
            selection: installed_on.as_ref().map(|account| {
                let listed = raw.repositories_added.0.zip(raw.repositories_removed.0);
                let repositories = listed.map(|(added, removed)| &added | &removed);
                let repositories = repositories.filter(|all| all.len() <= MOST_LISTED).unwrap_or_default();
                Selection { owner: account.id, repositories }
            }),
            // The event about a renamed account has it outside of the installation.
            account: installed_on.or_else(|| raw.account.0.and_then(Account::of)),
        })
    }
}

/// A commit id of SHA-1 or SHA-256, but not the zeros that stand for a deleted ref.
fn is_commit(sha: &str) -> bool {
    matches!(sha.len(), 40 | 64)
        && sha.bytes().all(|byte| byte.is_ascii_hexdigit())
        && sha.bytes().any(|byte| byte != b'0')
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    action: Scalar<'a>,
    #[serde(borrow, default, rename = "ref")]
    reference: Scalar<'a>,
    #[serde(borrow, default)]
    after: Scalar<'a>,
    #[serde(borrow, default)]
    repository: Object<RawRepository<'a>>,
    #[serde(borrow, default)]
    changes: Object<RawChanges<'a>>,
    #[serde(borrow, default)]
    installation: Object<RawInstallation<'a>>,
    #[serde(borrow, default)]
    account: Object<RawAccount<'a>>,
    #[serde(default)]
    repositories_added: Ids,
    #[serde(default)]
    repositories_removed: Ids,
}

#[derive(Deserialize)]
struct RawInstallation<'a> {
    #[serde(borrow, default)]
    account: Object<RawAccount<'a>>,
}

#[derive(Deserialize)]
struct RawRepository<'a> {
    #[serde(default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    name: Scalar<'a>,
    #[serde(borrow, default)]
    owner: Object<RawAccount<'a>>,
}

/// An object of which only the id and the login are used.
#[derive(Deserialize)]
struct RawAccount<'a> {
    #[serde(borrow, default)]
    id: Scalar<'a>,
    #[serde(borrow, default)]
    login: Scalar<'a>,
}

/// `changes.repository.name.from` of a rename, `changes.owner.from.{user,organization}.id` of a transfer.
#[derive(Default, Deserialize)]
struct RawChanges<'a> {
    #[serde(borrow, default)]
    repository: Object<RawRename<'a>>,
    #[serde(borrow, default)]
    owner: Object<RawTransfer<'a>>,
}

#[derive(Deserialize)]
struct RawRename<'a> {
    #[serde(borrow, default)]
    name: Object<RawFrom<'a>>,
}

#[derive(Deserialize)]
struct RawFrom<'a> {
    #[serde(borrow, default)]
    from: Scalar<'a>,
}

#[derive(Deserialize)]
struct RawTransfer<'a> {
    #[serde(borrow, default)]
    from: Object<RawFormerOwner<'a>>,
}

#[derive(Deserialize)]
struct RawFormerOwner<'a> {
    #[serde(borrow, default)]
    user: Object<RawAccount<'a>>,
    #[serde(borrow, default)]
    organization: Object<RawAccount<'a>>,
}

/// A value; only text and natural numbers are used.
#[derive(Default)]
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    #[default]
    Other,
}

impl<'a> Scalar<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn number<I: TryFrom<u64>>(self) -> Option<I> {
        if let Self::Number(number) = self { number.try_into().ok() } else { None }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Number(number))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The ids of the objects in an array; none if there are more than [`MOST_LISTED`]. Other values count as an empty array.
struct Ids(Option<BTreeSet<RepositoryId>>);

impl Default for Ids {
    fn default() -> Self {
        Self(Some(BTreeSet::new()))
    }
}

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut ids = BTreeSet::new();
                while let Some(element) = seq.next_element::<Object<RawAccount<'de>>>()? {
                    ids.extend(element.0.and_then(|listed| listed.id.number::<RepositoryId>()));
                    if ids.len() > MOST_LISTED {
                        while seq.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Ids(None));
                    }
                }
                Ok(Ids(Some(ids)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Ids::default())
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Ids::default())
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A value; only an object is used.
struct Object<T>(Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let object = T::deserialize(serde::de::value::MapAccessDeserializer::new(map));
                Ok(Object(Some(object.map_err(A::Error::custom)?)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Object(None))
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Object(None))
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

#[cfg(test)]
mod tests;
