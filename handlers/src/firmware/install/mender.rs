//! Mender's update modules: executables that carry out the states of an update, protocol version 3.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use iotdm_core::ChildOutput;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::FirmwareOptionsError;
use super::installer::{Activation, Conclusion, InstallError, Installer, Job};

/// Installs with an existing [update module](https://docs.mender.io/artifact-creation/create-a-custom-update-module)
/// of Mender.
///
/// The image is the payload's one file. `Download`, `ArtifactInstall` and, for a module that restarts a peripheral by
/// itself, `ArtifactReboot` and `ArtifactVerifyReboot` are the installation; `ArtifactCommit` commits,
/// `ArtifactRollback` rolls back; `ArtifactFailure` and `Cleanup` end the update. A module that answers
/// `NeedsArtifactReboot` with `Automatic` has the machine restarted.
///
/// # Caveats
/// * The payload is given as the files tree. There is no streams tree: a module that insists on reading `stream-next`
///   in its `Download` state fails there.
/// * The image is the bare payload, not a `.mender` artifact: what is in an artifact's header stands in the
///   configuration, and it is this agent that has verified the image.
#[derive(Clone, Debug, PartialEq)]
pub struct MenderModuleInstaller {
    /// The module, such as `/usr/share/mender/modules/v3/single-file`.
    pub module: PathBuf,
    /// What the payload's file is called.
    pub payload_name: String,
    /// Small files that the module expects beside the payload, by name.
    pub files: BTreeMap<String, String>,
    /// The payload's `meta-data`.
    pub meta_data: Value,
    /// The kind of device, as `current_device_type` has it.
    pub device_type: String,
}

impl MenderModuleInstaller {
    /// This module, with the image as a file called `image` and nothing beside it.
    pub fn new(module: impl Into<PathBuf>) -> Self {
        Self {
            module: module.into(),
            payload_name: "image".into(),
            files: BTreeMap::new(),
            meta_data: json!({}),
            device_type: String::new(),
        }
    }

