//! Every link leads somewhere, in the repository and in the built book.

use super::page::{Page, all_pages, root};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

#[test]
fn links_lead_to_files_and_headings() {
    let pages = all_pages();
    let anchors: BTreeMap<&Path, &[String]> =
        pages.iter().map(|page| (page.path.as_path(), page.anchors.as_slice())).collect();
    let dead: Vec<String> = pages
        .iter()
        .flat_map(|page| {
            page.links
                .iter()
                .filter_map(|link| Some(format!("{}: {link}: {}", page.path.display(), blame(page, link, &anchors)?)))
        })
        .collect();
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// What is wrong with a link.
fn blame(page: &Page, link: &str, anchors: &BTreeMap<&Path, &[String]>) -> Option<String> {
    if link.starts_with("https://") {
        return None;
    }
    if link.contains("://") || link.starts_with('/') {
        return Some("neither https nor relative".to_owned());
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.path.clone() } else { plain(&page.path.parent().unwrap().join(file)) };
    if !root().join(&target).exists() {
        return Some("there is no such file".to_owned());
    }
    // The book has its own pages only.
    if page.path.starts_with("docs/src") && !target.starts_with("docs/src") {
        return Some("leads out of the book: name the file in backticks, by its path in the repository".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    match anchors.get(target.as_path()) {
        Some(known) if known.iter().any(|known| known == anchor) => None,
        Some(known) => Some(format!("no such heading; there are {known:?}")),
        None => Some("headings of this file are not known here".to_owned()),
    }
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
        path
    })
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let pages = all_pages();
    let summary = pages.iter().find(|page| page.path.ends_with("SUMMARY.md")).expect("docs/src/SUMMARY.md");
    for page in &pages {
        let Ok(name) = page.path.strip_prefix("docs/src") else { continue };
        let listed = summary.links.iter().filter(|link| Path::new(link) == name).count();
        assert_eq!(listed, usize::from(name != "SUMMARY.md"), "{} in docs/src/SUMMARY.md", name.display());
    }
}

/// mdBook makes ids and file names of its own.
#[test]
#[ignore = "needs the built book in LANDFALL_BOOK: hack/docs"]
fn links_of_the_book_lead_to_its_files_and_ids() {
    let book = PathBuf::from(std::env::var_os("LANDFALL_BOOK").expect("LANDFALL_BOOK: where hack/docs built the book"));
    let files: BTreeMap<PathBuf, String> = std::fs::read_dir(&book)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "html"))
        // They are read at whatever address: their links are those of the whole site.
        .filter(|path| !path.ends_with("404.html"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    assert!(files.len() > 10, "{} has {} pages", book.display(), files.len());
    let mut dead = Vec::new();
    for (path, html) in &files {
        for link in values(html, "href").chain(values(html, "src")) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, id) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { plain(&book.join(file)) };
            let found = target.exists()
                && (id.is_empty()
                    || files.get(&target).is_some_and(|html| values(html, "id").any(|known| known == id)));
            if !found {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The values of an attribute.
fn values<'a>(html: &'a str, attribute: &str) -> impl Iterator<Item = &'a str> {
    let begin = format!(" {attribute}=\"");
    html.split('<').filter_map(move |tag| {
        let tag = tag.split('>').next()?;
        let (_, value) = tag.split_once(begin.as_str())?;
        value.split('"').next()
    })
}
