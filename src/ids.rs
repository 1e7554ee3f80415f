//! GitHub's ids: a type for each kind of them, so that none is taken for another.
//!
//! Invariant: an id is positive and fits into an i64, which is the integer of Kubernetes' API. A number that is no id is refused
//! where it is read, and never becomes one.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The error of a number that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id of GitHub's is a whole number from 1 to {}", i64::MAX)]
pub struct NotAnId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "i64")]
        pub struct $name(i64);

        impl $name {
            /// The number.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = NotAnId;

            fn try_from(number: i64) -> Result<Self, NotAnId> {
                if number > 0 { Ok(Self(number)) } else { Err(NotAnId) }
            }
        }

        impl TryFrom<u64> for $name {
            type Error = NotAnId;

            fn try_from(number: u64) -> Result<Self, NotAnId> {
                i64::try_from(number).map_err(|_| NotAnId)?.try_into()
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                text.parse::<i64>().map_err(|_| NotAnId)?.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        /// The schema of an i64: fields of a spec add the minimum.
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                i64::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                i64::json_schema(generator)
            }
        }
    )*};
}

ids! {
    /// The id of a repository. A rename or transfer does not change it.
    RepositoryId,
    /// The id of an App's installation. A reinstallation gets another one.
    InstallationId,
    /// The id of a user, an organization, a bot or an enterprise. A rename does not change it.
    AccountId,
    /// The id of an App, unique on its host only.
    AppId,
    /// The id of a repository's webhook.
    HookId,
}

/// Reads an id in a status, which a tenant may have written: a number that is no id counts as absent.
pub fn lenient<'de, D: Deserializer<'de>, I: TryFrom<i64>>(deserializer: D) -> Result<Option<I>, D::Error> {
    Ok(Option::<i64>::deserialize(deserializer)?.and_then(|number| number.try_into().ok()))
}

/// Reads a list of ids in a status, without the numbers that are no ids.
pub fn lenient_list<'de, D: Deserializer<'de>, I: TryFrom<i64>>(deserializer: D) -> Result<Vec<I>, D::Error> {
    Ok(Vec::<i64>::deserialize(deserializer)?.into_iter().filter_map(|number| number.try_into().ok()).collect())
}

/// The id with this number, for tests.
#[cfg(test)]
pub(crate) fn id<I: TryFrom<i64, Error = NotAnId>>(number: i64) -> I {
    number.try_into().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_is_a_positive_number_that_fits() {
        for odd in [json!(0), json!(-7), json!(i64::MIN), json!(u64::MAX), json!("7"), json!(7.0), json!(null)] {
            assert!(serde_json::from_value::<RepositoryId>(odd.clone()).is_err(), "{odd}");
        }
        for odd in ["", "0", "-7", "9223372036854775808", "x"] {
            assert_eq!(odd.parse::<AppId>(), Err(NotAnId), "{odd}");
        }
        assert_eq!(InstallationId::try_from(1_u64 << 63), Err(NotAnId));
        let largest: AccountId = id(i64::MAX);
        assert_eq!(serde_json::from_str::<AccountId>(&serde_json::to_string(&largest).unwrap()).unwrap(), largest);
        let error = serde_json::from_value::<HookId>(json!(0)).unwrap_err().to_string();
        assert_eq!(error, "an id of GitHub's is a whole number from 1 to 9223372036854775807");
    }

    #[test]
    fn in_a_status_a_number_that_is_no_id_affects_no_other_field() {
        #[derive(Deserialize)]
        struct Status {
            #[serde(default, deserialize_with = "lenient")]
            id: Option<RepositoryId>,
            #[serde(default, deserialize_with = "lenient_list")]
            ids: Vec<RepositoryId>,
        }
        let read = |status| serde_json::from_value::<Status>(status).map(|status| (status.id, status.ids)).unwrap();
        assert_eq!(read(json!({"id": -7, "ids": [0, 8]})), (None, vec![id(8)]));
        assert_eq!(read(json!({"id": 7})), (Some(id(7)), vec![]));
        assert_eq!(read(json!({"id": null})), (None, vec![]));
    }
}
