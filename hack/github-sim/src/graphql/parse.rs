//! Reads a GraphQL document (spec October 2021): operations, fields, arguments, aliases, fragments, variables.
//!
//! A document that it cannot read is an error, as on GitHub. Directives are not supported. The depth of nesting and the
//! number of fragments are limited, and a document can be asked for circles and for its size, so that every walk through
//! it ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// The largest depth of nested selections and values.
const DEEPEST: usize = 100;

/// One operation, and the fragments that it may refer to.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) mutation: bool,
    pub(super) selections: Vec<Selection>,
    pub(super) fragments: BTreeMap<String, (String, Vec<Selection>)>,
}

#[derive(Clone, Debug)]
pub(super) enum Selection {
    Field {
        key: String,
        name: String,
        arguments: Map<String, Value>,
        selections: Vec<Selection>,
    },
    /// `... on Type { … }`; without a type it applies to any.
    Inline {
        on: Option<String>,
        selections: Vec<Selection>,
    },
    Spread(String),
}

/// Reads `text`, and inserts the values of variables.
pub(super) fn document(text: &str, variables: &Value) -> Result<Document, String> {
    let mut reader = Reader { tokens: tokens(text)?, at: 0, variables };
    reader.shallow()?;
    let mut document = Document { mutation: false, selections: Vec::new(), fragments: BTreeMap::new() };
    let mut operations = 0;
    while let Some(token) = reader.peek() {
        match token {
            "fragment" => {
                reader.next();
                let name = reader.name()?;
                reader.expect("on")?;
                let on = reader.name()?;
                document.fragments.insert(name, (on, reader.selections()?));
                continue;
            }
            "query" | "mutation" => {
                document.mutation = token == "mutation";
                reader.next();
                reader.skip_to_selections();
            }
            _ => {}
        }
        document.selections = reader.selections()?;
        operations += 1;
    }
    if document.fragments.len() > DEEPEST {
        return Err(format!("the document has more than {DEEPEST} fragments"));
    }
    if operations == 1 { Ok(document) } else { Err(format!("Expected one operation, but found {operations}")) }
}

impl Document {
    /// A fragment that leads back to itself.
    pub(super) fn circle(&self) -> Option<&str> {
        self.fragments.keys().find(|name| self.leads(name, name)).map(String::as_str)
    }

    /// Whether one fragment names another, directly or through others.
    fn leads(&self, from: &str, to: &str) -> bool {
        let (mut waiting, mut seen) = (vec![from], BTreeSet::new());
        while let Some(name) = waiting.pop() {
            let Some((_, selections)) = self.fragments.get(name) else { continue };
            let mut named = Vec::new();
            spreads(selections, &mut named);
            if named.contains(&to) {
                return true;
            }
            waiting.extend(named.into_iter().filter(|name| seen.insert(*name)));
        }
        false
    }

    /// The number of selections with each fragment written out at each place that names it. The document has no circle.
    pub(super) fn size(&self) -> u64 {
        self.size_of(&self.selections, &mut BTreeMap::new())
    }

    fn size_of<'a>(&'a self, selections: &'a [Selection], known: &mut BTreeMap<&'a str, u64>) -> u64 {
        let mut size = 0_u64;
        for selection in selections {
            size = size.saturating_add(match selection {
                Selection::Field { selections, .. } | Selection::Inline { selections, .. } => {
                    self.size_of(selections, known).saturating_add(1)
                }
                Selection::Spread(name) => match (known.get(name.as_str()), self.fragments.get(name)) {
                    (Some(size), _) => *size,
                    (None, Some((_, selections))) => {
                        let size = self.size_of(selections, known);
                        known.insert(name, size);
                        size
                    }
                    (None, None) => 1,
                },
            });
        }
        size
    }
}

/// Adds the fragments that selections name.
fn spreads<'a>(selections: &'a [Selection], named: &mut Vec<&'a str>) {
    for selection in selections {
        match selection {
            Selection::Field { selections, .. } | Selection::Inline { selections, .. } => spreads(selections, named),
            Selection::Spread(name) => named.push(name),
        }
    }
}

struct Reader<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    variables: &'a Value,
}

