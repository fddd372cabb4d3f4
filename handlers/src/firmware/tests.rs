//! A device with a staging folder, and a server that breaks as it is told.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use iotdm_core::{
    Code, Context, ContextParts, Decision, Failure, Performed, Recovery, Route, Table, UpdateStatus,
    attribute,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    CommandInstaller, FetchError, FetchRequest, Fetcher, Firmware, FirmwareOptions, InstallOptions,
    Installer, Piece,
};
use crate::fake::{FakeServices, FakeSystem, ask, parts, raw};

pub(super) const URI: &str = "http://images.example/luminaire-2.0";

/// A device and its surroundings; what it keeps survives [`crash`](Self::crash).
pub(super) struct Rig {
    pub(super) system: FakeSystem,
    pub(super) services: FakeServices,
    pub(super) server: Arc<FakeServer>,
    pub(super) options: FirmwareOptions,
    pub(super) folder: TempDir,
    command: CommandInstaller,
}

impl Rig {
    /// A device that the platform told about the server's image.
    pub(super) fn new() -> Self {
        // In memory where there is such a folder: thousands of syncs are no part of what is tested.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let install = InstallOptions::new(command());
        let options =
            FirmwareOptions { install: Some(install), ..FirmwareOptions::new(folder.path().join("staging")) };
        let server = Arc::new(FakeServer::default());
        let rig = Self {
            system: FakeSystem::new(),
            services: FakeServices::new(),
            server,
            options,
            folder,
            command: command(),
        };
        rig.describe(json!({"uri": URI, "verifier": sha256(&image()), "version": "2.0", "state": 0, "updateStatus": 0}));
        rig.services.preset(attribute::DEVICE_INFO, json!({"model": "L1", "fwVersion": "1.0", "own": true}));
        rig
    }

    /// Changes the installer, which is a command.
    pub(super) fn command(&mut self, change: impl FnOnce(&mut CommandInstaller)) {
        change(&mut self.command);
        self.install().installer = Arc::new(self.command.clone());
    }

    /// Another installer.
    pub(super) fn installer(&mut self, installer: impl Installer) {
        self.install().installer = Arc::new(installer);
    }

    pub(super) fn install(&mut self) -> &mut InstallOptions {
        self.options.install.as_mut().unwrap()
    }

    /// What `mgmt.firmware` is.
    pub(super) fn describe(&self, firmware: Value) {
        self.services.preset(attribute::FIRMWARE, firmware);
    }

    pub(super) fn firmware(&self) -> Value {
        self.cx().attribute(attribute::FIRMWARE).unwrap()
    }

    /// `state` and `updateStatus`.
    pub(super) fn state(&self) -> (u64, u64) {
        let firmware = self.firmware();
        (firmware["state"].as_u64().unwrap(), firmware["updateStatus"].as_u64().unwrap())
    }

    /// `state` and `updateStatus` after each change, as an observer sees them.
    pub(super) fn notified(&self) -> Vec<(u64, u64)> {
        let value = |change: Vec<(String, Value)>| {
            let (_, value) = change.into_iter().find(|(name, _)| name == attribute::FIRMWARE).unwrap();
            (value["state"].as_u64().unwrap(), value["updateStatus"].as_u64().unwrap())
        };
        self.services.changes().into_iter().map(value).collect()
    }

    /// Counted elsewhere already.
    pub(super) fn forget_changes(&self, count: usize) {
        assert_eq!(self.services.take_changes().len(), count);
    }

    /// The program ends and starts again: only the model and the staging folder remain.
    pub(super) fn crash(&mut self) {
        let services = FakeServices::new();
        for name in [attribute::FIRMWARE, attribute::DEVICE_INFO] {
            if let Some(value) = self.cx().attribute(name) {
                services.preset(name, value);
            }
        }
        self.services = services;
    }

    pub(super) fn cx(&self) -> Context {
        Context::new(self.parts())
    }

    pub(super) fn parts(&self) -> ContextParts {
        parts(&self.system, &self.services)
    }

    /// The handlers of a program that has just started.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.with(Firmware::new(self.options.clone(), self.server.clone()).unwrap()).unwrap();
        table
    }

    /// The answer's code and message.
    pub(super) async fn ask(&self, route: Route) -> (Code, String) {
        match ask(&self.table(), &route, &self.cx(), json!({})).await {
            Decision::Replied(reply) => (reply.rc, String::new()),
            Decision::Refused(refusal) | Decision::Undecodable(refusal) => {
                (refusal.rc(), refusal.message().to_owned())
            }
        }
    }

    pub(super) async fn perform(&self, route: Route) -> Result<Performed, Failure> {
        self.perform_as(route, self.cx()).await
    }

    pub(super) async fn perform_as(&self, route: Route, cx: Context) -> Result<Performed, Failure> {
        self.table().handler(&route).unwrap().after_ack(&cx, Some(&raw(json!({})))).await
    }

    /// The same, for a task of its own that may panic.
    pub(super) fn detached(&self, route: Route) -> impl Future<Output = Result<Performed, Failure>> + use<> {
        let (table, cx) = (self.table(), self.cx());
        async move { table.handler(&route).unwrap().after_ack(&cx, Some(&raw(json!({})))).await }
    }

    pub(super) async fn recover(&self, route: Route) -> Recovery {
        self.table().handler(&route).unwrap().recover(&self.cx(), Some(&raw(json!({})))).await
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.options.staging.join(name)
    }

    pub(super) fn stored_image(&self) -> Option<Vec<u8>> {
        std::fs::read(self.path("image")).ok()
    }

    /// Names of the files in the staging folder.
    pub(super) fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.options.staging) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A server with one image, in pieces of ten bytes. Each attempt takes the next trouble from the list, if there is one.
