//! The journal under violence: both stores over one suite, then what only a directory on a disk can suffer.
//!
//! What is at stake is one sentence: **a record whose commit returned is there, or the journal says that it is damaged**
//! and is set aside. A journal that cannot be used for another reason (space, permission, a newer program) says so and
//! is left as it is. There is never a panic.
//!
//! * `records`: what is written, and what must be read back after any of its commits.
//! * `disk`: a disk that can be hurt, in memory and as a directory.
//! * `suite`: what both must stand: crashes after and in the middle of every commit, and spoilt bits.
//! * `damage`: every file of the directory flipped, cut, missing, or older than the others.
//! * `formats`: directories of an earlier program, and of a later one.
//! * `agent`: what an agent makes of a journal that was hurt.
//! * `mounts`, `power`, `places`: power cuts, full and read-only file systems, files of somebody else. They need root
//!   and loop devices:
//!
//!       cargo test -p iotdm-tests --test violence -- --ignored
//!
//! `IOTDM_CUTS` says how often the power is cut.

#![expect(clippy::unwrap_used, reason = "all of it is tests, the helpers, too")]

mod agent;
mod damage;
mod disk;
mod formats;
mod mounts;
mod places;
mod power;
mod records;
mod suite;
mod writer;
