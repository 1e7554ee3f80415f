//! traps.yaml names tests that exist.

use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trap {
    #[serde(rename = "trap")]
    what: String,
    simulator: Vec<String>,
    #[serde(default)]
    operator: Vec<String>,
    /// Why the operator never meets it.
    never: Option<String>,
}

/// Whether a file of tests has a test function of this name.
fn has_test(file: &Path, name: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let function = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_attribute =
        |line: &str| ["#[test]", "#[tokio::test]", "#[tokio::test("].iter().any(|is| line.starts_with(is));
    lines.windows(2).any(|pair| is_attribute(pair[0]) && pair[1].contains(&function))
}

/// The files a test named `module::…::name` can be in: of a folder of tests, or of a single file.
fn exists(tests: &Path, test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else { return false };
    let module = module.replace("::", "/");
    [format!("{module}.rs"), format!("{module}/main.rs"), format!("{module}/mod.rs")]
        .iter()
        .any(|file| has_test(&tests.join(file), name))
}

#[test]
fn each_trap_names_tests_that_exist() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("traps.yaml")).unwrap();
    let traps: Vec<Trap> = serde_saphyr::from_str(&text).unwrap();
    assert!(traps.len() >= 30);
    let operator = [here.join("../../tests"), here.join("../../src")];
    for Trap { what, simulator, operator: survived, never } in &traps {
        assert!(never.is_some() == survived.is_empty(), "{what} needs a test of the operator, or a reason for none");
        assert!(!simulator.is_empty(), "{what}");
        for test in simulator {
            assert!(exists(&here.join("tests/behaviour"), test), "{what} names {test}, which is no test here");
        }
        for test in survived {
            assert!(
                operator.iter().any(|folder| exists(folder, test)),
                "{what} names {test}, which is no test of the operator"
            );
        }
    }
}

#[test]
fn a_test_that_is_not_there_is_found_out() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour");
    assert!(exists(&tests, "traps::each_trap_names_tests_that_exist"));
    assert!(!exists(&tests, "traps::has_test") && !exists(&tests, "traps::nothing") && !exists(&tests, "x::y"));
}
