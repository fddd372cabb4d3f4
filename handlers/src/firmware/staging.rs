//! The staging folder. Every step here leaves something that the next start can judge.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::image::Image;
use super::install::Marker;

/// | file | content | there from | until |
/// |---|---|---|---|
/// | `image.json` | [`Record`]: which image the next two belong to | before the first byte | the image is used or useless |
/// | `image.part` | what has arrived of it | the first byte | it is complete and verified |
/// | `image` | the verified image | then | it is installed |
/// | `installed.json` | [`Marker`]: how far the installation is | before it begins | it was judged, and the platform told |
/// | `installer/` | what the installer keeps across restarts | before it begins | likewise |
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
    /// How much of the part was synced: all that a power cut leaves for certain.
    #[serde(default)]
    pub(super) synced: u64,
    /// The boot in which the part was last written. In another one only `synced` bytes of it can be trusted.
    #[serde(default)]
    pub(super) boot_id: Option<String>,
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
        let is_file = fs::symlink_metadata(self.image()).is_ok_and(|found| found.is_file());
        is_file && self.record().is_some_and(|record| record.image == *image)
    }

    /// Makes the folder ready for this image: what belongs to another one is removed.
    pub(super) fn begin(&self, image: &Image) -> io::Result<Record> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.folder)?;
        self.refuse_shared()?;
        if let Some(marker) = self.marker() {
            // No request goes on with it; what it left in place may still have to be taken back.
            self.write_marker(&Marker { req_id: None, ..marker })?;
        }
        if let Some(record) = self.record().filter(|record| record.image == *image) {
            return Ok(record);
        }
        remove(&self.part())?;
        remove(&self.image())?;
        // The old files are gone for good before the record speaks of other ones.
        self.sync()?;
        let record = Record { image: image.clone(), validator: None, total: None, synced: 0, boot_id: None };
        self.write_record(&record)?;
        Ok(record)
    }

    /// The part, open for appending, and how long it is. What an earlier boot wrote and did not sync is cut off: after
    /// a power cut it has the right length and may be zeroes.
    pub(super) fn open_part(&self, record: &mut Record, boot_id: &str) -> io::Result<(File, u64)> {
        let file = own().append(true).create(true).open(self.part())?;
        let mut length = file.metadata()?.len();
        if record.boot_id.as_deref() != Some(boot_id) {
            length = length.min(record.synced);
            file.set_len(length)?;
            file.sync_all()?;
            record.boot_id = Some(boot_id.to_owned());
            self.write_record(record)?;
        }
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

    /// Removes everything; what cannot be removed is found and judged by the next [`begin`](Self::begin).
    pub(super) fn clear(&self) {
        for path in [self.marker_path(), self.part(), self.image(), self.record_path()] {
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "firmware: could not remove a file");
            }
        }
        if let Err(error) = remove_folder(&self.work()) {
            tracing::warn!(path = %self.work().display(), %error, "firmware: could not remove a folder");
        }
        let _ = self.sync();
    }

    /// The installer's own folder.
    pub(super) fn work(&self) -> PathBuf {
        self.folder.join("installer")
    }

    /// Makes the installer's folder, empty.
    pub(super) fn begin_work(&self) -> io::Result<()> {
        remove_folder(&self.work())?;
        DirBuilder::new().mode(FOLDER_MODE).create(self.work())?;
        self.sync()
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
        remove(&temporary)?;
        let mut file = own().write(true).create_new(true).open(&temporary)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        self.sync()
    }

    /// What is proved here is installed from here: nobody else may exchange it in between.
    fn refuse_shared(&self) -> io::Result<()> {
        let mode = fs::metadata(&self.folder)?.permissions().mode();
        if mode & MODE_WRITABLE_BY_OTHERS == 0 {
            return Ok(());
        }
        let help = format!("others may write there; run: chmod 700 {}", self.folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, help))
    }

    /// Makes creations, renames and removals in the folder durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Opens a file that only this user may read, and never what a link leads to: an address may hold a password, an image
/// anything.
fn own() -> OpenOptions {
    let mut options = OpenOptions::new();
    let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).expect("flags of open are an int in C");
    options.mode(FILE_MODE).custom_flags(no_links);
    options
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

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The folder and its files are nobody else's business.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The permission bits with which others than the owner could exchange a file.
const MODE_WRITABLE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn image() -> Image {
        serde_json::from_value(
            json!({"uri": "http://me:secret@h/x?sig=secret", "verifier": null, "version": null}),
        )
        .unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_staged_is_closed_to_others() {
        let home = tempfile::tempdir().unwrap();
        let staging = Staging::new(home.path().join("a/b"));
        let mut record = staging.begin(&image()).unwrap();
        staging.open_part(&mut record, "boot-1").unwrap();
        assert_eq!(mode(&staging.folder), 0o700);
        assert_eq!((mode(&staging.part()), mode(&staging.record_path())), (0o600, 0o600));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_the_command_that_mends_it() {
        let home = tempfile::tempdir().unwrap();
        for (mode, accepted) in [(0o755, true), (0o770, false), (0o777, false), (0o1777, false)] {
            fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
            let result = Staging::new(home.path().into()).begin(&image());
            assert_eq!(result.is_ok(), accepted, "{mode:o}");
            if let Err(error) = result {
                assert!(error.to_string().contains("run: chmod 700 "), "{error}");
            }
        }
    }

    #[test]
    fn of_what_an_earlier_boot_wrote_only_what_was_synced_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let staging = Staging::new(home.path().join("staging"));
        let mut record = staging.begin(&image()).unwrap();
        let (mut part, length) = staging.open_part(&mut record, "boot-1").unwrap();
        assert_eq!(length, 0);
        part.write_all(&[1; 50]).unwrap();
        record.synced = 30;
        staging.write_record(&record).unwrap();
        assert_eq!(staging.open_part(&mut record, "boot-1").unwrap().1, 50, "the process died, nothing else");
        assert_eq!(staging.open_part(&mut record, "boot-2").unwrap().1, 30);
        assert_eq!(fs::read(staging.part()).unwrap(), [1; 30]);
        assert_eq!(staging.record().unwrap().boot_id.as_deref(), Some("boot-2"));
    }

    /// A record of an agent that wrote neither.
    #[test]
    fn a_record_without_what_was_synced_is_read_and_trusts_nothing() {
        let text = json!({"image": image(), "validator": "\"one\"", "total": 100});
        let record: Record = serde_json::from_value(text).unwrap();
        assert_eq!((record.synced, record.boot_id), (0, None));
    }

    /// Left there by whoever could write there before.
    #[test]
    fn a_planted_link_is_neither_written_through_nor_taken_for_an_image() {
        let home = tempfile::tempdir().unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let staging = Staging::new(home.path().join("staging"));
        let mut record = staging.begin(&image()).unwrap();

        symlink(&victim, staging.part()).unwrap();
        assert!(staging.open_part(&mut record, "boot-1").is_err());
        symlink(&victim, staging.record_path().with_extension("tmp")).unwrap();
        staging.write_record(&record).unwrap();
        symlink(&victim, staging.image()).unwrap();
        assert!(!staging.holds(&image()));
        staging.clear();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }
}
