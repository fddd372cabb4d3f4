use std::time::Duration;

use iotdm_core::Envelope;
use serde_json::{Value, json};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A tracker with a device, and words for what happens to them.
struct Scene {
    tracker: Tracker,
    now: Instant,
    device: DeviceName,
}

impl Scene {
    fn new() -> Self {
        let device = DeviceName::new("pump", "p-1").unwrap();
        Self { tracker: Tracker::default(), now: Instant::now(), device }
    }

    fn managed() -> Self {
        let mut scene = Self::new();
        scene.manage();
        scene
    }

    fn manage(&mut self) {
        assert!(self.tracker.handle_manage(self.now, &self.device, ManageBody::default()));
    }

    fn key(&self, req_id: &str) -> Key {
        (self.device.clone(), ReqId::from_text(req_id))
    }

    fn initiation(&self, req_id: &str, route: Route) -> Initiation {
        Initiation {
            key: self.key(req_id),
            route,
            fields: vec!["mgmt.firmware".into()],
            timeout: Some(MINUTE),
            overriding: false,
            even_unmanaged: false,
        }
    }

    fn initiate(&mut self, req_id: &str, route: Route) {
        let initiation = self.initiation(req_id, route);
        self.tracker.initiate(self.now, initiation).unwrap();
    }

    fn answer(&mut self, req_id: &str, rc: u16) -> bool {
        self.answer_with(&json!({"rc": rc, "reqId": req_id}))
    }

    fn answer_with(&mut self, payload: &Value) -> bool {
        let payload = Bytes::from(payload.to_string());
        let answer = Incoming::from_envelope(&Envelope::parse(&payload).unwrap()).unwrap();
        self.tracker.handle_response(self.now, &self.device, &answer, &payload)
    }

    fn notify(&mut self, field: &str, value: Value) -> bool {
        let fields = [AttributeValue { field: field.into(), value }];
        self.tracker.handle_notify(self.now, &self.device, &fields)
    }

    fn firmware(&mut self, state: u8, status: u8) {
        self.notify("mgmt.firmware", json!({"state": state, "updateStatus": status}));
    }

    fn stage(&self, req_id: &str) -> Stage {
        self.tracker.request(&self.key(req_id)).unwrap().stage
    }

    #[track_caller]
    fn check(&self, req_id: &str, outcome: Outcome) {
        assert_eq!(self.stage(req_id), Stage::Ended(outcome));
    }
}

const fn refused(rc: u16) -> Outcome {
    Outcome::Failed(Failure::Answered(Code::from_u16(rc)))
}

#[test]
fn a_restart_is_complete_with_the_manage_after_its_202() {
    for route in [Route::Reboot, Route::FactoryReset] {
        let mut scene = Scene::managed();
        scene.initiate("r", route);
        scene.manage();
        assert_eq!(scene.stage("r"), Stage::Initiated, "a manage before the 202 is not the restart's");
        scene.answer("r", 202);
        assert_eq!(scene.stage("r"), Stage::Answered);
        scene.manage();
        scene.check("r", Outcome::Complete);
    }
}

#[test]
fn a_download_is_complete_with_state_2_and_the_answer_to_cancel() {
    let mut scene = Scene::managed();
    scene.initiate("d", Route::FirmwareDownload);
    scene.firmware(2, 0);
    assert_eq!(scene.stage("d"), Stage::Initiated, "a notify before the 202 speaks of an earlier request");
    scene.answer("d", 202);
    scene.firmware(1, 0);
    scene.initiate("early", Route::Cancel);
    scene.answer("early", 200);
    assert_eq!(scene.stage("d"), Stage::Answered);
    scene.firmware(2, 0);
    assert_eq!(scene.stage("d"), Stage::Reached);
    scene.initiate("c", Route::Cancel);
    scene.answer("c", 200);
    scene.check("d", Outcome::Complete);
}

