//! Pushes to the gateway, made up by libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|request: &[u8]| landfall::gateway::fuzzed::read(request));
