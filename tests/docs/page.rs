//! A Markdown page, in the parts that are checked.
//!
//! A comment in the line before a code block says how the block is checked, if not by its language alone:
//!
//! - `<!-- not run: REASON -->` and `<!-- not checked: REASON -->`: it is not, for that reason.
//! - `<!-- into KIND PATH -->`: a part of an object; it is put at that path of the sample of that kind.
//! - `<!-- values -->`: values of the chart.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::path::{Path, PathBuf};

pub struct Page {
    /// From the root of the repository.
    pub path: PathBuf,
    pub links: Vec<String>,
    pub anchors: Vec<String>,
    pub blocks: Vec<Block>,
    /// What stands between backticks within text.
    pub words: Vec<String>,
}

pub struct Block {
    /// `PAGE:LINE`.
    pub place: String,
    pub language: String,
    pub text: String,
    pub how: How,
}

/// How a block is checked.
#[derive(Debug, PartialEq, Eq)]
pub enum How {
    ByLanguage,
    Not,
    Into { kind: String, path: Vec<String> },
    Values,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages whose commands and YAML are checked: what people read to use Landfall or to work on it.
pub fn pages() -> Vec<Page> {
    let mut paths = markdown_in(&root().join("docs/src"));
    paths.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name)));
    paths.iter().map(|path| read(path)).collect()
}

/// Those, and the pages beside the source, whose links alone are checked.
pub fn all_pages() -> Vec<Page> {
    let beside =
        ["charts/landfall", "hack/cluster", "hack/github-sim"].map(|folder| root().join(folder).join("README.md"));
    pages().into_iter().chain(beside.iter().map(|path| read(path))).collect()
}

fn markdown_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries
        .flat_map(|path| if path.is_dir() { markdown_in(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Page {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    parse(path.strip_prefix(root()).unwrap(), &text)
}

pub fn parse(path: &Path, text: &str) -> Page {
    let mut page = Page { path: path.to_owned(), links: vec![], anchors: vec![], blocks: vec![], words: vec![] };
    let mut comment = String::new();
    let mut heading: Option<String> = None;
    let mut code: Option<Block> = None;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        // A comment speaks of the block that follows it, and of nothing behind that.
        if matches!(&event, Event::Start(tag) if !matches!(tag, Tag::CodeBlock(_))) {
            comment.clear();
        }
        match event {
            Event::Html(html) => comment.push_str(&html),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.to_string())
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default(), &page.anchors);
                page.anchors.push(anchor);
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let CodeBlockKind::Fenced(language) = kind else {
                    panic!("{}: an indented code block: fence it, and say what it is", path.display())
                };
                let line = text[..range.start].lines().count() + 1;
                let place = format!("{}:{line}", path.display());
                let how = how(&place, comment.trim());
                code = Some(Block { place, language: language.to_string(), text: String::new(), how });
            }
            Event::End(TagEnd::CodeBlock) => {
                comment.clear();
                page.blocks.extend(code.take());
            }
            Event::Text(words) => match (&mut code, &mut heading) {
                (Some(block), _) => block.text.push_str(&words),
                (None, Some(heading)) => heading.push_str(&words),
                (None, None) => {}
            },
            Event::Code(word) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&word);
                }
                page.words.push(word.to_string());
            }
            _ => {}
        }
    }
    page
}

fn how(place: &str, comment: &str) -> How {
    let words = comment.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")).map_or("", str::trim);
    let reason = words.strip_prefix("not run:").or_else(|| words.strip_prefix("not checked:"));
    if let Some(reason) = reason {
        assert!(reason.trim().len() > 5, "{place}: say why it is not checked");
        return How::Not;
    }
    if let Some(rest) = words.strip_prefix("into ") {
        let (kind, path) = rest.split_once(' ').unwrap_or((rest, ""));
        let path = path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        return How::Into { kind: kind.to_owned(), path };
    }
    if words == "values" { How::Values } else { How::ByLanguage }
}

/// As GitHub and mdBook make them of a heading: lower case, without punctuation, spaces as hyphens, numbered when repeated.
fn anchor(heading: &str, before: &[String]) -> String {
    let kept = heading.trim().to_lowercase();
    let kept: String = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect();
    let same = |other: &&String| {
        **other == kept || other.strip_prefix(&format!("{kept}-")).is_some_and(|n| n.parse::<u32>().is_ok())
    };
    match before.iter().filter(same).count() {
        0 => kept,
        n => format!("{kept}-{n}"),
    }
}
