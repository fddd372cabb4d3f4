//! `[actions.firmware]`: where images come from, what proves them, what installs them.

use std::num::NonZeroU64;
use std::time::Duration;

use iotdm_core::{Action, Download, Update};

use super::super::{FirmwareAction, Verify, file};
use super::Resolver;

impl Resolver<'_> {
    pub(super) fn firmware(
        &mut self,
        mut section: file::Firmware,
        can_restart: bool,
    ) -> Option<FirmwareAction> {
        let verify = self.verify(&section);
        let http = self.http(section.http());
        let install = self.install(&mut section, can_restart);
        Some(FirmwareAction {
            staging_dir: self.path(&section.staging_dir),
            installer: install.installer?,
            restart_after_install: install.restart,
            health_check: install.health_check,
            managed_within: install.managed_within,
            verify,
            public_keys: section.public_keys.into_iter().map(|key| key.0).collect(),
            max_image_bytes: section.max_image_bytes.map_or(DEFAULT_IMAGE_BYTES, |bytes| bytes.get()),
            allow_file_uri: section.allow_file_uri,
            http,
            bytes_per_second: section.bytes_per_second.and_then(|rate| NonZeroU64::new(rate.get())),
            stall_limit: section.stall_limit.map_or(DEFAULT_STALL_LIMIT, |limit| limit.get()),
            fruitless_attempts: section.fruitless_attempts.map_or(DEFAULT_ATTEMPTS, |attempts| {
                u32::try_from(attempts.get()).expect("the range of attempts ends far below")
            }),
            download_budget: section.download_budget.map_or(Download::PERFORM_BUDGET, |budget| budget.get()),
            install_budget: section.install_budget.map_or(Update::PERFORM_BUDGET, |budget| budget.get()),
            late: section.late.0,
        })
    }

    /// Whoever names keys wants signatures, unless the file says otherwise.
    fn verify(&mut self, section: &file::Firmware) -> Verify {
        match (section.verify, section.public_keys.is_empty()) {
            (Some(Verify::Signature), true) => {
                self.problem(
                    "actions.firmware.verify",
                    "\"signature\" needs a key to check it with; add public_keys = [\"RW...\"]",
                );
                Verify::Signature
            }
            (Some(verify), true) => verify,
            (Some(verify), false) => {
                if verify != Verify::Signature {
                    self.warnings.push(
                        "actions.firmware.verify: images without a signature are taken though there are public_keys"
                            .into(),
                    );
                }
                verify
            }
            (None, true) => Verify::Required,
            (None, false) => Verify::Signature,
        }
    }
}

/// 512 MiB: more than most images, less than most disks.
const DEFAULT_IMAGE_BYTES: u64 = 512 * 1024 * 1024;

/// A mobile link that changes its cell is silent for some ten seconds.
const DEFAULT_STALL_LIMIT: Duration = Duration::from_secs(60);

/// With the pauses between attempts this bridges an outage of a quarter of an hour.
const DEFAULT_ATTEMPTS: u32 = 20;
