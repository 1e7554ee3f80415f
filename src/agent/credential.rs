//! git's credentials in a workspace: a credential helper (gitcredentials(7)) that reads a mounted token.
//!
//! The invariant: the helper gives the token for the workspace's own repositories over https and for nothing else. It reads the
//! token at each request, so a renewed token works in a shell that was open before. For any other address it prints nothing, as
//! git expects of a helper without an answer: git then asks its other helpers, or the person.

use crate::guards;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;
use zeroize::Zeroizing;

use crate::github::Token;

/// The user name that goes with a token of a GitHub App.
const USER: &str = "x-access-token";
/// The most bytes of a token's file. A token has about 520.
const MOST_TOKEN: u64 = 64 << 10;
/// The most bytes of a request of git's.
const MOST_QUESTION: u64 = 64 << 10;

/// The https address of a repository, normalized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUrl {
    /// With its port unless that is 443.
    host: String,
    /// Without slashes at its ends, and without `.git`.
    path: String,
}

/// A text is no address of a repository. The message does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the address of a repository: write https://HOST/OWNER/NAME.git, of letters, digits and ._~:- and without a user name"
)]
pub struct RepositoryUrlError;

impl FromStr for RepositoryUrl {
    type Err = RepositoryUrlError;

    fn from_str(text: &str) -> Result<Self, RepositoryUrlError> {
        let url = Url::parse(text).map_err(|_| RepositoryUrlError)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(RepositoryUrlError)?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-' | '/' | ':');
        let path = without_suffix(url.path());
        let odd = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
        if url.scheme() != "https" || odd || url.fragment().is_some() || path.is_empty() || !path.chars().all(plain) {
            return Err(RepositoryUrlError);
        }
        Ok(Self { host, path: path.to_owned() })
    }
}

fn without_suffix(path: &str) -> &str {
    let path = path.trim_matches('/');
    path.strip_suffix(".git").unwrap_or(path)
}

impl RepositoryUrl {
    /// The address, with `.git`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}.git", self.bare_address())
    }

    /// The address, without `.git`.
    #[must_use]
    pub fn bare_address(&self) -> String {
        format!("https://{}/{}", self.host, self.path)
    }

    /// The addresses of sections `credential.URL` that git looks for, with `.git` and without. git escapes a colon in the path before
    /// it looks, since version 2.26; before, it looked for the path as it is.
    #[must_use]
    pub fn in_credential_sections(&self) -> BTreeSet<String> {
        let escaped = format!("https://{}/{}", self.host, self.path.replace(':', "%3A"));
        [self.bare_address(), escaped].into_iter().flat_map(|address| [format!("{address}.git"), address]).collect()
    }

    /// The host's address, without a path.
    #[must_use]
    pub fn host_address(&self) -> String {
        format!("https://{}", self.host)
    }

    /// The host, with its port unless that is 443.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the host has a port.
    #[must_use]
    pub fn has_port(&self) -> bool {
        // The last part of an IPv6 address ends with a bracket.
        self.host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The owner and the name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether git asks about this repository, or about its LFS endpoint, which is below it.
    fn is(&self, question: &Question) -> bool {
        let path = question.path.trim_matches('/');
        let path = path.split_once("/info/lfs").map_or(path, |(repository, _)| repository);
        let is_its = question.protocol == "https"
            && matches!(question.username.as_str(), "" | USER)
            && question.host.to_ascii_lowercase().trim_end_matches(":443") == self.host
            && without_suffix(path) == self.path;
        guards::repository_address(is_its)
    }
}

/// git's request to a helper, in lines of `key=value` (git-credential(1)).
#[derive(Debug, Default)]
struct Question {
    protocol: String,
    host: String,
    path: String,
    username: String,
}

impl Question {
    fn read(from: impl io::Read) -> io::Result<Self> {
        // git sends the password with `store` and `erase`.
        let mut text = Zeroizing::new(String::new());
        from.take(MOST_QUESTION).read_to_string(&mut text)?;
        let mut question = Self::default();
        for (key, value) in text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once('=')) {
            match key {
                "protocol" => value.clone_into(&mut question.protocol),
                "host" => value.clone_into(&mut question.host),
                "path" => value.clone_into(&mut question.path),
                "username" => value.clone_into(&mut question.username),
                _ => {}
            }
        }
        Ok(question)
    }
}

/// Why the helper has no token.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A pipe to git broke.
    #[error("git's request cannot be read or answered")]
    Pipe(#[source] io::Error),
    /// The file does not exist or cannot be read.
    #[error(
        "the token {path} cannot be read; if it existed before, the workspace's access was revoked or is being renewed"
    )]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file holds no token.
    #[error("there is no token in {path}")]
    Empty { path: PathBuf },
}

