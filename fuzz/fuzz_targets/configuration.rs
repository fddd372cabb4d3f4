//! The reference agent's TOML: any text makes settings that can be described and assembled, or problems that name the
//! file. A secret out of the environment stands in neither.
#![no_main]

use iotdm_agent::fuzzing::configuration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let told = match configuration(text, SECRET) {
        Ok(described) => described,
        Err(problems) => {
            assert!(!problems.is_empty());
            problems
        }
    };
    assert!(text.contains(SECRET) || !told.contains(SECRET), "a secret shows: {told}");
});

const SECRET: &str = "s3cr3t-t0k3n";
