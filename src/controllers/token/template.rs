//! The templates of a Secret's keys.
//!
//! A tenant writes them, so the engine runs code of tenants. Invariants: a template reads the variables that it is given
//! and nothing else; its work and memory are bounded; no error repeats a value of a variable, for one of them is the
//! token.
//!
//! The engine's fuel bounds the work, and the strings that operators make. It does not see inside of lists in lists,
//! which can stand for far more text than they take memory ([`allowed`] says which parts of the language are left). The
//! syntax tree is not part of the engine's stable API, so Cargo.toml pins its minor version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::machinery::ast::{BinOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::machinery::{Span, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};

/// The values that a template reads.
pub struct Variables<'a> {
    pub token: &'a str,
    pub username: &'a str,
    /// RFC 3339.
    pub expires_at: String,
    pub host: String,
    pub api_url: &'a str,
    pub account: &'a str,
    pub installation_id: i64,
    /// The full names.
    pub repositories: Vec<String>,
}

const NAMES: [&str; 8] =
    ["account", "apiURL", "expiresAt", "host", "installationID", "repositories", "token", "username"];
const FILTERS: [&str; 3] = ["b64encode", "tojson", "urlencode"];

/// An instruction, or 64 bytes of a string that the template makes.
const FUEL: u64 = 20_000;
/// The most bytes of one key.
const LONGEST_OUTPUT: usize = 64 * 1024;
/// The deepest nesting of expressions and blocks. The engine's compiler is recursive.
const DEEPEST: usize = 32;

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: Option<usize>,
    pub message: String,
}

impl Problem {
    fn at(span: Span, message: impl Into<String>) -> Self {
        Self { line: Some(span.start_line.into()), message: message.into() }
    }
}

/// Renders the template of one key.
pub fn render(template: &str, variables: &Variables<'_>) -> Result<String, Problem> {
    let problem = |error: &Error, message: String| Problem { line: error.line(), message };
    let tree = parse(template, "", syntax()).map_err(|error| {
        // The detail is about the template's own text.
        let detail: String = error.detail().unwrap_or_default().chars().take(200).collect();
        problem(&error, format!("{}: {detail}", error.kind()))
    })?;
    allowed(&tree, &mut Vec::new(), 0)?;
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_fuel(Some(FUEL));
    engine.set_syntax(syntax());
    engine.add_filter("b64encode", |text: String| STANDARD.encode(text));
    engine.add_filter("urlencode", |text: String| {
        percent_encoding::utf8_percent_encode(&text, super::format::UNRESERVED).to_string()
    });
    engine.add_filter("tojson", |value: Value| to_json(&value));
    // The engine's own details can repeat a value.
    let failed = |error: &Error| {
        let message = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too much work or memory: make it smaller".to_owned(),
            kind => format!("it cannot be rendered: {kind}"),
        };
        problem(error, message)
    };
    let context = context! {
        token => variables.token,
        username => variables.username,
        expiresAt => variables.expires_at.as_str(),
        host => variables.host.as_str(),
        apiURL => variables.api_url,
        account => variables.account,
        installationID => variables.installation_id,
        repositories => variables.repositories.iter().map(String::as_str).collect::<Value>(),
    };
    let rendered =
        engine.template_from_str(template).and_then(|template| template.render(context)).map_err(|it| failed(&it))?;
    if rendered.len() > LONGEST_OUTPUT {
        let message = format!("it makes more than {} KiB of text: make it smaller", LONGEST_OUTPUT / 1024);
        return Err(Problem { line: None, message });
    }
    Ok(rendered)
}

fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.keep_trailing_newline(true);
    builder.build().unwrap_or_default()
}

