//! The results of a benchmark: named numbers, as a table for people and as one flat JSON object for programs. The table
//! also shows goals and whether they are met.

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
        name: String,
    },
    /// There is one of this name.
    #[error("there are two figures {name}: give one another name")]
    Twice {
        /// The name.
        name: String,
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
    name: String,
    value: f64,
    goal: Option<Goal>,
    meaning: String,
}

/// The bound that a figure must keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// It must not be smaller.
    AtLeast(f64),
    /// It must not be larger.
    AtMost(f64),
}

impl Goal {
    /// Compares at two decimals: of a figure for each of a thousand objects, the third decimal is a single request.
    fn is_met_by(self, value: f64) -> bool {
        let value = (value * 1e2).round() / 1e2;
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

impl Figures {
    /// Adds one: its name in JSON, which ends with its unit, and what it means. Three decimals are kept.
    pub fn add(&mut self, name: impl Into<String>, value: f64, meaning: impl Into<String>) -> Result<(), FiguresError> {
        self.push(name.into(), value, None, meaning.into())
    }

    /// Adds one that has a goal.
    pub fn hold(
        &mut self,
        name: impl Into<String>,
        value: f64,
        goal: Goal,
        meaning: impl Into<String>,
    ) -> Result<(), FiguresError> {
        self.push(name.into(), value, Some(goal), meaning.into())
    }

    fn push(&mut self, name: String, value: f64, goal: Option<Goal>, meaning: String) -> Result<(), FiguresError> {
        if !value.is_finite() {
            return Err(FiguresError::NotMeasured { name });
        }
        if self.0.iter().any(|other| other.name == name) {
            return Err(FiguresError::Twice { name });
        }
        self.0.push(Figure { name, value: (value * 1e3).round() / 1e3, goal, meaning });
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
        serializer.collect_map(self.0.iter().map(|figure| (&figure.name, figure.value)))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goals: Vec<_> = self.0.iter().map(|figure| figure.goal.map(|goal| goal.to_string())).collect();
        let width = self.0.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
        let goal_width = goals.iter().flatten().map(String::len).max();
        for (Figure { name, value, goal, meaning }, text) in self.0.iter().zip(&goals) {
            write!(f, "{name:<width$}  {value:>14.3}  ")?;
            if let Some(goal_width) = goal_width {
                let verdict = goal.map_or("", |goal| if goal.is_met_by(*value) { "met" } else { "MISSED" });
                write!(f, "{:<goal_width$}  {verdict:<6}  ", text.as_deref().unwrap_or_default())?;
            }
            writeln!(f, "{meaning}")?;
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
        assert!(
            matches!(figures.add("p99_ms", f64::NAN, ""), Err(FiguresError::NotMeasured { name }) if name == "p99_ms")
        );
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
    #[test]
    fn the_table_shows_goals_and_whether_they_are_met() {
        let mut figures = Figures::default();
        figures.hold("ratio_1", 1.196, Goal::AtLeast(1.2), "at 1").unwrap();
        figures.hold("ratio_8", 2.9, Goal::AtLeast(3.0), "at 8").unwrap();
        figures.add("p50_ms", 0.25, "median").unwrap();
        figures.hold("writes", 3.004, Goal::AtMost(3.0), "of each").unwrap();
        assert_eq!(
            figures.to_string(),
            "ratio_1           1.196  >= 1.2  met     at 1\n\
             ratio_8           2.900  >= 3    MISSED  at 8\n\
             p50_ms            0.250                  median\n\
             writes            3.004  <= 3    met     of each\n"
        );
    }
}
