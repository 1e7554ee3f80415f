//! git's credentials in a workspace: a helper (gitcredentials(7)) over a mounted token.
//!
//! The invariant: the token is given for a workspace's own repositories over https and for nothing else, and is read anew at
//! each question, so one that was renewed works under a shell that was open all the time. Whoever is asked about another
//! address is silent, as git expects of a helper that does not know: then git asks its other helpers, or a person.

use crate::guards;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::Url;
use zeroize::Zeroizing;

use crate::github::Token;

/// The user name that goes with a token of a GitHub App.
const USER: &str = "x-access-token";
/// The most bytes of a token's file; a token has about 520.
const MOST_TOKEN: u64 = 64 << 10;
/// The most bytes of a question of git's.
const MOST_QUESTION: u64 = 64 << 10;

/// The https address of a repository, in the one spelling in which they are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUrl {
    /// The host, with its port where that is not 443.
    host: String,
    /// Without slashes around it and without `.git`.
    path: String,
}

/// A text that is no repository's address. It is not repeated, for there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the address of a repository: write https://HOST/OWNER/NAME.git, of letters, digits and ._~- and without a user name"
)]
pub struct RepositoryUrlError;

impl FromStr for RepositoryUrl {
    type Err = RepositoryUrlError;

    fn from_str(text: &str) -> Result<Self, RepositoryUrlError> {
        let url = Url::parse(text).map_err(|_| RepositoryUrlError)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(RepositoryUrlError)?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-' | '/');
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

    /// The host's address, without a path.
    #[must_use]
    pub fn host_address(&self) -> String {
        format!("https://{}", self.host)
    }

    /// The host, with its port where that is not 443.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the host has a port.
    #[must_use]
    pub fn has_port(&self) -> bool {
        // The last part of an address of version 6 ends in a bracket.
        self.host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The owner and the name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether git asks about this repository, or about its large files (which git-lfs keeps below it).
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

/// What git asks a helper, as far as it matters: the lines of `key=value` of git-credential(1).
#[derive(Debug, Default)]
struct Question {
    protocol: String,
    host: String,
    path: String,
    username: String,
}

impl Question {
    fn read(from: impl io::Read) -> io::Result<Self> {
        // A password that git has is among the lines when it tells of success or failure.
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

/// A token that cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The question or the answer got lost.
    #[error("git's question cannot be read or answered")]
    Pipe(#[source] io::Error),
    /// There is no file, or it cannot be read.
    #[error(
        "the token {path} cannot be read; if it was there, the workspace's access was taken away or is being renewed"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is a file, and no token in it.
    #[error("there is no token in {path}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a mounted token.
///
/// # Errors
/// There is none.
pub fn token(path: &Path) -> Result<Token, CredentialError> {
    let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
    let mut text = Zeroizing::new(String::new());
    File::open(path).map_err(unreadable)?.take(MOST_TOKEN).read_to_string(&mut text).map_err(unreadable)?;
    let text = text.trim();
    // A line's end within would let the file say more to git than a password.
    if text.is_empty() || text.contains(char::is_control) {
        return Err(CredentialError::Empty { path: path.to_owned() });
    }
    Ok(Token::new(text.to_owned()))
}

/// Answers `get`, the one operation of git's that has an answer.
///
/// # Errors
/// The question is about one of `repositories`, and there is no token.
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

/// The value of git's `credential.helper` that asks `program` (our own binary) for the token. git gives it to a shell.
#[must_use]
pub fn helper(program: &Path, repositories: &[RepositoryUrl], token_file: &Path) -> String {
    let urls: Vec<_> =
        repositories.iter().map(|repository| format!("--url {}", shell_quoted(&repository.address()))).collect();
    let (program, token_file) = (shell_quoted(&program.to_string_lossy()), shell_quoted(&token_file.to_string_lossy()));
    format!("!{program} workspace credential {} --token-file {token_file}", urls.join(" "))
}

/// The word of a POSIX shell that stands for this text and nothing else.
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