/// Reads a mounted token.
pub fn token(path: &Path) -> Result<Token, CredentialError> {
    let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    File::open(path).map_err(unreadable)?.take(MOST_TOKEN).read_to_string(&mut text).map_err(unreadable)?;
    let text = text.trim();
    // With a line break in it, the file could set other keys than the password.
    if text.is_empty() || text.contains(char::is_control) {
        return Err(CredentialError::Empty { path: path.to_owned() });
    }
    Ok(Token::new(text.to_owned()))
}

/// Answers `get`, the only operation with an answer. An error if the request is for one of `repositories` and there is no token.
pub fn get(
    repositories: &[RepositoryUrl],
    token_file: &Path,
    question: impl io::Read,
    answer: &mut impl Write,
) -> Result<(), CredentialError> {
    let question = Question::read(question).map_err(CredentialError::Pipe)?;
    if repositories.iter().any(|repository| repository.is(&question)) {
        let token = token(token_file)?;
        let text = Zeroizing::new(format!("username={USER}\npassword={}\n", token.expose()));
        answer.write_all(text.as_bytes()).and_then(|()| answer.flush()).map_err(CredentialError::Pipe)?;
    }
    Ok(())
}

/// The value of `credential.helper` that runs `program` (Landfall's own binary). git gives it to a shell.
#[must_use]
pub fn helper(program: &Path, repositories: &[RepositoryUrl], token_file: &Path) -> String {
    let urls: Vec<_> =
        repositories.iter().map(|repository| format!("--url {}", shell_quoted(&repository.address()))).collect();
    let (program, token_file) = (shell_quoted(&program.to_string_lossy()), shell_quoted(&token_file.to_string_lossy()));
    format!("!{program} workspace credential {} --token-file {token_file}", urls.join(" "))
}

/// The text, quoted for a POSIX shell.
#[must_use]
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "ghs_1.2-3\n").unwrap();
        let repositories = ["https://Git.example.com/acme/shop.git", "https://git.example.com:8443/fork/shop"]
            .map(|url| url.parse().unwrap());
        let mut answer = Vec::new();
        get(&repositories, &file, question.as_bytes(), &mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn the_token_is_for_the_repository_alone() {
        let given = "username=x-access-token\npassword=ghs_1.2-3\n";
        for question in [
            "protocol=https\nhost=git.example.com\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop\n\n",
            "protocol=https\nhost=GIT.example.com:443\npath=acme/shop.git/\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git/info/lfs\nusername=x-access-token\n",
            "capability[]=authtype\nprotocol=https\nhost=git.example.com:8443\npath=fork/shop.git\nwwwauth[]=Basic\n",
        ] {
            assert_eq!(asked(question), given, "{question}");
        }
        for question in [
            "",
            "protocol=https\nhost=git.example.com\n",
            "protocol=http\nhost=git.example.com\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com.evil.example\npath=acme/shop.git\n",
            "protocol=https\nhost=evil.example\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com:444\npath=acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop2.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git/x\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git.git\n",
            "protocol=https\nhost=git.example.com\npath=Acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=fork/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/../acme/shop.git\n",
            "protocol=https\nhost=git.example.com\npath=acme/shop.git\nusername=somebody\n",
            "\nprotocol=https\nhost=git.example.com\npath=acme/shop.git\n",
        ] {
            assert_eq!(asked(question), "", "{question}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_repository_is_refused() {
        for text in [
            "",
            "acme/shop",
            "http://git.example.com/a/b",
            "https://git.example.com",
            "https://git.example.com/.git",
            "https://me:pw@git.example.com/a/b",
            "https://git.example.com/a/b?x",
            "https://git.example.com/a/b#x",
            "https://git.example.com/a/b%0a",
            "https://git.example.com/a/b'c",
            "ssh://git.example.com/a/b",
            "--upload-pack=x",
        ] {
            assert_eq!(text.parse::<RepositoryUrl>(), Err(RepositoryUrlError), "{text}");
        }
        let url: RepositoryUrl = "https://Git.example.com:443/a/b.git/".parse().unwrap();
        assert_eq!(url.address(), "https://git.example.com/a/b.git");
    }

    #[test]
    fn a_file_without_a_token_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        assert!(matches!(token(&file), Err(CredentialError::Unreadable { .. })));
        for text in ["", "\n", "a\nquit=1"] {
            std::fs::write(&file, text).unwrap();
            assert!(matches!(token(&file), Err(CredentialError::Empty { .. })), "{text:?}");
        }
        std::fs::write(&file, " a.b \n").unwrap();
        assert_eq!(token(&file).unwrap().expose(), "a.b");
    }

    #[test]
    fn a_shell_takes_the_helper_apart_as_it_was_put_together() {
        let url = "https://git.example.com/acme/shop.git".parse().unwrap();
        let helper = helper(Path::new("/bin/it's $(x)"), &[url], Path::new("/a b"));
        assert_eq!(
            helper,
            r"!'/bin/it'\''s $(x)' workspace credential --url 'https://git.example.com/acme/shop.git' --token-file '/a b'"
        );
    }
}
