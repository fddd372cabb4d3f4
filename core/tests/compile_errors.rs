//! What the compiler says to somebody who writes an action of their own: each mistake's message names what to write.
//!
//! The texts are those of one compiler. To take over those of another one: `TRYBUILD=overwrite cargo test -p iotdm-core
//! --test compile_errors -- --ignored`, and read what has changed.

#[test]
#[ignore = "pins the texts of rustc 1.95"]
fn the_likeliest_mistakes_are_told_with_what_to_write() {
    let cases = trybuild::TestCases::new();
    // One that compiles: it makes trybuild build the others too, not only check them, and some errors are found there.
    cases.pass("tests/compile_errors/good.rs");
    cases.compile_fail("tests/compile_errors/mistakes/*.rs");
}
