//! Bad input, and what it gets.

use iotdm_core::{Action, MAX_PAYLOAD_BYTES};

use crate::product::{Echo, Rig};

async fn check(rig: &Rig, topic: &str, payload: &str, req_id: &str, rc: u16) {
    rig.platform.send_raw(&format!("iotdm-1/{topic}"), payload.to_owned());
    let answer = rig.platform.response(req_id).await;
    assert_eq!(answer["rc"], rc, "{topic} {payload:.100}: {answer}");
    assert!(rc < 400 || answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn every_readable_req_id_gets_its_answer() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let echo = &Echo::ROUTE.to_string();
    check(&rig, "nonsense", r#"{"reqId":"1"}"#, "1", 404).await;
    check(&rig, "", r#"{"reqId":"2"}"#, "2", 404).await;
    check(&rig, "mgmt//initiate/device/reboot", r#"{"reqId":"3"}"#, "3", 404).await;
    check(&rig, "mgmt/initiate/device/factory_reset", r#"{"reqId":"4"}"#, "4", 501).await;
    check(&rig, "mgmt/custom/no/such", r#"{"reqId":"5"}"#, "5", 501).await;
    check(&rig, echo, r#"{"reqId":"6","d":"x"}"#, "6", 400).await;
    check(&rig, echo, r#"{"reqId":"7","d":{"fields":"x"}}"#, "7", 400).await;
    check(&rig, echo, r#"{"reqId":"8","d":{"fields":[null]}}"#, "8", 400).await;
    check(&rig, echo, r#"{"reqId":"9","d":{"fields":[{"field":"n","value":1e999999}]}}"#, "9", 400).await;
    check(&rig, echo, r#"{"reqId":"10","d":null,"unknown":1}"#, "10", 200).await;
    check(&rig, "observe", r#"{"reqId":"11","d":{"fields":"x"}}"#, "11", 400).await;
    check(&rig, "observe", r#"{"reqId":"12","d":{"fields":["nonsense"]}}"#, "12", 404).await;
    check(&rig, "device/update", r#"{"reqId":"13"}"#, "13", 400).await;
    let deep = format!(r#"{{"reqId":"14","d":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    check(&rig, echo, &deep, "14", 400).await;
    let full = |id: &str| {
        let head = format!(r#"{{"reqId":"{id}","x":""#);
        format!("{head}{}\"}}", "x".repeat(MAX_PAYLOAD_BYTES - head.len() - 2))
    };
    check(&rig, echo, &full("15"), "15", 200).await;
    assert_eq!(rig.ask::<Echo>("last").await["rc"], 200);
    rig.platform.drained().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_no_readable_req_id_is_acknowledged_and_never_answered() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let before = rig.platform.everything().len();
    let topic = format!("iotdm-1/{}", Echo::ROUTE);
    let oversize = vec![b'x'; MAX_PAYLOAD_BYTES + 1];
    for payload in [
        &b""[..],
        b"hello",
        b"[]",
        b"null",
        b"{\"reqId\":\"r\",\"d\":{",
        b"{\"reqId\":null}",
        b"{}",
        b"{\"reqId\":\"r\",\"reqId\":\"s\"}",
        b"{\"reqId\":\"r\",\"x\":\"\xff\xfe\"}",
        b"\0\0\0\0",
        &oversize,
    ] {
        rig.platform.send_raw(&topic, payload.to_vec());
    }
    rig.platform.send_raw("iotdm-1/response", r#"{"rc":200,"reqId":"never-sent"}"#);
    rig.platform.send_raw("another/topic", r#"{"reqId":"r"}"#);
    rig.platform.drained().await;
    assert_eq!(rig.platform.everything().len(), before);
    assert!(rig.product.runs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_req_id_that_is_no_text_is_copied_back() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let topic = format!("iotdm-1/{}", Echo::ROUTE);
    rig.platform.send_raw(&topic, r#"{"reqId":12345}"#);
    rig.platform.send_raw(&topic, r#"{"reqId":{"a":1}}"#);
    rig.platform.until(|platform| platform.published(iotdm_core::UpRoute::Response).len() == 2).await;
    let mut answers = rig.platform.published(iotdm_core::UpRoute::Response);
    answers.sort_by_key(|answer| answer["rc"].as_u64());
    assert_eq!((&answers[0]["rc"], &answers[0]["reqId"]), (&200.into(), &12345.into()));
    assert_eq!((&answers[1]["rc"], &answers[1]["reqId"]), (&400.into(), &serde_json::json!({"a": 1})));
}

#[tokio::test(start_paused = true)]
async fn one_req_id_is_one_request() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    rig.ask::<Echo>("r").await;
    let topic = format!("iotdm-1/{}", Echo::ROUTE);
    rig.platform.send_raw(&topic, r#"{"reqId":"r","d":{"fields":[{"field":"a","value":1}]}}"#);
    assert_eq!(rig.platform.response("r").await["rc"], 400);
    assert_eq!(rig.product.runs(), ["echo r"]);
}

#[tokio::test(start_paused = true)]
async fn a_retained_request_never_runs_and_one_at_qos_0_does() {
    let rig = Rig::new();
    let _running = rig.managed().await;
    let topic = format!("iotdm-1/{}", Echo::ROUTE);
    rig.platform.send_oddly(&topic, r#"{"reqId":"retained"}"#, true, true);
    assert_eq!(rig.platform.response("retained").await["rc"], 400);
    rig.platform.send_oddly(&topic, r#"{"reqId":"qos0"}"#, false, false);
    assert_eq!(rig.platform.response("qos0").await["rc"], 200);
    assert_eq!(rig.product.runs(), ["echo qos0"]);
}
