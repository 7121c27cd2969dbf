#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    cairn_fuzz_targets::boot::boot_state(input);
});
