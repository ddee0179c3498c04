#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm::fuzzing::virtio_balloon(bytes));
