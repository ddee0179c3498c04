#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| migrator::fuzzing::links(bytes));