#[test]
fn an_update_is_complete_with_state_0_and_status_0_and_the_answer_to_cancel() {
    let mut scene = Scene::managed();
    scene.initiate("u", Route::FirmwareUpdate);
    scene.answer("u", 202);
    scene.firmware(2, 1);
    assert_eq!(scene.stage("u"), Stage::Answered);
    scene.firmware(0, 0);
    scene.initiate("c", Route::Cancel);
    scene.answer("c", 200);
    scene.check("u", Outcome::Complete);
}

#[test]
fn a_failed_firmware_step_ends_with_its_status() {
    for (route, status) in [(Route::FirmwareDownload, 4), (Route::FirmwareUpdate, 5)] {
        let mut scene = Scene::managed();
        scene.initiate("f", route);
        scene.answer("f", 202);
        scene.firmware(0, status);
        let status = UpdateStatus::try_from(status).unwrap();
        scene.check("f", Outcome::Failed(Failure::Firmware(status)));
    }
}

#[test]
fn members_notified_one_by_one_add_up_to_the_attribute() {
    let mut scene = Scene::managed();
    scene.initiate("d", Route::FirmwareDownload);
    scene.answer("d", 202);
    scene.notify("mgmt.firmware.state", json!(2));
    assert_eq!(scene.stage("d"), Stage::Reached);
}

#[test]
fn each_action_has_one_code_that_completes_it() {
    let cases = [
        (Route::custom("lamp", "on"), 200, 202),
        (Route::Observe, 200, 204),
        (Route::Cancel, 200, 404),
        (Route::DeviceUpdate, 204, 200),
        (Route::Unknown("nonsense".into()), 200, 404),
    ];
    for (route, good, bad) in cases {
        let mut scene = Scene::managed();
        scene.initiate("good", route.clone());
        scene.answer("good", good);
        scene.check("good", Outcome::Complete);
        scene.initiate("bad", route);
        scene.answer("bad", bad);
        scene.check("bad", refused(bad));
    }
}

#[test]
fn a_second_answer_is_counted_and_compared_and_changes_nothing() {
    let mut scene = Scene::managed();
    scene.initiate("c", Route::custom("lamp", "on"));
    scene.answer("c", 409);
    scene.answer("c", 409);
    scene.answer("c", 200);
    scene.check("c", refused(409));
    let request = scene.tracker.request(&scene.key("c")).unwrap();
    assert_eq!((request.answers, request.differing_answers), (3, 1));
}

#[test]
fn an_answer_nobody_waits_for_is_told_apart() {
    let mut scene = Scene::managed();
    assert!(!scene.answer("never", 200));
}

#[test]
fn what_is_not_complete_in_its_time_has_timed_out_and_stays_so() {
    let mut scene = Scene::managed();
    scene.initiate("r", Route::Reboot);
    assert_eq!(scene.tracker.poll_timeout(), Some(scene.now + MINUTE));
    scene.tracker.handle_timeout(scene.now + MINUTE - Duration::from_millis(1));
    assert_eq!(scene.stage("r"), Stage::Initiated);
    scene.tracker.handle_timeout(scene.now + MINUTE);
    scene.check("r", Outcome::TimedOut);
    scene.answer("r", 202);
    scene.manage();
    scene.check("r", Outcome::TimedOut);
    assert_eq!(scene.tracker.poll_timeout(), None);
}

#[test]
fn a_pending_firmware_request_keeps_others_out_unless_overridden() {
    let mut scene = Scene::managed();
    scene.initiate("first", Route::FirmwareDownload);
    let mut second = scene.initiation("second", Route::FirmwareDownload);
    let refusal = scene.tracker.initiate(scene.now, second.clone()).unwrap_err();
    assert!(
        matches!(refusal, InitiateError::FirmwarePending { pending, .. } if pending == ReqId::from_text("first"))
    );
    second.overriding = true;
    scene.tracker.initiate(scene.now, second).unwrap();
    scene.check("first", Outcome::GivenUp);
    assert_eq!(scene.stage("second"), Stage::Initiated);
}

