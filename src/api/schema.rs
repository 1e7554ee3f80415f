//! The rules that every kind's schema keeps.

#[cfg(test)]
mod tests;
