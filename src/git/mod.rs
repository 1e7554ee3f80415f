//! Git remotes, as the operator asks them without cloning: the head of a branch, and which branch is the default; and the
//! git program, as it is run where a stranger may have written ([`sealed`]).
//!
//! Owns git's wire protocol as far as `ls-refs` needs it ([`pkt_line`], [`reading`], [`ls_refs`], [`listing`]), the exchange over smart HTTP
//! ([`remote`]), the words for what a remote holds ([`sha`], [`branch`]) and which remotes may be asked at all
//! ([`address`], [`reach`]). It costs nothing of GitHub's REST budget, which is why polling goes this way.
//!
//! The protocol is ours rather than a crate's: gix-packetline would bring bstr, faster-hex and more for the decoding of four hexadecimal
//! digits, and gix-protocol a client with a transport of its own, which would go past the certificates, time limits and
//! addresses that [`crate::github::transport`] and [`reach`] hold every connection to.

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
pub use self::remote::{BasicAuth, BasicAuthError, Remote, RemoteError, listed, refs};
pub use self::sealed::{Answer, Sealed, SealedError};
pub use self::sha::{Sha, ShaError};
