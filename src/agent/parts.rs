//! Pushes a history that is too large for one push.
//!
//! The invariant: each part is an ancestor of the next one, so the ref is only fast-forwarded, and the last part is the whole.
//! GitHub refuses a push of more than 2 GB, whatever it consists of.
//! <https://docs.github.com/en/get-started/using-git/troubleshooting-the-2-gb-push-limit>

use super::remote::{RemoteError, RemoteGit, Trouble};
use super::store::Store;
use crate::git::{SealedError, Sha};

/// git's words for a push that is too large as a whole.
pub const WHOLE: &str = "pack exceeds maximum allowed size";

/// Pushes `commit` to the ref `name`, in parts if it is too large as a whole. The remote has `known`.
pub async fn push(
    remote: &RemoteGit,
    store: &Store,
    commit: &Sha,
    name: &str,
    known: &[Sha],
) -> Result<(), RemoteError> {
    let whole = match remote.push(commit, name).await {
        Err(error) if is_whole(&error) => error,
        done => return done,
    };
    let line = first_parents(store, commit, known).await?;
    let (mut done, mut step) = (0, line.len() / 2);
    while done < line.len() && step > 0 {
        let end = (done + step).min(line.len());
        match remote.push(&line[end - 1], name).await {
            Ok(()) => done = end,
            Err(error) if is_whole(&error) => step /= 2,
            Err(error) => return Err(error),
        }
    }
    if !line.is_empty() && done == line.len() { Ok(()) } else { Err(whole) }
}

fn is_whole(error: &RemoteError) -> bool {
    error.trouble == Trouble::TooLarge && error.words.contains(WHOLE)
}

/// The commits from the first one that is not in `known` to `commit`, each with its first parent before it.
async fn first_parents(store: &Store, commit: &Sha, known: &[Sha]) -> Result<Vec<Sha>, SealedError> {
    let mut asked = format!("{commit}\n");
    asked.extend(known.iter().map(|known| format!("^{known}\n")));
    let arguments = ["rev-list", "--first-parent", "--reverse", "--stdin"];
    let said = store.git().fed(&arguments, move |to| to.write_all(asked.as_bytes())).await?.stdout;
    Ok(String::from_utf8_lossy(&said).lines().filter_map(|line| line.parse().ok()).collect())
}
