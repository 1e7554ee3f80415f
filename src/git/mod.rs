//! Asks git remotes for refs without cloning, and runs the git program on untrusted data ([`sealed`]).
//!
//! Owns git's wire protocol as far as `ls-refs` needs it ([`pkt_line`], [`reading`], [`ls_refs`], [`listing`]), the exchange over
//! smart HTTP ([`remote`]), the types for commits and branches ([`sha`], [`branch`]), and the restrictions on remotes
//! ([`address`], [`reach`]). Polling uses this protocol because it costs nothing of GitHub's REST budget.
//!
//! The protocol is implemented here rather than by a crate: gix-packetline would bring bstr, faster-hex and more to decode four
//! hexadecimal digits, and gix-protocol a client with its own transport, which would bypass the certificates, time limits and
//! addresses that [`crate::github::transport`] and [`reach`] enforce for every connection.

pub mod address;
pub mod branch;
pub mod error;
pub mod listing;
pub mod ls_refs;
pub mod pkt_line;
pub mod reach;
pub mod reading;
pub mod remote;
pub mod sealed;
pub mod sha;

pub use self::address::{Address, AddressError, AllowedHosts, AllowedHostsError};
pub use self::branch::{BranchError, BranchName};
pub use self::error::Error;
pub use self::ls_refs::{Head, Refs};
pub use self::reach::Reach;
pub use self::remote::{BasicAuth, BasicAuthError, FullNameError, Remote, listed, refs};
pub use self::sealed::{Output, Sealed, SealedError};
pub use self::sha::{Sha, ShaError};
