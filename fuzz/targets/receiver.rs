//! Requests to the receiver, made up by libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|request: &[u8]| landfall::receiver::fuzzed::read(request));