impl<'a> Reader<'a> {
    /// Refuses brackets that are nested deeper than this reader can follow them.
    fn shallow(&self) -> Result<(), String> {
        let mut depth = 0_usize;
        for token in &self.tokens {
            match *token {
                "{" | "[" | "(" => depth += 1,
                "}" | "]" | ")" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEEPEST {
                return Err(format!("the document is nested more than {DEEPEST} levels deep"));
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<&'a str> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        match self.next() {
            Some(token) if token == wanted => Ok(()),
            token => Err(format!("Expected {wanted:?}, actual: {:?}", token.unwrap_or("(end)"))),
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.next() {
            Some(token) if token.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') => {
                Ok(token.to_owned())
            }
            token => Err(format!("Expected NAME, actual: {:?}", token.unwrap_or("(end)"))),
        }
    }

    /// Skips an operation's name and the types of its variables.
    fn skip_to_selections(&mut self) {
        while self.peek().is_some_and(|token| token != "{") {
            self.next();
        }
    }

    fn selections(&mut self) -> Result<Vec<Selection>, String> {
        self.expect("{")?;
        let mut selections = Vec::new();
        while !self.take("}") {
            selections.push(self.selection()?);
        }
        Ok(selections)
    }

    fn selection(&mut self) -> Result<Selection, String> {
        if self.take("...") {
            return match self.peek() {
                Some("on") => {
                    self.next();
                    let on = Some(self.name()?);
                    Ok(Selection::Inline { on, selections: self.selections()? })
                }
                Some("{") => Ok(Selection::Inline { on: None, selections: self.selections()? }),
                _ => Ok(Selection::Spread(self.name()?)),
            };
        }
        let key = self.name()?;
        let name = if self.take(":") { self.name()? } else { key.clone() };
        let mut arguments = Map::new();
        if self.take("(") {
            while !self.take(")") {
                let argument = self.name()?;
                self.expect(":")?;
                arguments.insert(argument, self.value()?);
            }
        }
        let selections = if self.peek() == Some("{") { self.selections()? } else { Vec::new() };
        Ok(Selection::Field { key, name, arguments, selections })
    }

    fn value(&mut self) -> Result<Value, String> {
        let token = self.next().ok_or("Unexpected end of document")?;
        match token {
            "$" => {
                let name = self.name()?;
                Ok(self.variables[&name].clone())
            }
            "[" => {
                let mut items = Vec::new();
                while !self.take("]") {
                    items.push(self.value()?);
                }
                Ok(Value::Array(items))
            }
            "{" => {
                let mut fields = Map::new();
                while !self.take("}") {
                    let name = self.name()?;
                    self.expect(":")?;
                    fields.insert(name, self.value()?);
                }
                Ok(Value::Object(fields))
            }
            _ => Ok(serde_json::from_str(token).unwrap_or_else(|_| json!(token))),
        }
    }
}

/// Punctuators, names, numbers and strings, without commas and comments.
fn tokens(text: &str) -> Result<Vec<&str>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == '\u{feff}');
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let length = match first {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, after)| after);
                continue;
            }
            '"' => string(rest).ok_or("Unterminated string")?,
            '.' if rest.starts_with("...") => 3,
            '{' | '}' | '(' | ')' | '[' | ']' | ':' | '=' | '!' | '$' => 1,
            _ if first == '-' || first == '_' || first.is_ascii_alphanumeric() => {
                let word = |c: char| c == '_' || c == '-' || c == '.' || c.is_ascii_alphanumeric();
                rest.find(|c| !word(c)).unwrap_or(rest.len())
            }
            _ => return Err(format!("Unexpected character {first:?}")),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after;
    }
}

/// The bytes of a quoted string at the beginning of a text.
fn string(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Some(at + 1),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_mutation_with_variables_aliases_and_fragments() {
        let text = r#"mutation Ready($id: ID!, $n: [Int!] = [1]) { # comment
            ready: markPullRequestReadyForReview(input: {pullRequestId: $id, clientMutationId: "a\"b", n: 3}) {
                pullRequest { ...Parts ... on PullRequest { number } }
            }
        }
        fragment Parts on PullRequest { id, isDraft }"#;
        let document = document(text, &json!({"id": "PR_1"})).unwrap();
        assert!(document.mutation);
        let [Selection::Field { key, name, arguments, selections }] = &document.selections[..] else { panic!() };
        assert_eq!((key.as_str(), name.as_str()), ("ready", "markPullRequestReadyForReview"));
        assert_eq!(arguments["input"], json!({"pullRequestId": "PR_1", "clientMutationId": "a\"b", "n": 3}));
        assert_eq!(selections.len(), 1);
        assert_eq!(document.fragments["Parts"].0, "PullRequest");
    }

    #[test]
    fn what_is_not_graphql_is_told() {
        for text in ["{ a", "{ a(b: ) }", "%", "", "{a} {b}", "{ a: }"] {
            assert!(document(text, &Value::Null).is_err(), "{text}");
        }
    }
}
