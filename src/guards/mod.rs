//! Guards against attacks and crashes, at the places where a test takes one out to show that it notices.
//!
//! Invariant: every function in `shipped.rs` returns its first argument as it is, so a guard is what stands at the call. With
//! the feature `sabotage`, which no shipped build has, `sabotaged.rs` takes the place of `shipped.rs`. It has the same
//! functions, and leaves a guard out where a test asks for that. No other file of the program knows the feature.

#[cfg(feature = "sabotage")]
mod sabotaged;
#[cfg(not(feature = "sabotage"))]
mod shipped;

#[cfg(feature = "sabotage")]
pub use sabotaged::*;
#[cfg(not(feature = "sabotage"))]
pub use shipped::*;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    fn sources(directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn no_other_file_knows_the_feature() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let others: Vec<_> = sources(&src).into_iter().filter(|path| !path.starts_with(src.join("guards"))).collect();
        assert!(others.len() > 100, "{} sources", others.len());
        let knowing = others.iter().filter(|path| std::fs::read_to_string(path).unwrap().contains("\"sabotage\""));
        assert_eq!(knowing.collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    }

    #[test]
    fn what_ships_has_the_functions_that_tests_have() {
        fn functions(source: &'static str) -> BTreeSet<&'static str> {
            let named = |line: &'static str| {
                let declared = line.trim_start().strip_prefix("pub(crate) ")?;
                declared.strip_prefix("async ").unwrap_or(declared).strip_prefix("fn ")?.split(['(', '<']).next()
            };
            source.lines().filter_map(named).collect()
        }
        let shipped = functions(include_str!("shipped.rs"));
        assert!(shipped.len() > 20, "{shipped:?}");
        assert_eq!(functions(include_str!("sabotaged.rs")), shipped);
    }
}