#[test]
fn a_device_that_is_not_managed_is_asked_nothing() {
    let mut scene = Scene::new();
    let mut initiation = scene.initiation("r", Route::Reboot);
    let refusal = scene.tracker.initiate(scene.now, initiation.clone());
    assert_eq!(refusal, Err(InitiateError::NotManaged(scene.device.clone())));
    initiation.even_unmanaged = true;
    assert_eq!(scene.tracker.initiate(scene.now, initiation), Ok(()));
    scene.manage();
    scene.tracker.handle_unmanage(scene.now, &scene.device.clone());
    let again = scene.initiation("r2", Route::Reboot);
    assert!(scene.tracker.initiate(scene.now, again).is_err());
}

#[test]
fn a_lifetime_that_passes_makes_the_device_dormant() {
    let mut scene = Scene::new();
    let body = ManageBody::read(Some(&json!({"lifetime": 3600}))).unwrap();
    scene.tracker.handle_manage(scene.now, &scene.device, body);
    let end = scene.now + Duration::from_secs(3_600);
    assert_eq!(scene.tracker.poll_timeout(), Some(end));
    scene.tracker.handle_timeout(end);
    assert!(!scene.tracker.device(&scene.device).unwrap().managed);
}

#[test]
fn a_manage_is_read_as_tolerantly_as_the_sources_differ() {
    let body = ManageBody::read(Some(&json!({
        "supports": {"deviceActions": 1, "firmwareActions": 0, "lamp": true, "fan": false}
    })))
    .unwrap();
    assert!(body.device_actions && !body.firmware_actions);
    assert_eq!(body.bundles, BTreeSet::from(["lamp".to_owned()]));
    assert_eq!(ManageBody::read(None), Some(ManageBody::default()));
    for wrong in
        [json!([]), json!({"lifetime": 60}), json!({"supports": {"a": "yes"}}), json!({"deviceInfo": 1})]
    {
        assert_eq!(ManageBody::read(Some(&wrong)), None, "{wrong}");
    }
}

#[test]
fn a_notify_is_observed_from_the_answer_to_observe_until_that_to_cancel() {
    let mut scene = Scene::managed();
    scene.initiate("o", Route::Observe);
    assert!(!scene.notify("mgmt.firmware", json!({})));
    scene.answer("o", 200);
    assert!(scene.notify("mgmt.firmware", json!({})));
    assert!(scene.notify("mgmt.firmware.state", json!(1)), "a member of an observed attribute");
    assert!(!scene.notify("mgmt.firmwareX", json!(1)));
    scene.initiate("c", Route::Cancel);
    scene.answer("c", 200);
    assert!(!scene.notify("mgmt.firmware", json!({})));
}

#[test]
fn ended_requests_are_forgotten_oldest_first_and_open_ones_never() {
    let mut scene = Scene::managed();
    scene.initiate("open", Route::Reboot);
    for number in 0..=ENDED_LIMIT {
        scene.initiate(&number.to_string(), Route::Observe);
        scene.answer(&number.to_string(), 200);
    }
    assert_eq!(scene.tracker.poll_forgotten(), Some(scene.key("0")));
    assert_eq!(scene.tracker.poll_forgotten(), None);
    assert!(scene.tracker.request(&scene.key("0")).is_none());
    assert_eq!(scene.stage("open"), Stage::Initiated);
    assert_eq!(scene.stage("1"), Stage::Ended(Outcome::Complete));
}

#[test]
fn open_requests_are_bounded() {
    let mut scene = Scene::managed();
    for number in 0..OPEN_LIMIT {
        scene.initiate(&number.to_string(), Route::Observe);
    }
    let one_more = scene.initiation("more", Route::Observe);
    assert_eq!(scene.tracker.initiate(scene.now, one_more), Err(InitiateError::TooManyOpen));
}

#[test]
fn every_change_is_reported_once() {
    let mut scene = Scene::managed();
    scene.initiate("c", Route::custom("lamp", "on"));
    assert_eq!(scene.tracker.poll_change(), None);
    scene.answer("c", 200);
    assert_eq!(scene.tracker.poll_change(), Some(scene.key("c")));
    assert_eq!(scene.tracker.poll_change(), None);
}
