//! A broker that breaks the protocol: the connection is dropped and that is said; nothing panics, and no memory is
//! kept for what is only promised.

use std::time::Duration;

use fastrand::Rng;
use iotdm_agent::engine::Lost;
use iotdm_agent::link::{Link, MqttLink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::stranger::*;

/// What a broker says after SUBACK, and what the log says then.
const BREACHES: &[(&str, &[u8], &str)] = &[
    ("packet type 0", &[0x00, 2, 0, 0], "Invalid packet type: 0"),
    ("packet type 15", &[0xf0, 2, 0, 0], "Invalid packet type: 15"),
    ("a second CONNACK", CONNACK, "wrong packet"),
    ("a CONNECT", &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 60, 0, 0], "wrong packet"),
    ("a PUBACK for what was not sent", &[0x40, 2, 0, 9], "unsolicited ack pkid: 9"),
    ("a PUBACK for packet 0", &[0x40, 2, 0, 0], "unsolicited ack pkid: 0"),
    ("a PUBREL for what was not sent", &[0x62, 2, 0, 9], "unsolicited ack pkid: 9"),
    ("a SUBACK that nobody asked for", SUBACK, "a SUBACK that nobody asked for"),
    ("a topic that is no UTF-8", &[0x32, 6, 0, 2, 0xc3, 0x28, 0, 1], "Topic is not UTF-8"),
    ("packet identifier 0", &[0x32, 5, 0, 1, b'a', 0, 0], "Packet id Zero"),
    ("QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1], "Invalid QoS level: 3"),
    ("a length of five bytes", &[0x32, 0xff, 0xff, 0xff, 0xff, 1], "Malformed remaining length"),
    ("a topic that is longer than its packet", &[0x32, 3, 0xff, 0xff, b'a'], "boundary crossed"),
    ("an acknowledgement without an identifier", &[0x40, 0], "Payload required"),
];

#[tokio::test(start_paused = true)]
async fn whatever_breaks_the_protocol_ends_the_connection_and_is_said() {
    for (what, bytes, said) in BREACHES {
        let broker = Stranger::who(|stream| breach(stream, bytes)).await;
        let meeting = broker.met().await;
        assert!(meeting.said.to_lowercase().contains(&said.to_lowercase()), "{what}: {meeting:?}");
        assert_eq!(meeting.lost, Some(Lost::Other), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_goes_on_breaking_the_protocol_is_asked_at_a_slow_rhythm() {
    for (what, bytes, _) in &BREACHES[..3] {
        let broker = Stranger::who(|stream| breach(stream, bytes)).await;
        let attempts = attempts_an_hour(&broker).await;
        assert!((30..=120).contains(&attempts), "{what}: {attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_length_that_is_only_promised_takes_no_memory() {
    // 16 000 000 bytes are to come: on the second connection there is room for them.
    let promise = [0x32, 0x80, 0xc8, 0xd0, 0x07];
    let first = Stranger::who_says([CONNACK, &promise].concat()).await;
    let before = resident_kb();
    let mut link = MqttLink::new(&first.config()).unwrap();
    for said in
        ["payload size limit exceeded: 16000000", "a ping was not answered", "payload size limit exceeded"]
    {
        let meeting = Meeting::of(link.open()).await;
        assert!(meeting.said.contains(said), "{meeting:?}");
    }
    let after = resident_kb();
    assert!(after < before + 8 * 1024, "{before} kB, then {after} kB");
    // And it never counts before CONNACK: that is no broker.
    let stranger = Stranger::who_says(promise).await;
    assert!(stranger.met().await.said.starts_with("this is not an MQTT broker"));
}

/// A byte at a time is a sign of life only for who does not look at the packets.
#[tokio::test(start_paused = true)]
async fn a_packet_that_drips_for_ever_ends_within_two_keep_alives() {
    let broker = Stranger::who(|mut stream| async move {
        let start = [CONNACK, &[0x32, 0xbf, 0x9a, 0x0c, 0, 1, b'a', 0, 1][..]].concat();
        let _ = stream.write_all(&start).await;
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let began = Instant::now();
    let meeting = broker.met().await;
    assert!(meeting.connected);
    assert!(began.elapsed() <= Duration::from_secs(121), "{:?}", began.elapsed());
    assert!(meeting.said.contains("a ping was not answered"), "{meeting:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connack_that_drips_ends_within_the_time_to_connect() {
    let broker = Stranger::who(|mut stream| async move {
        for byte in [0x20, 0xff, 0xff, 0x0a].into_iter().chain(std::iter::repeat(0)) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let began = Instant::now();
    assert!(!broker.met().await.connected);
    assert!(began.elapsed() <= Duration::from_secs(26), "{:?}", began.elapsed());
}

/// The same seeds are the same bytes; `IOTDM_FIRST_SEED` begins elsewhere.
#[tokio::test(start_paused = true)]
async fn random_bytes_before_and_after_connack_end_each_connection_and_nothing_else() {
    let first = std::env::var("IOTDM_FIRST_SEED").map_or(0, |text| text.parse().unwrap());
    let before = resident_kb();
    for seed in first..first + NOISES {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = [&[][..], CONNACK, &[CONNACK, SUBACK].concat()][rng.usize(0..3)].to_vec();
        for _ in 0..rng.usize(1..200) {
            // Types and lengths that pass the first look come often enough.
            match rng.u32(0..4) {
                0 => bytes.extend([rng.u8(1..16) << 4 | rng.u8(0..16), rng.u8(0..8)]),
                _ => bytes.push(rng.u8(..)),
            }
        }
        let broker = Stranger::who(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let _ = stream.write_all(&bytes).await;
                // The end comes after the noise, so that no noise is a packet that waits for more.
                let _ = stream.shutdown().await;
                wait(stream).await;
            }
        })
        .await;
        let meeting = broker.met().await;
        assert!(meeting.lost.is_some() && !meeting.said.is_empty(), "IOTDM_FIRST_SEED={seed}");
        assert_ne!(meeting.said, "the connection ended", "IOTDM_FIRST_SEED={seed}: the poller panicked");
    }
    let after = resident_kb();
    assert!(after < before + 16 * 1024, "{before} kB, then {after} kB");
}

/// Is a broker up to SUBACK, and says this behind it.
async fn breach(mut stream: TcpStream, bytes: &[u8]) {
    let mut piece = [0; 1024];
    for answer in [CONNACK, &[SUBACK, bytes].concat()] {
        let _ = stream.read(&mut piece).await;
        let _ = stream.write_all(answer).await;
    }
    wait(stream).await;
}

/// What this process holds in memory, in kB.
fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).expect("there is a number").parse().expect("it is a number")
}

/// How many strangers make noise.
const NOISES: u64 = 400;
