//! YAML is accepted by an API server with the definitions; commands run, with stand-ins for what needs a cluster.

use super::commands::Bench;
use super::page::{Block, How, Page, pages, root};
use landfall_cluster::{ApiServer, Options};
use serde_json::{Value, json};

/// What code blocks may be; of the rest nothing is checked.
const LANGUAGES: &[&str] = &["console", "diff", "json", "lua", "nginx", "promql", "rust", "sh", "text", "toml", "yaml"];

#[test]
fn every_block_says_what_it_is() {
    for page in pages() {
        for block in &page.blocks {
            assert!(
                LANGUAGES.contains(&block.language.as_str()),
                "{}: `{}` is none of {LANGUAGES:?}",
                block.place,
                block.language
            );
        }
    }
}

#[tokio::test]
async fn yaml_is_accepted_and_commands_run() {
    let server = ApiServer::start(Options::default()).await.unwrap();
    let bench = Bench::new(server.kubeconfig());
    bench.prepare();
    let pages = pages();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for block in pages.iter().flat_map(|page: &Page| &page.blocks).filter(|block| block.language == "yaml") {
        checked += usize::from(block.how != How::Not);
        wrong.extend(yaml(&bench, block).err().map(|error| format!("{}: {error}", block.place)));
    }
    // Later, for a change of what is there must keep to other rules than a new object.
    bench.apply_samples();
    for block in pages.iter().flat_map(|page| &page.blocks) {
        let Some(script) = script(block) else { continue };
        checked += 1;
        wrong.extend(bench.run(&script).err().map(|error| format!("{}: {error}", block.place)));
    }
    server.stop().await;
    println!("{checked} blocks were checked");
    assert!(wrong.is_empty(), "{} of {checked} blocks:\n{}", wrong.len(), wrong.join("\n"));
}

/// The commands of a block, if they are to be run.
fn script(block: &Block) -> Option<String> {
    match (block.language.as_str(), &block.how) {
        ("sh", How::ByLanguage) => Some(block.text.clone()),
        ("console", How::ByLanguage) => {
            let commands: Vec<&str> = block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
            Some(commands.join("\n"))
        }
        _ => None,
    }
}

fn yaml(bench: &Bench, block: &Block) -> Result<(), String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&block.text).map_err(|error| error.to_string())?;
    match &block.how {
        How::Not => Ok(()),
        How::Values => bench.render(&block.text),
        How::Into { kind, path } => {
            let [part] = documents.as_slice() else { return Err("more than one document".to_owned()) };
            bench.try_out(&[into(sample(kind)?, path, part)])
        }
        How::ByLanguage => {
            let whole = documents.iter().all(|object| object["kind"].is_string() && object["apiVersion"].is_string());
            if !whole {
                return Err("no object: say into which kind and path it goes, or why it is not checked".to_owned());
            }
            bench.try_out(&documents)
        }
    }
}

/// The sample of a kind, or the least object of one of Kubernetes' own.
fn sample(kind: &str) -> Result<Value, String> {
    let folder = std::fs::read_dir(root().join("config/samples")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    // projectrepository.yaml goes before projectrepository-fork.yaml.
    files.sort_by_key(|path| path.file_stem().map(std::ffi::OsStr::to_owned));
    let objects = files
        .iter()
        .flat_map(|path| serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(path).unwrap()).unwrap());
    objects.into_iter().find(|object| object["kind"] == kind).ok_or_else(|| format!("there is no sample of {kind}"))
}

/// The object with the part merged in at the path; a list or a single value takes the place of what is there.
fn into(mut object: Value, path: &[String], part: &Value) -> Value {
    let mut here = &mut object;
    for name in path {
        here = match name.parse::<usize>() {
            Ok(index) => &mut here[index],
            Err(_) => &mut here[name.as_str()],
        };
    }
    merge(here, part);
    object
}

fn merge(target: &mut Value, part: &Value) {
    match (target, part) {
        (Value::Object(target), Value::Object(part)) => {
            for (name, value) in part {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, part) => *target = part.clone(),
    }
}

#[test]
fn a_part_is_merged_into_its_object() {
    let object = json!({"spec": {"a": {"b": 1, "c": 2}, "list": [1, 2]}});
    let path = ["spec".to_owned()];
    let merged = into(object, &path, &json!({"a": {"b": 3}, "list": [4]}));
    assert_eq!(merged, json!({"spec": {"a": {"b": 3, "c": 2}, "list": [4]}}));
}
