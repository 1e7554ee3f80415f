//! The words that conditions, events and answers use: one list, so that a reason means the same everywhere.

use std::fmt;

/// The type of a condition. `Reconciling` and `Stalled` follow kstatus, so `kubectl wait`, Flux and Argo CD understand them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The object does what its spec asks.
    Ready,
    /// The operator is still at it, or will try again by itself. Only where `Ready` is not True.
    Reconciling,
    /// `Ready` is True, and something that will be needed later fails and is tried again. It is a type of its own, for
    /// kstatus takes an object with `Reconciling` for one in progress, whatever `Ready` says.
    Retrying,
    /// Nothing will change until a person does something.
    Stalled,
    /// The repository's own webhook is there and as it should be.
    WebhookReady,
    /// The fork has all that its upstream has.
    InStep,
    /// The newest head is rolled out.
    Deployed,
    /// The workspace's token can be used.
    CredentialsReady,
    /// The repository is cloned, at the workspace's branch.
    CloneReady,
    /// The workspace's pull request is open.
    PullRequestReady,
    /// The workspace's pod ended because it was asked to; the volume is kept.
    Suspended,
    /// The remote has all work of the workspace.
    WorkSafe,
}

impl ConditionType {
    /// The types that tell how an object stands; a kind may have further ones of its own.
    pub const STANDING: [Self; 4] = [Self::Ready, Self::Reconciling, Self::Retrying, Self::Stalled];

    /// The text in `conditions[].type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Retrying => "Retrying",
            Self::Stalled => "Stalled",
            Self::WebhookReady => "WebhookReady",
            Self::InStep => "InStep",
            Self::Deployed => "Deployed",
            Self::CredentialsReady => "CredentialsReady",
            Self::CloneReady => "CloneReady",
            Self::PullRequestReady => "PullRequestReady",
            Self::Suspended => "Suspended",
            Self::WorkSafe => "WorkSafe",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Why a condition holds: `conditions[].reason`, and the reason of the event at its transition.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name),+
        }

        impl Reason {
            /// Every reason, for the test of the documentation.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The text in `conditions[].reason`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),+
                }
            }
        }
    };
}

reasons! {
    /// GitHub accepted the App's key.
    Connected,
    /// The App is installed on the account and this namespace was granted access.
    Active,
    /// The Secret holds a token that was used once with success.
    Published,
    /// `spec.paused` is true: nothing is changed, what was published is renewed.
    Paused,
    /// Something this object refers to is not there or not ready yet.
    WaitingForReference,
    /// Waits for what depends on it before it goes.
    WaitingForDependents,
    /// The App's key or id is missing, malformed, of another App, or refused.
    CredentialsInvalid,
    /// A field's value cannot be used; the message names it.
    InvalidSpec,
    /// A template under `spec.secret.template` cannot be rendered; the message names its key and line.
    InvalidTemplate,
    /// No installation of the App is known for the account or reference.
    InstallationNotFound,
    /// The App was never installed on the account.
    NotInstalled,
    /// The installation was suspended, on GitHub, by the account or by the App's owner.
    InstallationSuspended,
    /// The App was installed on the account and no longer is.
    Revoked,
    /// The App's tenants do not give this namespace access to the account.
    AccountNotGranted,
    /// More was asked for than the grant or the installation allows.
    InsufficientPermissions,
    /// A repository does not exist, was deleted, or cannot be seen by the installation.
    RepositoryNotFound,
    /// A repository outside of the grant was asked for.
    RepositoryNotGranted,
    /// The repository is known, and its head is followed.
    Observed,
    /// The repository is archived: it can be read, and nothing in it can be changed.
    RepositoryArchived,
    /// The repository is locked, for example for a migration.
    RepositoryLocked,
    /// The organization enforces SAML single sign-on, and the credentials are not authorized for it.
    SingleSignOnRequired,
    /// The organization's IP allow list does not have the address from which the operator calls.
    IPAddressNotAllowed,
    /// GitHub locked the account because of a bill.
    BillingLocked,
    /// GitHub disabled the repository.
    RepositoryDisabled,
    /// The repository has no commit yet.
    RepositoryEmpty,
    /// The branch does not exist.
    BranchNotFound,
    /// The fork was asked for, and GitHub is still making it.
    ForkPending,
    /// The App may not fork the repository.
    ForkForbidden,
    /// The repository cannot be forked: it is the account's own, or empty.
    ForkImpossible,
    /// The fork is not behind its upstream.
    InStep,
    /// The fork has commits that its upstream has not, so it is not fast-forwarded.
    Diverged,
    /// The address is not one that the operator allows.
    URLNotAllowed,
    /// The webhook is there and as it should be.
    WebhookEnsured,
    /// The App's webhook delivers to another address, and was not taken over.
    WebhookForeign,
    /// GitHub did not let the webhook be made or repaired.
    WebhookRefused,
    /// Something changed shortly ago; further pushes are waited for.
    Debouncing,
    /// The workloads are being rolled.
    RollingOut,
    /// The workloads are rolled out.
    RolledOut,
    /// A workload could not be rolled, or was not rolled out in time.
    RolloutFailed,
    /// The operator may not act as the ServiceAccount, or the ServiceAccount may not roll the workload.
    ActionForbidden,
    /// The workspace's pod runs, and can be worked in.
    Running,
    /// The workspace's pod ended because `spec.operatingMode` asks for it; the volume is kept.
    WorkspaceSuspended,
    /// The workspace's pod is being started, or a former one is ending.
    PodStarting,
    /// The workspace's pod does not start; the message has Kubernetes' words.
    PodFailed,
    /// The repository is being cloned.
    Cloning,
    /// The repository is cloned.
    Cloned,
    /// The repository could not be cloned; the message has git's words.
    CloneFailed,
    /// The branch is there already, and was not to be.
    BranchExists,
    /// A pull request is opened when there is something on the branch.
    PullRequestPending,
    /// The pull request is open.
    PullRequestOpen,
    /// The pull request was closed or merged.
    PullRequestClosed,
    /// GitHub refuses drafts in this repository.
    DraftUnsupported,
    /// The remote has all of the workspace's work.
    Saved,
    /// There is work on the volume that the remote does not have.
    Unsaved,
    /// Work is being pushed.
    Saving,
    /// Work could not be pushed.
    SaveFailed,
    /// The volume is kept, for there is work on it that could not be pushed.
    VolumeKept,
    /// The volume went without the operator.
    VolumeLost,
    /// Work was given up, as somebody asked. Only of an event.
    WorkDiscarded,
    /// An object of the name that is needed exists and was not made for this one.
    NameTaken,
    /// The Secret exists and was not made for this object.
    SecretNotOurs,
    /// The Secret is being deleted, and something holds it.
    SecretTerminating,
    /// GitHub asked to wait.
    RateLimited,
    /// GitHub cannot be reached.
    APIUnreachable,
    /// GitHub answered with a failure of its own.
    APIFailed,
    /// GitHub refused a token that it had just minted.
    TokenRefused,
    /// A token could not be revoked and is left to expire. Only of an event.
    NotRevoked,
    /// The Kubernetes API refused a write or a read.
    KubernetesRefused,
}

impl Reason {
    /// Something is on its way: nothing to be warned of.
    #[must_use]
    pub fn is_progress(self) -> bool {
        matches!(
            self,
            Self::Cloning
                | Self::PodStarting
                | Self::PullRequestPending
                | Self::Saving
                | Self::Debouncing
                | Self::RollingOut
                | Self::WaitingForReference
                | Self::WaitingForDependents
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
