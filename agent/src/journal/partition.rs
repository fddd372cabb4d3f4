//! One journal of many devices: a gateway's own records stand as a device's do, those of each attached device behind a
//! prefix of their own.

use std::fmt;

use iotdm_core::Subject;
use sha2::{Digest, Sha256};

use crate::store::{Change, Store, StoreError};

use super::key::space;
use super::{Found, Journal, JournalError, Owner, Write};

/// Whose records: the journal's owner, or a device that it speaks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(Option<[u8; PARTITION_BYTES]>);

impl Partition {
    /// The device or gateway that the journal belongs to.
    pub const OWNER: Self = Self(None);

    /// An attached device's. Hashed, since long keys would make the store write files that it never syncs.
    pub fn of(device: &Subject) -> Self {
        let mut hash = [0; PARTITION_BYTES];
        hash.copy_from_slice(&Sha256::digest(device.to_string().as_bytes())[..PARTITION_BYTES]);
        Self(Some(hash))
    }

    /// A record's key in this partition.
    pub(super) fn key(&self, key: Vec<u8>) -> Vec<u8> {
        match self.0 {
            None => key,
            Some(hash) => [&[space::ATTACHED], &hash[..], &key].concat(),
        }
    }

    /// The partition of a key, and the key in it; `None` for a key that is too short to be one.
    pub(super) fn split(key: &[u8]) -> Option<(Self, &[u8])> {
        match key.split_first()? {
            (&space::ATTACHED, rest) => {
                let (hash, rest) = rest.split_first_chunk::<PARTITION_BYTES>()?;
                Some((Self(Some(*hash)), rest))
            }
            _ => Some((Self::OWNER, key)),
        }
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("owner"),
            Some(hash) => hash[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl Journal {
    /// [`open_shared`](Self::open_shared) for a device that speaks for itself alone.
    pub fn open(
        store: Box<dyn Store>,
        identity: &str,
        mut restore: impl FnMut(Write),
    ) -> Result<(Self, Found), JournalError> {
        Self::open_shared(store, identity, &[], |of, write| {
            if of == Partition::OWNER {
                restore(write);
            }
        })
    }

    /// Makes changes durable, all or none. After an error this journal is of no use: open it again.
    pub fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        self.commit_of(writes.iter().map(|write| (Partition::OWNER, write)))
    }

    /// [`commit`](Self::commit) for several devices at once.
    pub fn commit_of<'a>(
        &mut self,
        writes: impl IntoIterator<Item = (Partition, &'a Write)>,
    ) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        for (of, write) in writes {
            self.of = of;
            self.write(&mut changes, write);
        }
        self.of = Partition::OWNER;
        self.store.commit(&changes)
    }

    /// Makes room for an attached device, or reads back what stands here of it.
    ///
    /// A device that is not known here starts in quarantine, as one whose journal is absent.
    ///
    /// # Errors
    /// [`JournalError::Full`] when a further device would be one too many. The journal is as it was then.
    pub fn attach(
        &mut self,
        device: &Subject,
        mut restore: impl FnMut(Write),
    ) -> Result<Found, JournalError> {
        let partition = Partition::of(device);
        if self.devices.contains_key(&partition) {
            // The other records come along; a device is not attached often.
            self.read(&mut |of, write| {
                if of == partition {
                    restore(write);
                }
            })?;
            return Ok(Found::Journal);
        }
        let mut changes = Vec::new();
        self.begin_partitions(&mut changes, std::slice::from_ref(device), &mut |_, write| restore(write))?;
        self.store.commit(&changes)?;
        Ok(Found::Nothing)
    }

    /// Forgets an attached device: a replay of its requests would run.
    ///
    /// # Errors
    /// The store's; the journal is of no use then.
    pub fn forget(&mut self, device: &Subject) -> Result<(), StoreError> {
        let partition = Partition::of(device);
        let mut changes = Vec::new();
        self.store.scan(&mut |key, _| {
            if Partition::split(key).is_some_and(|(of, _)| of == partition) {
                changes.push(Change::Remove { key: key.to_vec() });
            }
        })?;
        self.store.commit(&changes)?;
        self.chunks.retain(|key, _| Partition::split(key).is_none_or(|(of, _)| of != partition));
        self.devices.remove(&partition);
        Ok(())
    }

    /// Which devices have records here, attached or not.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.devices.values().map(String::as_str)
    }

    pub(super) fn begin_partitions(
        &mut self,
        changes: &mut Vec<Change>,
        devices: &[Subject],
        restore: &mut impl FnMut(Partition, Write),
    ) -> Result<(), JournalError> {
        for device in devices {
            let of = Partition::of(device);
            if self.devices.contains_key(&of) {
                continue;
            }
            if self.devices.len() >= MAX_PARTITIONS {
                return Err(JournalError::Full);
            }
            let owner = Owner { identity: device.to_string() };
            self.of = of;
            self.put(changes, vec![space::OWNER], &owner);
            self.write(changes, &Write::Quarantine(true));
            self.of = Partition::OWNER;
            self.devices.insert(of, owner.identity);
            restore(of, Write::Quarantine(true));
        }
        Ok(())
    }
}

