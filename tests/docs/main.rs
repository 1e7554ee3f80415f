//! The documentation as its readers meet it: links lead somewhere, YAML is accepted by an API server, commands exist with
//! the flags that are shown, and the names of fields, reasons and metrics are those of the source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by ending there")]

mod blocks;
mod commands;
mod links;
mod names;
mod page;
