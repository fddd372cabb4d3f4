//! Whole updates over many lives of the program: it dies at each step in turn, with or without the machine.

use iotdm_core::{Failure, Performed, Recovery, Route};

use crate::firmware::tests::Rig;

const UPDATE: Route = Route::FirmwareUpdate;

/// How an update ended.
#[derive(Debug)]
pub(in crate::firmware::install) struct Ended {
    /// The reason, where it failed.
    pub(in crate::firmware::install) result: Result<(), String>,
    /// `state` and `updateStatus` as an observer saw them change.
    pub(in crate::firmware::install) notified: Vec<(u64, u64)>,
    /// Whether the program lived so long that it did not die where it was to.
    pub(in crate::firmware::install) survived: bool,
}

/// Lives through an update. The program dies before the n-th thing that it does; where `restarts`, the machine with it.
pub(in crate::firmware::install) async fn live(
    rig: &mut Rig,
    dies_before: Option<usize>,
    restarts: bool,
    reboot: &dyn Fn(&Rig),
) -> Ended {
    let mut notified = Vec::new();
    let fuse = rig.system.fuse();
    fuse.set(dies_before);
    let mut died = false;
    let mut judges = false;
    for _ in 0..MOST_LIVES {
        rig.services.dies_by(fuse.clone());
        let outcome = tokio::select! {
            biased;
            () = fuse.died() => Outcome::Died,
            outcome = rig.perform(UPDATE), if !judges => Outcome::Performed(outcome),
            recovery = rig.recover(UPDATE), if judges => Outcome::Judged(recovery),
        };
        notified.extend(rig.notified());
        rig.forget_changes(rig.notified().len());
        let survived = dies_before.is_some() && !died;
        let ended = |result| Ended { result, notified: notified.clone(), survived };
        match outcome {
            Outcome::Performed(Ok(Performed::Complete)) | Outcome::Judged(Recovery::Done) => {
                return ended(Ok(()));
            }
            Outcome::Performed(Err(failure)) => return ended(Err(failure.to_string())),
            Outcome::Judged(Recovery::Abandon) => return ended(Err("abandoned".into())),
            Outcome::Judged(Recovery::RunAgain | Recovery::Resume) => {
                judges = false;
                continue;
            }
            Outcome::Performed(Ok(Performed::Restarting)) => reboot(rig),
            Outcome::Died => {
                fuse.set(None);
                died = true;
                // What a dead program had begun on another thread ends before the next one begins.
                tokio::task::yield_now().await;
                if restarts {
                    reboot(rig);
                }
            }
        }
        rig.crash();
        judges = true;
    }
    panic!("an update that has no end");
}

enum Outcome {
    Performed(Result<Performed, Failure>),
    Judged(Recovery),
    Died,
}

/// More than any update may take.
const MOST_LIVES: usize = 20;
