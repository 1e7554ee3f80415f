//! What a benchmark found out: named numbers, as a table for people and as one flat JSON object for programs.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// A figure is none, or the figures could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// It was not measured.
    #[error("{name} was not measured: nothing happened that it could be taken from")]
    NotMeasured {
        /// Its name.
        name: &'static str,
    },
    /// There is one of this name.
    #[error("there are two figures {name}: give one another name")]
    Twice {
        /// The name.
        name: &'static str,
    },
    /// The file could not be written.
    #[error("{} could not be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Figures, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(Vec<Figure>);

#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: &'static str,
    value: f64,
    meaning: &'static str,
}

impl Figures {
    /// Adds one: its name in JSON, which ends with its unit, and what it means. Three decimals are kept.
    pub fn add(&mut self, name: &'static str, value: f64, meaning: &'static str) -> Result<(), FiguresError> {
        if !value.is_finite() {
            return Err(FiguresError::NotMeasured { name });
        }
        if self.0.iter().any(|other| other.name == name) {
            return Err(FiguresError::Twice { name });
        }
        self.0.push(Figure { name, value: (value * 1e3).round() / 1e3, meaning });
        Ok(())
    }

    /// Writes them as one flat JSON object. The file is whole or as it was before.
    pub fn write(&self, path: &Path) -> Result<(), FiguresError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let write = || {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            fs::write(&part, text)?;
            fs::rename(&part, path)
        };
        write().map_err(|source| FiguresError::Write { path: path.to_owned(), source })
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|figure| (figure.name, figure.value)))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        for Figure { name, value, meaning } in &self.0 {
            writeln!(f, "{name:<width$}  {value:>14.3}  {meaning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flat_object_in_order() {
        let mut figures = Figures::default();
        figures.add("raw_per_s", 12_345.678_9, "patches per second").unwrap();
        figures.add("p50_ms", 0.25, "median").unwrap();
        assert!(matches!(figures.add("p99_ms", f64::NAN, ""), Err(FiguresError::NotMeasured { name: "p99_ms" })));
        assert!(matches!(figures.add("p50_ms", 1.0, ""), Err(FiguresError::Twice { .. })));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.json");
        figures.write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"raw_per_s\": 12345.679,\n  \"p50_ms\": 0.25\n}\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(
            figures.to_string(),
            "raw_per_s       12345.679  patches per second\np50_ms              0.250  median\n"
        );
        let nowhere = folder.path().join("none/figures.json");
        assert!(matches!(figures.write(&nowhere), Err(FiguresError::Write { .. })));
    }
}
