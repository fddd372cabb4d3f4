//! The staging folder. Every step here leaves something that the next start can judge.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::image::Image;

/// | file | content | there from | until |
/// |---|---|---|---|
/// | `image.json` | [`Record`]: which image the next two belong to | before the first byte | the image is used or useless |
/// | `image.part` | what has arrived of it | the first byte | it is complete and verified |
/// | `image` | the verified image | then | it is installed |
/// | `installed.json` | [`Marker`]: installed, the restart is to come | before the restart | it was judged |
#[derive(Clone, Debug)]
pub(super) struct Staging {
    folder: PathBuf,
}

/// Which image the files belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) image: Image,
    /// The server's name for exactly these bytes: a strong entity tag or a date. Without one nothing is resumed.
    pub(super) validator: Option<String>,
    /// How long the whole image is, once the server has told.
    pub(super) total: Option<u64>,
}

/// The install command ended well, and a restart is to put the image to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The request, as JSON text: a marker of another one is a leftover.
    pub(super) req_id: Option<String>,
    /// The boot in which it was installed: another one means that the restart has happened.
    pub(super) boot_id: String,
}

impl Staging {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn part(&self) -> PathBuf {
        self.folder.join("image.part")
    }

    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("image")
    }

    /// The record; one that cannot be read is as good as none.
    pub(super) fn record(&self) -> Option<Record> {
        read(&self.record_path())
    }

    pub(super) fn write_record(&self, record: &Record) -> io::Result<()> {
        self.replace(&self.record_path(), record)
    }

    pub(super) fn marker(&self) -> Option<Marker> {
        read(&self.marker_path())
    }

    pub(super) fn write_marker(&self, marker: &Marker) -> io::Result<()> {
        self.replace(&self.marker_path(), marker)
    }

    /// Whether exactly this image is here, complete.
    pub(super) fn holds(&self, image: &Image) -> bool {
        self.image().is_file() && self.record().is_some_and(|record| record.image == *image)
    }

    /// Makes the folder ready for this image: what belongs to another one is removed.
    pub(super) fn begin(&self, image: &Image) -> io::Result<Record> {
        fs::create_dir_all(&self.folder)?;
        remove(&self.marker_path())?;
        if let Some(record) = self.record().filter(|record| record.image == *image) {
            return Ok(record);
        }
        remove(&self.part())?;
        remove(&self.image())?;
        // The old files are gone for good before the record speaks of other ones.
        self.sync()?;
        let record = Record { image: image.clone(), validator: None, total: None };
        self.write_record(&record)?;
        Ok(record)
    }

    /// The part, open for appending, and how long it is.
    pub(super) fn open_part(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().append(true).create(true).open(self.part())?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// The part is complete, verified and synced: it becomes the image.
    pub(super) fn complete(&self) -> io::Result<()> {
        fs::rename(self.part(), self.image())?;
        self.sync()
    }

    pub(super) fn remove_part(&self) -> io::Result<()> {
        remove(&self.part())
    }

    pub(super) fn remove_image(&self) -> io::Result<()> {
        remove(&self.image())
    }

    pub(super) fn remove_marker(&self) -> io::Result<()> {
        remove(&self.marker_path())?;
        self.sync()
    }

    /// Removes everything; what cannot be removed is found and judged by the next [`begin`](Self::begin).
    pub(super) fn clear(&self) {
        for path in [self.marker_path(), self.part(), self.image(), self.record_path()] {
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "firmware: could not remove a file");
            }
        }
        let _ = self.sync();
    }

    /// Bytes that can still be written, as far as the file system tells.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let status = rustix::fs::statvfs(&self.folder).ok()?;
        Some(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("image.json")
    }

    fn marker_path(&self) -> PathBuf {
        self.folder.join("installed.json")
    }

    /// Replaces a file in one step: after a power cut the old content is there or the whole new one.
    fn replace(&self, path: &Path, content: &impl Serialize) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        self.sync()
    }

    /// Makes creations, renames and removals in the folder durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