/// How many devices a journal may have records of, attached ones included: twice as many as may be attached, so that a
/// replaced device does not take the place of one that may come back.
pub const MAX_PARTITIONS: usize = 1000;

const PARTITION_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{MemoryDisk, StoreSource};

    const GATEWAY: &str = "g:org:gw:g7";

    fn pump(number: usize) -> Subject {
        Subject::Named { type_id: "pump".parse().unwrap(), device_id: format!("p-{number}").parse().unwrap() }
    }

    fn open(disk: &MemoryDisk, attached: &[Subject]) -> (Journal, Vec<(Partition, String)>) {
        let mut found = Vec::new();
        let store = disk.clone().open().unwrap();
        let restore = |of, write: Write| found.push((of, format!("{write:?}")));
        let (journal, _) = Journal::open_shared(store, GATEWAY, attached, restore).unwrap();
        found.sort();
        (journal, found)
    }

    fn level(value: u32) -> Write {
        Write::Attribute("level".into(), json!(value))
    }

    #[test]
    fn records_of_one_name_are_each_devices_own() {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk, &[pump(1), pump(2)]);
        let large = Write::Attribute("large".into(), json!("x".repeat(20_000)));
        let (first, second) = (Partition::of(&pump(1)), Partition::of(&pump(2)));
        let writes = [(Partition::OWNER, level(0)), (first, level(1)), (second, level(2)), (second, large)];
        journal.commit_of(writes.iter().map(|(of, write)| (*of, write))).unwrap();
        journal.commit_of([(first, &Write::Unset("level".into()))]).unwrap();
        drop(journal);
        let (_, found) = open(&disk, &[pump(1), pump(2)]);
        let of = |partition, what: &str| {
            found.iter().filter(|(of, text)| *of == partition && text.contains(what)).count()
        };
        assert_eq!(of(Partition::OWNER, "level"), 1);
        assert_eq!(of(first, "level"), 0);
        assert_eq!((of(second, "level"), of(second, "large")), (1, 1));
    }

    #[test]
    fn a_device_that_is_not_known_starts_in_quarantine_and_a_known_one_as_it_was() {
        let disk = MemoryDisk::new();
        let (mut journal, found) = open(&disk, &[pump(1)]);
        assert_eq!(found.len(), 2, "{found:?}");
        let lifted = [
            (Partition::OWNER, Write::Quarantine(false)),
            (Partition::of(&pump(1)), Write::Quarantine(false)),
        ];
        journal.commit_of(lifted.iter().map(|(of, write)| (*of, write))).unwrap();
        let mut restored = Vec::new();
        assert_eq!(
            journal.attach(&pump(2), |write| restored.push(format!("{write:?}"))).unwrap(),
            Found::Nothing
        );
        assert_eq!(
            journal.attach(&pump(1), |write| restored.push(format!("{write:?}"))).unwrap(),
            Found::Journal
        );
        assert_eq!(restored, ["Quarantine(true)", "Quarantine(false)"]);
    }

    #[test]
    fn a_forgotten_device_leaves_nothing_and_others_everything() {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(&disk, &[pump(1)]);
        let before = disk.entries();
        journal.attach(&pump(2), |_| {}).unwrap();
        journal
            .commit_of([(Partition::of(&pump(2)), &Write::Attribute("a".into(), json!("x".repeat(20_000))))])
            .unwrap();
        assert_eq!(journal.devices().count(), 2);
        journal.forget(&pump(2)).unwrap();
        assert_eq!(disk.entries(), before);
        assert_eq!(journal.devices().collect::<Vec<_>>(), ["type/pump/id/p-1/"]);
    }

    #[test]
    fn a_journal_takes_a_thousand_devices_and_says_what_to_do_then() {
        let disk = MemoryDisk::new();
        let devices: Vec<Subject> = (0..MAX_PARTITIONS).map(pump).collect();
        let (mut journal, _) = open(&disk, &devices);
        let full = journal.attach(&pump(MAX_PARTITIONS), |_| {}).unwrap_err().to_string();
        assert!(full.contains("forget one"), "{full}");
        journal.forget(&pump(0)).unwrap();
        journal.attach(&pump(MAX_PARTITIONS), |_| {}).unwrap();
    }

    /// A device's journal has no trace of what gateways need.
    #[test]
    fn a_device_that_is_alone_writes_the_keys_it_always_wrote() {
        let disk = MemoryDisk::new();
        let (mut journal, _) = Journal::open(disk.clone().open().unwrap(), "d:org:type:id", |_| {}).unwrap();
        journal.commit(&[level(1), Write::Observe("level".into(), 1)]).unwrap();
        let spaces: Vec<u8> = disk.entries().keys().map(|key| key[0]).collect();
        assert_eq!(String::from_utf8(spaces).unwrap(), "acio");
    }
}
