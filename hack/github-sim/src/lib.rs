//! A GitHub that behaves.
