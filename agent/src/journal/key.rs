//! Keys of the store: a space, and what names a record in it.

use sha2::{Digest, Sha256};

pub(super) fn keyed(space: u8, id: &[u8]) -> Vec<u8> {
    [&[space], id].concat()
}

/// The key of something with a name: the name's hash, since long keys would make the store write unsynced files.
pub(super) fn named(space: u8, name: &str) -> Vec<u8> {
    keyed(space, &Sha256::digest(name.as_bytes())[..16])
}

pub(super) fn numbered(key: &[u8], chunk: u16) -> Vec<u8> {
    [key, &chunk.to_be_bytes()].concat()
}

pub(super) mod space {
    pub(in crate::journal) const OWNER: u8 = b'i';
    pub(in crate::journal) const OPEN_OR_DONE: u8 = b'r';
    pub(in crate::journal) const QUEUE: u8 = b'q';
    pub(in crate::journal) const ATTRIBUTE: u8 = b'a';
    pub(in crate::journal) const OBSERVATION: u8 = b'o';
    pub(in crate::journal) const QUARANTINE: u8 = b'c';
    pub(in crate::journal) const MARK: u8 = b'm';
    /// Before the records of an attached device, whose keys follow as they stand here.
    pub(in crate::journal) const ATTACHED: u8 = b'd';
}
