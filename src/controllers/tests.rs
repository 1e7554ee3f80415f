//! Checks that the imports of the sources follow the order that [`super`] describes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Module = Vec<String>;
type Graph = BTreeMap<Module, BTreeSet<Module>>;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).filter(|path| path.extension().is_some_and(|it| it == "rs")).collect()
}

/// The code of a file, without comments and unit tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn module(file: &Path) -> Module {
    let path = file.strip_prefix(source()).unwrap().with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// The paths that begin at `text`, in a use or in code: `a::{b, c::d}` is `a::b` and `a::c::d`. Returns the rest.
fn paths<'a>(mut text: &'a str, before: &Module, found: &mut Vec<Module>) -> &'a str {
    let mut path = before.clone();
    loop {
        text = text.trim_start();
        if let Some(group) = text.strip_prefix('{') {
            text = group;
            while !text.starts_with('}') && !text.is_empty() {
                text = paths(text, &path, found).trim_start();
                text = text.strip_prefix(',').unwrap_or(text).trim_start();
            }
            return text.strip_prefix('}').unwrap_or(text);
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        match name {
            "super" => drop(path.pop()),
            "crate" => path.clear(),
            "self" | "" => {}
            name => path.push(name.to_owned()),
        }
        text = rest;
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => break,
        }
    }
    found.push(path);
    // `as name`, `*`, or code.
    let end = text.find([',', '}', ';', '\n']).unwrap_or(text.len());
    &text[end..]
}

/// All paths in a module's code.
fn named(code: &str, module: &Module) -> Vec<Module> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let is_inside = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            if !is_inside {
                paths(&code[at..], module, &mut found);
            }
        }
    }
    found
}

/// Which modules import which. A path leads to the longest part of it that is a module.
fn graph(sources: &BTreeMap<Module, String>) -> Graph {
    let known: BTreeSet<_> = sources.keys().cloned().collect();
    let of = |(module, code): (&Module, &String)| {
        let targets = named(code, module).into_iter().filter_map(|mut path| {
            while !path.is_empty() && !known.contains(&path) {
                path.pop();
            }
            (!path.is_empty() && path != *module).then_some(path)
        });
        (module.clone(), targets.collect())
    };
    sources.iter().map(of).collect()
}

fn reaches(graph: &Graph, from: &Module) -> BTreeSet<Module> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
    while let Some(module) = next.pop() {
        let targets = graph.get(&module).into_iter().flatten();
        next.extend(targets.filter(|target| seen.insert((*target).clone())).cloned().collect::<Vec<_>>());
    }
    seen
}

fn controllers() -> Graph {
    let files = files(&source().join("controllers"));
    let sources = files.iter().filter(|file| !file.ends_with("tests.rs")).map(|file| (module(file), code(file)));
    graph(&sources.collect())
}

/// The folder that a module is in, if it is a kind's: it has a `mod.rs`. Ground modules are files, and have at most tests beside them.
fn kind(module: &Module) -> Option<String> {
    let name = module.get(1)?;
    source().join("controllers").join(name).join("mod.rs").is_file().then(|| name.clone())
}

fn circles(graph: &Graph) -> Vec<BTreeSet<Module>> {
    let reach: BTreeMap<_, _> = graph.keys().map(|module| (module, reaches(graph, module))).collect();
    let circle = |module: &Module| -> BTreeSet<Module> {
        let back = |other: &&Module| reach.get(other).is_some_and(|reach| reach.contains(module));
        reach[module].iter().filter(back).cloned().collect()
    };
    graph.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn imports_are_found() {
    let path = |text: &str| text.split("::").map(str::to_owned).collect::<Module>();
    let sources = [
        ("controllers::a", "use super::b::{self, x::Y};\nfn f(_: crate::controllers::c::d::Z) {}"),
        ("controllers::b", "use crate::{api, controllers::{a::A, e}};"),
        ("controllers::b::x", ""),
        ("controllers::c::d", "use super::super::b;"),
        ("controllers::e", ""),
    ];
    let graph = graph(&sources.map(|(module, code)| (path(module), code.to_owned())).into());
    let of = |module: &str| graph[&path(module)].iter().map(|it| it.join("::")).collect::<Vec<_>>();
    assert_eq!(of("controllers::a"), ["controllers::b", "controllers::b::x", "controllers::c::d"]);
    assert_eq!(of("controllers::b"), ["controllers::a", "controllers::e"]);
    assert_eq!(of("controllers::c::d"), ["controllers::b"]);
    let circle = ["controllers::a", "controllers::b", "controllers::c::d"].map(path);
    assert_eq!(circles(&graph), vec![BTreeSet::from(circle); 3]);
}

#[test]
fn no_circle_of_imports_spans_two_kinds() {
    let graph = controllers();
    assert!(graph.len() > 50 && graph.values().map(BTreeSet::len).sum::<usize>() > 200, "{graph:?}");
    for circle in circles(&graph) {
        let kinds: BTreeSet<_> = circle.iter().filter_map(kind).collect();
        assert!(kinds.len() < 2, "{kinds:?} import each other, in a circle of {circle:?}");
    }
}

#[test]
fn nothing_that_the_kinds_share_knows_a_kind() {
    for (module, targets) in controllers() {
        let is_shared = module.len() > 1 && kind(&module).is_none();
        let known: Vec<_> = targets.iter().filter_map(kind).filter(|_| is_shared).collect();
        assert!(known.is_empty(), "{module:?} imports {known:?}");
    }
}

#[test]
fn only_the_operator_and_the_guards_know_the_controllers() {
    for place in [
        "receiver",
        "reports",
        "runtime",
        "webhook",
        "webhook.rs",
        "grant.rs",
        "settings.rs",
        "git",
        "github",
        "api",
        "agent",
    ] {
        let files = files(&source().join(place));
        assert!(!files.is_empty(), "{place}");
        for file in files.into_iter().filter(|file| !file.ends_with("tests.rs")) {
            assert!(!code(&file).contains("controllers::"), "{}", file.display());
        }
    }
}