/// A text, a number or a list of them as JSON.
fn to_json(value: &Value) -> Result<String, Error> {
    let single = |value: &Value| match value.kind() {
        ValueKind::String => Ok(serde_json::Value::from(value.as_str().unwrap_or_default()).to_string()),
        ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        _ => Err(Error::from(ErrorKind::InvalidOperation)),
    };
    if value.kind() != ValueKind::Seq {
        return single(value);
    }
    let items = value.try_iter()?.map(|item| single(&item)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[{}]", items.join(",")))
}

/// Whether a template has only the parts of the language that cannot grow beyond their bounds: variables, texts and
/// numbers, comparisons, `~`, the filters, `if`, and `for` over a variable. Nothing can bind a name to a value that the
/// template made itself, nor make a list.
fn allowed<'a>(statement: &Stmt<'a>, loops: &mut Vec<&'a str>, depth: usize) -> Result<(), Problem> {
    let all = |statements: &[Stmt<'a>], loops: &mut Vec<&'a str>| {
        statements.iter().try_for_each(|statement| allowed(statement, loops, depth + 1))
    };
    match statement {
        _ if depth > DEEPEST => Err(Problem { line: None, message: "its blocks are nested too deeply".to_owned() }),
        Stmt::Template(template) => all(&template.children, loops),
        Stmt::EmitRaw(_) => Ok(()),
        Stmt::EmitExpr(emitted) => readable(&emitted.expr, emitted.span(), loops, 0),
        Stmt::IfCond(condition) => {
            readable(&condition.expr, condition.span(), loops, 0)?;
            all(&condition.true_body, loops)?;
            all(&condition.false_body, loops)
        }
        Stmt::ForLoop(repeated) => {
            let span = repeated.span();
            let (Expr::Var(target), Expr::Var(_), false) = (&repeated.target, &repeated.iter, repeated.recursive)
            else {
                return Err(Problem::at(span, "a for loop must have the form {% for repository in repositories %}"));
            };
            if NAMES.contains(&target.id) || target.id == "loop" {
                return Err(Problem::at(span, "the variable of a for loop needs a name that is not taken"));
            }
            readable(&repeated.iter, span, loops, 0)?;
            loops.push(target.id);
            if let Some(filter) = &repeated.filter_expr {
                readable(filter, span, loops, 0)?;
            }
            all(&repeated.body, loops)?;
            loops.pop();
            all(&repeated.else_body, loops)
        }
        _ => Err(Problem { line: None, message: "it has a block other than if and for".to_owned() }),
    }
}

fn readable(expression: &Expr<'_>, span: Span, loops: &[&str], depth: usize) -> Result<(), Problem> {
    let next = |expression: &Expr<'_>| readable(expression, span, loops, depth + 1);
    let refused = |message: String| Err(Problem::at(span, message));
    let shown = |name: &str| name.chars().take(60).collect::<String>();
    match expression {
        _ if depth > DEEPEST => refused("an expression is nested too deeply: split it".to_owned()),
        Expr::Const(_) => Ok(()),
        Expr::Var(variable) if NAMES.contains(&variable.id) || loops.contains(&variable.id) => Ok(()),
        Expr::Var(variable) => {
            refused(format!("there is no variable {}; there are {}", shown(variable.id), NAMES.join(", ")))
        }
        Expr::GetAttr(attribute) if matches!(&attribute.expr, Expr::Var(it) if it.id == "loop" && !loops.is_empty()) => {
            Ok(())
        }
        Expr::GetItem(item) if matches!(item.subscript_expr, Expr::Const(_)) => next(&item.expr),
        Expr::UnaryOp(operation) if matches!(operation.op, UnaryOpKind::Not) => next(&operation.expr),
        Expr::BinOp(operation) => match operation.op {
            BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::ScAnd
            | BinOpKind::ScOr
            | BinOpKind::In
            | BinOpKind::Concat => {
                next(&operation.left)?;
                next(&operation.right)
            }
            _ => refused("calculations are not available; join texts with ~".to_owned()),
        },
        Expr::Compare(comparison) => {
            next(&comparison.expr)?;
            comparison.ops.iter().try_for_each(|operation| next(&operation.expr))
        }
        Expr::IfExpr(choice) => {
            next(&choice.test_expr)?;
            next(&choice.true_expr)?;
            choice.false_expr.as_ref().map_or(Ok(()), next)
        }
        Expr::Filter(filter) if !FILTERS.contains(&filter.name) => {
            refused(format!("there is no filter {}; there are {}", shown(filter.name), FILTERS.join(", ")))
        }
        Expr::Filter(filter) if filter.args.is_empty() => filter.expr.as_ref().map_or(Ok(()), next),
        Expr::Filter(filter) => refused(format!("the filter {} takes no arguments", filter.name)),
        _ => refused("only variables, texts, comparisons, ~ and filters are available in an expression".to_owned()),
    }
}

#[cfg(test)]
mod tests;
