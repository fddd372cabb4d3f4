//! What the agent makes of a journal that it finds hurt: it goes on and says so, or it ends and says why.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};

use iotdm_agent::RunError;
use iotdm_agent::journal::JournalError;
use iotdm_agent::store::{SledSource, StoreError};
use iotdm_agent::testing::{MemoryDisk, Platform, Running, TestSystem, start};

use crate::disk::{Directory, Disk};

#[tokio::test(start_paused = true)]
async fn an_agent_sets_a_damaged_journal_aside_says_where_and_is_managed_again() {
    let disk = used().await;
    fs::write(disk.store().join("db"), "not what was written").unwrap();
    let log = Log::default();
    let _logging = log.listen();
    let platform = Platform::new();
    let running = agent(&platform, &disk);
    platform.managed(1).await;
    running.stop().await.unwrap();

    let place = disk.journal().join("set-aside-1");
    assert_eq!(fs::read(place.join("db")).unwrap(), b"not what was written");
    let log = log.text();
    let line = log.lines().find(|line| line.contains("is damaged: ")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("ERROR") && line.contains(&format!("set aside as {}", place.display())), "{line}");
    assert!(line.contains("starts with an empty journal"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_ends_at_a_store_of_another_version_and_leaves_it_alone() {
    let disk = used().await;
    let configuration = disk.store().join("conf");
    let other = crate::formats::other_version(&fs::read(&configuration).unwrap(), "1.0");
    fs::write(&configuration, other).unwrap();
    let ended = agent(&Platform::new(), &disk).stop().await;
    let Err(RunError::Journal(JournalError::Store(reason @ StoreError::OtherFormat { .. }))) = ended else {
        panic!("{ended:?}")
    };
    assert!(reason.to_string().contains(disk.journal().to_str().unwrap()), "{reason}");
    assert!(!disk.journal().join("set-aside-1").exists());
}

/// The journal of an agent that was managed once.
async fn used() -> Directory {
    let disk = Directory::new();
    let platform = Platform::new();
    let running = agent(&platform, &disk);
    platform.managed(1).await;
    running.stop().await.unwrap();
    disk
}

fn agent(platform: &Platform, disk: &Directory) -> Running {
    let journal = disk.journal();
    start(platform, &MemoryDisk::new(), &TestSystem::new(), |builder| builder.store(SledSource::new(journal)))
}

/// What is logged in this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
