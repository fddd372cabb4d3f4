use std::net::{Ipv4Addr, SocketAddr};

use iotdm_agent::{RunError, State};
use iotdm_core::MAX_PAYLOAD_BYTES;
use iotdm_platform::{DeviceName, Platform, PlatformOptions, Request, Space};
use iotdm_tests::application::{Application, Seen, bench_request};
use iotdm_tests::within;
use rumqttc::Publish;
use tokio::time::timeout;

use super::rig::{
    Outcome, Probe, Protocol, TEMPLATE, application, client_id, durable_application, forget, is, lamp,
    lamp_with, managed, managed_by, prefix,
};
use super::server::{Server, Who};

/// Rows of the table: what was asked, and what the broker did.
pub(crate) type Answers = Vec<(&'static str, String)>;

/// Every scenario, one after the other on one broker.
pub(crate) async fn play(server: &mut impl Server, protocol: Protocol) -> Answers {
    let mut answers = Answers::new();
    // Boxed: together they are larger than a test's stack in a debug build.
    answers.extend(Box::pin(absence(server, protocol)).await);
    answers.extend(Box::pin(cut(server)).await);
    answers.extend(Box::pin(largest(server, protocol)).await);
    answers.extend(Box::pin(takeover(server, protocol)).await);
    answers.extend(Box::pin(refusal(server, protocol)).await);
    answers.extend(Box::pin(other_trees(server)).await);
    answers.extend(Box::pin(gateways(server)).await);
    answers.extend(Box::pin(other_client_id(server)).await);
    answers.extend(Box::pin(dots(server)).await);
    answers.extend(Box::pin(platform_library(server, protocol)).await);
    answers.extend(Box::pin(restart_of_the_broker(server, protocol)).await);
    answers.extend(Box::pin(restart_in_an_absence(server, protocol)).await);
    answers
}

/// A durable session: what is asked while the device is away is answered when it is back, after an orderly end and after
/// one as of `kill -9`.
async fn absence(server: &impl Server, protocol: Protocol) -> Answers {
    let (mut device, mut application) = managed(server, protocol).await;
    let mut answered = Vec::new();
    for killed in [false, true] {
        if killed {
            device.kill().await;
        } else {
            device.stop().await;
        }
        let req_ids = ask(&application, if killed { "killed" } else { "stopped" });
        device.start();
        answered.push(count(server, &mut application, &req_ids).await);
    }
    device.stop().await;
    assert_eq!(answered[0], answered[1], "the two ends differ");
    vec![("requests of an absence", answered[0].clone())]
}

/// A plain client is cut off with messages unacknowledged, and comes back.
async fn cut(server: &impl Server) -> Answers {
    forget(server, 1).await;
    let application = application(server).await;
    let own = format!("{}iotdm-1/#", prefix(1));
    let (mut probe, _) = Probe::connect(server, Who::Lamp(1), &client_id(1), false).await;
    assert_eq!(probe.subscribe(&own).await, Outcome::Taken);
    let sent: Vec<String> = (0..REQUESTS).map(|number| number.to_string()).collect();
    sent.iter().for_each(|payload| application.publish("iotdm-1/observe", payload.clone()));
    let mut came = Vec::new();
    for _ in &sent {
        let message = probe.next().await;
        came.push(text(&message));
        probe.acknowledge(&message).await;
    }
    let order = if came == sent { "as sent".into() } else { came.join(" ") };

    // What is answered proves that the acknowledgements before it have arrived.
    assert_eq!(probe.publish(&format!("{}iotdevice-1/notify", prefix(1)), "{}").await, Outcome::Taken);

    let unacknowledged = ["a", "b", "c"];
    unacknowledged.iter().for_each(|payload| application.publish("iotdm-1/observe", *payload));
    let mut first = Vec::new();
    for _ in unacknowledged {
        first.push(probe.next().await);
    }
    // As a line that breaks: no DISCONNECT.
    drop(probe);
    let (mut probe, session) = Probe::connect(server, Who::Lamp(1), &client_id(1), false).await;
    application.publish("iotdm-1/observe", "z");
    let mut again: Vec<Publish> = Vec::new();
    while again.len() < unacknowledged.len() + 1 {
        let message = probe.next().await;
        // Where a broker repeats on the same connection, the marker may come twice.
        probe.acknowledge(&message).await;
        again.push(message);
    }
    let position = again
        .iter()
        .position(|message| text(message) == "z")
        .unwrap_or_else(|| panic!("{:?}", again.iter().map(text).collect::<Vec<_>>()));
    let marker = again.remove(position);
    assert!(!marker.dup, "the marker came for the first time");
    let repeated: Vec<String> = again.iter().map(text).collect();
    assert_eq!(repeated, unacknowledged, "what was not acknowledged comes again, in order");
    let dup = if again.iter().all(|message| message.dup) { "set" } else { "not set" };
    let same = again.iter().zip(&first).all(|(again, first)| again.pkid == first.pkid);
    let place = if position == 0 { "after what is new" } else { "before what is new" };
    probe.leave().await;
    vec![
        ("order", order),
        ("CONNACK after a cut", if session { "session present" } else { "no session" }.into()),
        ("what was not acknowledged before a cut", format!("again, {place}")),
        ("DUP of what comes again", dup.into()),
        ("its packet identifier", if same { "the same" } else { "another" }.into()),
    ]
}

async fn largest(server: &impl Server, protocol: Protocol) -> Answers {
    let (mut device, mut application) = managed(server, protocol).await;
    let room = MAX_PAYLOAD_BYTES - bench_request("largest", "").len();
    application.bench("echo", "largest", &"x".repeat(room));
    let answer = application.response("largest").await;
    assert_eq!((answer["rc"].as_u64(), answer["d"]["pad"].as_str().map(str::len)), (Some(200), Some(room)));
    assert_eq!(application.seen().manages, 1, "the connection held");
    device.stop().await;
    vec![("a request of 131072 bytes", "answered".into())]
}

/// A second client with the device's id and credentials takes the connection, is asked, acknowledges nothing, and goes.
async fn takeover(server: &impl Server, protocol: Protocol) -> Answers {
    let (mut device, mut application) = managed(server, protocol).await;
    let (thief, _) = Probe::connect(server, Who::Lamp(1), &client_id(1), false).await;
    is(&device, State::Disconnected).await;
    let req_ids = ask(&application, "stolen");
    // It comes back, and that ends the second client's connection.
    application.attend(|seen| seen.manages == 2).await;
    drop(thief);
    let answered = count(server, &mut application, &req_ids).await;
    device.stop().await;
    vec![("a second client with the id", format!("wins, until the agent is back; {answered}"))]
}

async fn refusal(server: &impl Server, protocol: Protocol) -> Answers {
    let mut device = lamp_with(server, protocol, 1, "not-the-password".into());
    device.start();
    let answer = match device.ended().await {
        Err(RunError::CredentialsRefused(_)) => "refused, and the agent ends".into(),
        other => format!("{other:?}"),
    };
    vec![("a wrong password", answer)]
}

/// Lamp 2 tries to read what is meant for lamp 1, and to speak for it.
async fn other_trees(server: &impl Server) -> Answers {
    forget(server, 2).await;
    let mut application = application(server).await;
    let (mut intruder, _) = Probe::connect(server, Who::Lamp(2), &client_id(2), false).await;
    let mut reads = Vec::new();
    for filter in [format!("{}iotdm-1/#", prefix(1)), "devices/+/+/iotdm-1/#".into(), "#".into()] {
        reads.push(match intruder.subscribe(&filter).await {
            Outcome::Refused => "refused with 0x80",
            Outcome::Closed => "the connection is closed",
            Outcome::Taken => {
                application.publish("iotdm-1/observe", "for lamp 1 alone");
                if intruder.hears().await { "granted, and delivered" } else { "granted, and nothing comes" }
            }
        });
    }
    reads.dedup();
    drop(intruder);

    forget(server, 2).await;
    let (mut intruder, _) = Probe::connect(server, Who::Lamp(2), &client_id(2), true).await;
    let response = |req_id: &str| format!(r#"{{"rc":200,"reqId":"{req_id}"}}"#);
    let topic = format!("{}iotdevice-1/response", prefix(1));
    let outcome = intruder.publish(&topic, &response("forged")).await;
    forget(server, 1).await;
    let (mut owner, _) = Probe::connect(server, Who::Lamp(1), &client_id(1), true).await;
    assert_eq!(owner.publish(&topic, &response("own")).await, Outcome::Taken);
    application.response("own").await;
    let came = application.seen().responses.contains_key("forged");
    let writes = match outcome {
        Outcome::Taken if came => "acknowledged, and delivered",
        Outcome::Taken => "acknowledged, and dropped",
        Outcome::Closed if !came => "the connection is closed",
        Outcome::Refused | Outcome::Closed => "delivered, and the connection is closed",
    };
    vec![
        ("subscribing to another's tree", reads.join(" / ")),
        ("publishing into another's tree", writes.into()),
    ]
}

/// A gateway names the devices that it speaks for in its topics, also in those of events. Lamp 2 does the same with
/// lamp 1, below its own prefix, where the platform would believe it.
async fn gateways(server: &impl Server) -> Answers {
    forget(server, 2).await;
    let (mut platform, _) = Probe::connect(server, Who::Platform, "a:org001:gateways", true).await;
    for filter in ["devices/+/+/iotdevice-1/#", "devices/+/+/iot-2/type/+/id/+/evt/#"] {
        assert_eq!(platform.subscribe(filter).await, Outcome::Taken, "{filter}");
    }
    let (mut intruder, _) = Probe::connect(server, Who::Lamp(2), &client_id(2), true).await;
    let topic = format!("{}iotdevice-1/type/lamp/id/lamp-1/response", prefix(2));
    let outcome = intruder.publish(&topic, "forged").await;

    let (mut gateway, _) = Probe::connect(server, Who::Gateway, "g:org001:gw:g7", true).await;
    for filter in ["iotdm-1/type/+/id/+/#", "iot-2/type/gw/id/g7/notify"] {
        assert_eq!(gateway.subscribe(&format!("devices/gw/g7/{filter}")).await, Outcome::Taken, "{filter}");
    }
    for topic in ["iotdevice-1/type/pump/id/p-1/response", "iot-2/type/pump/id/p-1/evt/e/fmt/json"] {
        assert_eq!(
            gateway.publish(&format!("devices/gw/g7/{topic}"), topic).await,
            Outcome::Taken,
            "{topic}"
        );
    }
    let mut heard = vec![text(&platform.next().await), text(&platform.next().await)];
    let believed = heard[0] == "forged";
    if believed {
        heard = vec![heard.remove(1), text(&platform.next().await)];
    }
    assert_eq!(heard, ["iotdevice-1/type/pump/id/p-1/response", "iot-2/type/pump/id/p-1/evt/e/fmt/json"]);
    let speaks = match outcome {
        Outcome::Taken if believed => "acknowledged, and delivered",
        Outcome::Taken => "acknowledged, and dropped",
        Outcome::Closed if !believed => "the connection is closed",
        Outcome::Refused | Outcome::Closed => "delivered, and the connection is closed",
    };
    vec![
        ("a gateway, for its devices", "works".into()),
        ("a device that names another one, as gateways do", speaks.into()),
    ]
}

/// Lamp 2 connects with the client id of lamp 1, which has a session.
async fn other_client_id(server: &impl Server) -> Answers {
    forget(server, 1).await;
    let application = application(server).await;
    let (mut owner, _) = Probe::connect(server, Who::Lamp(1), &client_id(1), false).await;
    assert_eq!(owner.subscribe(&format!("{}iotdm-1/#", prefix(1))).await, Outcome::Taken);
    let intruder = Probe::try_connect(server, Who::Lamp(2), &client_id(1), false).await;
    let taken = owner.ends().await;
    application.publish("iotdm-1/observe", "for lamp 1 alone");
    let read = match intruder {
        Ok((mut intruder, _)) => Some(intruder.hears().await),
        Err(_) => None,
    };
    let answer = match (taken, read) {
        (false, None) => "is refused",
        (true, None) => "is refused, and ends the connection",
        (false, Some(false)) => "has a session of its own",
        (true, Some(false)) => "takes the connection, and reads nothing",
        (_, Some(true)) => "takes the connection, and reads",
    };
    vec![("another user with the client id", answer.into())]
}

/// RabbitMQ and NATS write topics with dots inside.
async fn dots(server: &impl Server) -> Answers {
    forget(server, 1).await;
    let (mut device, _) = Probe::connect(server, Who::Lamp(1), &client_id(1), true).await;
    assert_eq!(device.subscribe(&format!("{}iotdm-1/#", prefix(1))).await, Outcome::Taken);
    let (mut platform, _) = Probe::connect(server, Who::Platform, "a:org001:dots", true).await;
    let suffix = "iotdm-1/mgmt/custom/bench/dot.ted";
    let answer = match platform.publish(&format!("{}{suffix}", prefix(1)), "{}").await {
        Outcome::Taken => {
            let topic = device.next().await.topic;
            if topic.ends_with(suffix) { "works".into() } else { format!("arrives as `{}`", last(&topic)) }
        }
        Outcome::Refused | Outcome::Closed => "closes the connection of who publishes".into(),
    };
    vec![("an action id with a dot, `dot.ted`", answer)]
}

/// The platform of `iotdm-platform` with the same template asks the agent.
async fn platform_library(server: &impl Server, protocol: Protocol) -> Answers {
    forget(server, 1).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.platform_port()));
    let mut options = PlatformOptions::new(address);
    options.credentials = Some((server.user(Who::Platform), Who::Platform.password()));
    options.space = Space::template(TEMPLATE).expect("it is a template");
    let platform = Platform::connect(options).await.expect("the broker is there");
    let mut device = lamp(server, protocol, 1);
    device.start();
    let name = DeviceName::new("lamp", "lamp-1").expect("it keeps the grammar");
    within("manage", platform.managed(&name)).await;
    let request = Request::custom("bench", "echo").field("seq", "1").field("pad", "x");
    let handle = platform.initiate(&name, &request).expect("the device is managed");
    let outcome = within("outcome", handle.completed()).await;
    device.stop().await;
    platform.shutdown().await;
    vec![("the platform library, with the same template", outcome.to_string())]
}

