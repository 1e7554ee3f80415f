//! Runs a command of the machine to its end.

use std::process::Command;

/// A command failed or could not be run.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` failed: {message}")]
pub struct CommandError {
    /// The command, as typed.
    pub command: String,
    /// Its standard error, or the reason why it could not run.
    pub message: String,
}

/// Runs a command to its end, without any other input.
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
