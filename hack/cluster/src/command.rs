//! A command of the machine that is run to its end.

use std::process::Command;

/// A command failed or could not be run.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` failed: {message}")]
pub struct CommandError {
    /// The command, as typed.
    pub command: String,
    /// What it wrote to its standard error, or why it could not be run.
    pub message: String,
}

/// Runs a command to its end, without input but what it was given.
pub(crate) fn run(command: &mut Command) -> Result<(), CommandError> {
    let message = match command.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let command = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(CommandError { command, message })
}