pub(super) struct FakeServer {
    state: Mutex<ServerState>,
}

struct ServerState {
    image: Vec<u8>,
    tag: String,
    announces_length: bool,
    /// What it says instead of the image's length.
    announced: Option<u64>,
    names_image: bool,
    piece_bytes: usize,
    troubles: VecDeque<Trouble>,
    always: Option<Trouble>,
    /// Where each attempt wanted to go on.
    requests: Vec<u64>,
}

#[derive(Clone)]
pub(super) enum Trouble {
    /// The connection is cut after so many pieces.
    CutAfter(usize),
    Error(FetchError),
    /// The attempt waits until it is stopped.
    Silence,
}

impl Default for FakeServer {
    fn default() -> Self {
        let state = ServerState {
            image: image(),
            tag: "\"one\"".into(),
            announces_length: true,
            announced: None,
            names_image: true,
            piece_bytes: 10,
            troubles: VecDeque::new(),
            always: None,
            requests: Vec::new(),
        };
        Self { state: Mutex::new(state) }
    }
}

impl FakeServer {
    pub(super) fn trouble(&self, trouble: Trouble) {
        self.state.lock().unwrap().troubles.push_back(trouble);
    }

    pub(super) fn always(&self, trouble: Trouble) {
        self.state.lock().unwrap().always = Some(trouble);
    }

    pub(super) fn replace(&self, image: Vec<u8>, tag: &str) {
        let mut state = self.state.lock().unwrap();
        state.image = image;
        state.tag = tag.into();
    }

    pub(super) fn hide_length(&self) {
        self.state.lock().unwrap().announces_length = false;
    }

    /// Says that the image has so many bytes.
    pub(super) fn announce(&self, bytes: u64) {
        self.state.lock().unwrap().announced = Some(bytes);
    }

    /// Sends pieces of so many bytes.
    pub(super) fn pieces_of(&self, bytes: usize) {
        self.state.lock().unwrap().piece_bytes = bytes;
    }

    /// Gives the image no name by which it could be resumed.
    pub(super) fn hide_tag(&self) {
        self.state.lock().unwrap().names_image = false;
    }

    pub(super) fn requests(&self) -> Vec<u64> {
        self.state.lock().unwrap().requests.clone()
    }
}

impl Fetcher for FakeServer {
    fn fetch(
        &self,
        request: &FetchRequest<'_>,
        sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let (image, tag, total, named, piece_bytes, trouble) = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(request.resume.map_or(0, |resume| resume.from));
            let trouble = state.troubles.pop_front().or(state.always.clone());
            let length = state.announced.unwrap_or(state.image.len() as u64);
            let total = state.announces_length.then_some(length);
            (state.image.clone(), state.tag.clone(), total, state.names_image, state.piece_bytes, trouble)
        };
        let cut = match trouble {
            Some(Trouble::Error(error)) => return Err(error),
            Some(Trouble::CutAfter(pieces)) => Some(pieces),
            Some(Trouble::Silence) => {
                while !request.cancellation.is_cancelled() {
                    std::thread::yield_now();
                }
                return Err(FetchError::Stopped);
            }
            None => None,
        };
        let from = request.resume.filter(|resume| resume.validator == tag).map_or(0, |resume| resume.from);
        let mut give = |piece: Piece<'_>| match sink(piece) {
            ControlFlow::Continue(()) if !request.cancellation.is_cancelled() => Ok(()),
            _ => Err(FetchError::Stopped),
        };
        give(Piece::Start { from, total, validator: named.then_some(tag) })?;
        for (index, bytes) in image[from as usize..].chunks(piece_bytes).enumerate() {
            if cut == Some(index) {
                return Err(FetchError::Transport("cut".into()));
            }
            give(Piece::Bytes(bytes))?;
        }
        Ok(())
    }
}

fn command() -> CommandInstaller {
    CommandInstaller::new(["/bin/install", "--to", "{image}", "{version}", "x{image}"])
}

/// A hundred bytes, all different.
pub(super) fn image() -> Vec<u8> {
    (0..100).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

pub(super) fn status(status: UpdateStatus) -> u64 {
    u64::from(u8::from(status))
}

#[test]
fn without_an_install_command_only_downloads_are_offered() {
    let mut rig = Rig::new();
    rig.options.install = None;
    let table = rig.table();
    assert!(table.handler(&Route::FirmwareDownload).is_some());
    assert!(table.handler(&Route::FirmwareUpdate).is_none());
    assert!(table.supports().firmware_actions);
}