/// The broker is restarted below a device that is connected.
async fn restart_of_the_broker(server: &mut impl Server, protocol: Protocol) -> Answers {
    // The device may be back first, and asks again only after a minute.
    let application = durable_application(server).await;
    let (mut device, mut application) = managed_by(server, protocol, application).await;
    let times = application.subscriptions() + u64::from(server.restart_cuts_platform());
    server.restart().await;
    application.subscribed(times).await;
    application.attend(|seen| seen.manages >= 2).await;
    let req_ids = ask(&application, "restarted");
    let answered = count(server, &mut application, &req_ids).await;
    device.stop().await;
    vec![("a restart of the broker, device connected", format!("managed again; {answered}"))]
}

/// The broker is restarted while the device is away, and requests wait for it.
async fn restart_in_an_absence(server: &mut impl Server, protocol: Protocol) -> Answers {
    let (mut device, first) = managed(server, protocol).await;
    device.stop().await;
    let req_ids = ask(&first, "kept");
    first.acknowledged().await;
    drop(first);
    server.restart().await;
    let mut application = application(server).await;
    device.start();
    application.attend(|seen| seen.manages >= 1).await;
    application.bench("echo", "after", "");
    application.response("after").await;
    let answered = count(server, &mut application, &req_ids).await;
    device.stop().await;
    vec![("a restart of the broker in an absence", answered)]
}

/// More than the window of mosquitto, so that acknowledgements have to move it.
const REQUESTS: usize = 50;

fn ask(application: &Application, name: &str) -> Vec<String> {
    let req_ids: Vec<String> = (0..REQUESTS).map(|number| format!("{name}-{number}")).collect();
    for req_id in &req_ids {
        application.bench("echo", req_id, "");
    }
    req_ids
}

/// How many are answered with 200, once all are, or nothing has come for a while.
async fn count(server: &impl Server, application: &mut Application, req_ids: &[String]) -> String {
    let answered = |seen: &Seen| {
        let is_good = |id: &&String| seen.responses.get(*id).is_some_and(|all| all[0]["rc"] == 200);
        req_ids.iter().filter(is_good).count()
    };
    while answered(application.seen()) < req_ids.len() {
        if timeout(server.quiet(), application.take()).await.is_err() {
            break;
        }
    }
    format!("{} of {} answered", answered(application.seen()), req_ids.len())
}

fn text(message: &Publish) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

fn last(topic: &str) -> &str {
    topic.split_once("bench/").map_or(topic, |(_, last)| last)
}
