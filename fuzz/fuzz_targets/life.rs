//! The simulation, its lives drawn from the fuzzer's bytes: every law of `iotdm_agent::testing::simulation`.
//!
//! `engine` has what that world leaves out: results of tasks that do not run, oversized bodies, refused credentials.
#![no_main]

use iotdm_agent::testing::simulation::Plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let plan = Plan::from_bytes(bytes);
    let violation = plan.run().violation;
    assert!(violation.is_none(), "{} simulate --plan {plan}", violation.expect("it is some"));
});