    /// The module's name is the payload's type.
    fn payload_type(&self) -> String {
        self.module.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Calls the module with a state or a query.
    async fn call(&self, job: &Job<'_>, state: &str) -> Result<ChildOutput, InstallError> {
        let tree = job.folder().join(TREE);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut child = job.command(&[text(&self.module), state.to_owned(), text(&tree)]);
        child.directory = Some(tree);
        job.run(&format!("the update module in {state}"), child).await
    }

    /// The first line that the module answers to a query.
    async fn query(&self, job: &Job<'_>, query: &str) -> Result<String, InstallError> {
        let output = self.call(job, query).await?;
        let answer = String::from_utf8_lossy(&output.stdout);
        Ok(answer.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// What the module was asked for so far.
    async fn progress(&self, job: &Job<'_>) -> Progress {
        let path = job.folder().join(PROGRESS);
        let read = move || serde_json::from_slice(&fs::read(path).ok()?).ok();
        job.blocking(move |_| read()).await.unwrap_or_default()
    }

    async fn record(&self, job: &Job<'_>, progress: Progress) -> Result<(), InstallError> {
        let folder = job.folder().to_owned();
        let written = job.blocking(move |_| write_progress(&folder, progress)).await;
        written.map_err(|error| InstallError::io("the module's progress could not be recorded", &error))
    }

    async fn make_tree(&self, job: &Job<'_>) -> Result<(), InstallError> {
        let tree = job.folder().join(TREE);
        let payload = (job.image().to_owned(), self.payload_name.clone());
        let texts = self.texts(job);
        let made = job.blocking(move |_| make_tree(&tree, &payload, &texts)).await;
        made.map_err(|error| InstallError::io("the module's file tree could not be made", &error))
    }

    /// The files of the tree that are text, by path.
    fn texts(&self, job: &Job<'_>) -> Vec<(String, String)> {
        let payload_type = self.payload_type();
        let artifact = job.version().unwrap_or_default();
        let header_info = json!({
            "payloads": [{"type": payload_type}],
            "artifact_provides": {"artifact_name": artifact},
            "artifact_depends": {"device_type": [self.device_type]},
        });
        let fixed = [
            ("version", "3".to_owned()),
            ("current_artifact_name", job.current_version().unwrap_or_default()),
            ("current_artifact_group", String::new()),
            ("current_device_type", self.device_type.clone()),
            ("header/artifact_name", artifact.to_owned()),
            ("header/artifact_group", String::new()),
            ("header/payload_type", payload_type.clone()),
            ("header/header-info", header_info.to_string()),
            ("header/type-info", json!({"type": payload_type}).to_string()),
            ("header/meta-data", self.meta_data.to_string()),
        ];
        let fixed = fixed.into_iter().map(|(path, text)| (path.to_owned(), text));
        fixed.chain(self.files.iter().map(|(name, text)| (format!("files/{name}"), text.clone()))).collect()
    }
}

#[async_trait]
impl Installer for MenderModuleInstaller {
    fn check(&self) -> Result<(), FirmwareOptionsError> {
        if !self.module.is_absolute() || self.module.to_str().is_none() {
            return Err(FirmwareOptionsError::Program("update module"));
        }
        let is_plain = |name: &&String| {
            !name.is_empty()
                && !name.contains('/')
                && !name.contains('\0')
                && !matches!(name.as_str(), "." | "..")
        };
        let mut names = std::iter::once(&self.payload_name).chain(self.files.keys());
        match names.find(|name| !is_plain(name)) {
            Some(name) => Err(FirmwareOptionsError::FileName(name.clone())),
            None => Ok(()),
        }
    }

    /// The protocol rolls back what a spontaneous restart interrupted.
    fn is_repeatable(&self) -> bool {
        false
    }

    async fn install(&self, job: &Job<'_>) -> Result<Activation, InstallError> {
        self.make_tree(job).await?;
        self.call(job, "Download").await?;
        self.record(job, Progress { install_began: true, ..Progress::default() }).await?;
        self.call(job, "ArtifactInstall").await?;
        let reboot = Reboot::answered(&self.query(job, "NeedsArtifactReboot").await?)?;
        self.record(job, Progress { install_began: true, reboot, ..Progress::default() }).await?;
        match reboot {
            Reboot::No => Ok(Activation::Immediate),
            Reboot::Automatic => Ok(Activation::AfterRestart),
            Reboot::Yes => {
                self.call(job, "ArtifactReboot").await?;
                self.call(job, "ArtifactVerifyReboot").await?;
                Ok(Activation::Immediate)
            }
        }
    }

    async fn verify(&self, job: &Job<'_>) -> Result<(), InstallError> {
        if self.progress(job).await.reboot == Reboot::Automatic {
            self.call(job, "ArtifactVerifyReboot").await?;
        }
        Ok(())
    }

    async fn commit(&self, job: &Job<'_>) -> Result<(), InstallError> {
        self.call(job, "ArtifactCommit").await.map(drop)
    }

    async fn rollback(&self, job: &Job<'_>) -> Result<Option<Activation>, InstallError> {
        let progress = self.progress(job).await;
        if !progress.install_began {
            return Ok(Some(Activation::Immediate));
        }
        if matches!(self.query(job, "SupportsRollback").await?.as_str(), "" | "No") {
            return Ok(None);
        }
        self.call(job, "ArtifactRollback").await?;
        self.record(job, Progress { rolled_back: true, ..progress }).await?;
        match progress.reboot {
            Reboot::No => Ok(Some(Activation::Immediate)),
            Reboot::Automatic => Ok(Some(Activation::AfterRestart)),
            Reboot::Yes => {
                self.call(job, "ArtifactRollbackReboot").await?;
                self.call(job, "ArtifactVerifyRollbackReboot").await?;
                Ok(Some(Activation::Immediate))
            }
        }
    }

    async fn conclude(&self, job: &Job<'_>, end: Conclusion) -> Result<(), InstallError> {
        let tmp = job.folder().join(TREE).join("tmp");
        if !job.blocking(move |_| tmp.is_dir()).await {
            // It was never called: there was nothing yet to call it with.
            return Ok(());
        }
        let progress = self.progress(job).await;
        let mut result = Ok(());
        if end == Conclusion::Failed && progress.install_began {
            if progress.rolled_back && progress.reboot == Reboot::Automatic {
                result = self.call(job, "ArtifactVerifyRollbackReboot").await.map(drop);
            }
            result = result.and(self.call(job, "ArtifactFailure").await.map(drop));
        }
        // Whatever became of the others, this is the last state.
        result.and(self.call(job, "Cleanup").await.map(drop))
    }
}

/// What the protocol makes later states depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    install_began: bool,
    reboot: Reboot,
    rolled_back: bool,
}

/// The answer to `NeedsArtifactReboot`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Reboot {
    #[default]
    No,
    Automatic,
    Yes,
}

impl Reboot {
    fn answered(answer: &str) -> Result<Self, InstallError> {
        match answer {
            "" | "No" => Ok(Self::No),
            "Automatic" => Ok(Self::Automatic),
            "Yes" => Ok(Self::Yes),
            _ => Err(InstallError::Failed(
                "the update module's answer to NeedsArtifactReboot is unknown".into(),
            )),
        }
    }
}

fn make_tree(tree: &Path, payload: &(PathBuf, String), texts: &[(String, String)]) -> io::Result<()> {
    for folder in ["", "header", "files", "tmp"] {
        DirBuilder::new().recursive(true).mode(0o700).create(tree.join(folder))?;
    }
    for (path, text) in texts {
        fs::write(tree.join(path), text)?;
    }
    let (image, name) = payload;
    let file = tree.join("files").join(name);
    // A copy, where the file system has no links to one file.
    if fs::hard_link(image, &file).is_err() {
        fs::copy(image, &file)?;
    }
    Ok(())
}

/// In one step: after a power cut the old content is there or the whole new one.
fn write_progress(folder: &Path, progress: Progress) -> io::Result<()> {
    let temporary = folder.join("progress.tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(&progress)?)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(PROGRESS))?;
    File::open(folder)?.sync_all()
}

/// The folder that the module is given, in the installer's own.
const TREE: &str = "module";

/// Where [`Progress`] is kept.
const PROGRESS: &str = "progress.json";

#[cfg(test)]
mod tests;
