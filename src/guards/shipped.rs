//! The guards as they ship. Their types are parameters, so that they can do nothing but return their first argument.

use std::future::{Ready, ready};

/// The guards of the operator and the receiver, all in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guards {}

const _: () = assert!(size_of::<Guards>() == 0);

impl Guards {
    /// A token as it was gathered.
    pub(crate) fn token<T>(self, gathered: T) -> T {
        gathered
    }

    /// The retention of a volume, before an uninstallation lets its claim go.
    pub(crate) fn keeping<T>(self, keeping: T) -> T {
        keeping
    }

    /// The listing of a repository's webhooks, before one is made.
    pub(crate) fn listing<T>(self, listing: T) -> T {
        listing
    }

    /// The branches of a repository as its remote has them, not as status says.
    pub(crate) fn refs<T>(self, of_remote: T, _seen: impl Sized) -> T {
        of_remote
    }

    /// The namespace and the name of the `ServiceAccount` that deploys: it is in the object's own namespace.
    pub(crate) fn account<T>(self, account: T) -> T {
        account
    }

    /// The start of a deployment, which is written to status before a workload is changed.
    pub(crate) fn deployment<T>(
        self,
        deployment: T,
        _kind: impl Sized,
        _seen: impl Sized,
    ) -> Ready<Result<T, kube::Error>> {
        ready(Ok(deployment))
    }

    /// A workspace as it was gathered.
    pub(crate) fn workspace<T>(self, seen: T) -> T {
        seen
    }

    /// Whether an object of the workspace's name is the workspace's.
    pub(crate) fn owner<T>(self, is_ours: T) -> T {
        is_ours
    }

    /// Whether the pod that a request of git comes from has the uid that the API server has for its token.
    pub(crate) fn caller_uid<T>(self, is_that: T) -> T {
        is_that
    }

    /// Whether a request of git comes from its pod's own address.
    pub(crate) fn caller_address<T>(self, is_its: T) -> T {
        is_its
    }

    /// Whether the volume that a claim names is bound to that claim.
    pub(crate) fn volume<T>(self, is_its: T) -> T {
        is_its
    }

    /// The last pod in the workspace's own namespace.
    pub(crate) fn last_pod<T>(self, last: T, _of_all_namespaces: impl Sized) -> T {
        last
    }

    /// Whether a branch can be the one that the workspace's clone is at.
    pub(crate) fn clone_branch<T>(self, may_be: T) -> T {
        may_be
    }

    /// Whether the remote has the commits of which a pod says that it saved them.
    pub(crate) fn saved<T>(self, is_there: T) -> T {
        is_there
    }

    /// Whether a report is from the workspace's own pod.
    pub(crate) fn reporter<T>(self, is_its: T) -> T {
        is_its
    }

    /// The uid of the pod that reports.
    pub(crate) fn reporting_pod<T>(self, uid: T, _shared: impl Sized, _workspace: impl Sized) -> T {
        uid
    }

    /// The token for one repository.
    pub(crate) fn token_scope<T>(self, token: T) -> T {
        token
    }

    /// The pod, with the fields of `spec.pod` that a pod takes.
    pub(crate) fn pod<T>(self, pod: T, _client: impl Sized, _workspace: impl Sized) -> Ready<T> {
        ready(pod)
    }

    /// A new pull request, whose text is not pasted into JSON.
    pub(crate) fn new_pull<T>(self, wanted: T) -> T {
        wanted
    }

    /// The pull request of the workspace's branch, not the one that status names.
    pub(crate) fn pull<T>(self, pull: T, _workspace: impl Sized, _asking: impl Sized) -> Ready<T> {
        ready(pull)
    }

    /// The identity of the App whose webhook is called: it is the cache's, and no header of the request changes it.
    pub(crate) fn identity<T>(self, cached: T, _headers: impl Sized) -> T {
        cached
    }

    /// The verdict on a delivery's signature.
    pub(crate) fn verdict<T>(self, verdict: T) -> T {
        verdict
    }

    /// Whether a payload is about another repository than its webhook.
    pub(crate) fn other_repository<T>(self, is_other: T) -> T {
        is_other
    }

    /// Whether the namespace of an object was granted the repository.
    pub(crate) fn grant<T>(self, is_granted: T) -> T {
        is_granted
    }

    /// The verdicts on the refs of a push through the gateway.
    pub(crate) fn verdicts<T>(self, judged: T) -> T {
        judged
    }
}

/// Whether the pod's clone was made for a branch that its workspace may have.
pub(crate) fn recorded_branch<T>(may_be: T) -> T {
    may_be
}

/// Whether git's objects lie on the workspace's volume.
pub(crate) fn on_volume<T>(is_within: T) -> T {
    is_within
}

/// Whether git asks for the credentials of the workspace's repository.
pub(crate) fn repository_address<T>(is_its: T) -> T {
    is_its
}

/// The shell script that answers the same question.
pub(crate) fn credential_script<T>(script: T) -> T {
    script
}

/// The flag by which no link is opened.
pub(crate) fn opening<T>(nofollow: T) -> T {
    nofollow
}

/// The flag by which a link's own state is read.
pub(crate) fn state<T>(nofollow: T) -> T {
    nofollow
}

/// The git directory of our own that a clone is read through.
pub(crate) fn store<T>(store: T, _clone: impl Sized) -> T {
    store
}

/// The files whose content only the volume has, although their pointers are saved.
pub(crate) fn large_files<T>(left: T) -> T {
    left
}

/// The settings by which git starts no program of a clone's.
pub(crate) fn git_settings<T>(settings: T) -> T {
    settings
}
