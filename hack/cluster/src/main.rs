//! The cluster command line.
fn main() {}
