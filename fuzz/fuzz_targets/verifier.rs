//! `mgmt.firmware.verifier`: any text is taken or refused with the accepted forms, and what was taken has one canonical
//! text.
#![no_main]

use iotdm_handlers::firmware::fuzzing::verifier;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match verifier(text) {
        Ok(canonical) => {
            assert_eq!(verifier(&canonical).as_ref(), Ok(&canonical));
            let (algorithm, rest) = canonical.split_once(':').expect("the canonical text has its algorithm");
            if algorithm == "minisign" {
                assert_eq!(verifier(&format!(" {canonical}\n")).as_ref(), Ok(&canonical));
                assert!(text.contains(rest.trim_end_matches('=')));
            } else {
                assert!(matches!(canonical.len(), 71 | 135), "{canonical}");
                assert_eq!(verifier(&format!(" {}\n", canonical.to_uppercase())).as_ref(), Ok(&canonical));
                assert!(text.to_lowercase().contains(rest));
            }
        }
        Err(told) => assert!(told.starts_with("verifier: ") && told.len() < 200, "{told}"),
    }
});
