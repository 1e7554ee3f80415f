//! Guards of what runs in a workspace's pod, which a test takes out to see that it notices.
//!
//! Invariant: this is not in what is shipped: the module, and all that asks it, exists with the feature `sabotage` alone.

/// The variable that names the guards that are out, with commas between.
const VARIABLE: &str = "LANDFALL_SABOTAGE";

/// Whether a guard is out.
#[must_use]
pub fn is_out(guard: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|all| all.split(',').any(|out| out == guard))
}
