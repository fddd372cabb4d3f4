//! What an agent costs that keeps no promises: the floors beside which a measured agent is read.
//!
//! A floor answers every request that has a reqId with 200 and the request's own `d`. It decodes nothing, remembers
//! nothing and never reconnects.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish, QoS};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::bench::ExecutionLog;
use crate::told_to_end;

/// What ends a floor.
pub type Error = Box<dyn std::error::Error>;

/// Serves on 127.0.0.1 until SIGTERM or SIGINT, or until the connection ends. With a journal, each batch of requests is one append and one
/// `fdatasync` before the first of them is answered.
///
/// # Errors
/// The broker, the journal or the execution log cannot be used.
pub async fn serve(port: u16, journal: Option<&Path>) -> Result<(), Error> {
    tokio::select! {
        () = told_to_end() => Ok(()),
        result = answer_all(port, journal) => result,
    }
}

async fn answer_all(port: u16, journal: Option<&Path>) -> Result<(), Error> {
    let mut journal =
        journal.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let log = ExecutionLog::from_environment()?;
    let mut options = MqttOptions::new("d:org001:bench:floor", "127.0.0.1", port);
    options.set_manual_acks(true).set_max_packet_size(PACKET_LIMIT_BYTES, PACKET_LIMIT_BYTES);
    let (client, mut event_loop) = AsyncClient::new(options, CHANNEL_LIMIT);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    event_loop.set_network_options(network);

    let (sender, mut requests) = mpsc::unbounded_channel();
    let poller = tokio::spawn(poll(event_loop, sender));
    client.subscribe("iotdm-1/#", QoS::AtLeastOnce).await?;
    let manage = json!({"d": {"supports": {"bench": true}}, "reqId": "floor"});
    client.publish("iotdevice-1/mgmt/manage", QoS::AtLeastOnce, false, manage.to_string()).await?;
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, BATCH_LIMIT).await > 0 {
        record(&mut journal, &batch)?;
        for publish in batch.drain(..) {
            client.ack(&publish).await?;
            answer(&client, &log, &publish).await?;
        }
    }
    Ok(poller.await??)
}

/// Only polls and forwards, so that neither an answer nor a disk keeps the connection waiting.
async fn poll(
    mut event_loop: EventLoop,
    requests: mpsc::UnboundedSender<Publish>,
) -> Result<(), rumqttc::ConnectionError> {
    loop {
        if let Event::Incoming(Packet::Publish(publish)) = event_loop.poll().await?
            && requests.send(publish).is_err()
        {
            return Ok(());
        }
    }
}

fn record(journal: &mut Option<File>, batch: &[Publish]) -> std::io::Result<()> {
    let Some(journal) = journal else { return Ok(()) };
    let mut lines = Vec::new();
    for publish in batch {
        lines.extend_from_slice(&publish.payload);
        lines.push(b'\n');
    }
    journal.write_all(&lines)?;
    journal.sync_data()
}

async fn answer(client: &AsyncClient, log: &ExecutionLog, publish: &Publish) -> Result<(), Error> {
    let Ok(request) = serde_json::from_slice::<Request<'_>>(&publish.payload) else { return Ok(()) };
    let Some(req_id) = request.req_id.filter(|_| publish.topic != "iotdm-1/response") else { return Ok(()) };
    let name = req_id.get().trim_matches('"');
    log.start(name)?;
    log.end(name)?;
    let response = serde_json::to_vec(&Response { rc: 200, d: request.d, req_id })?;
    Ok(client.publish("iotdevice-1/response", QoS::AtLeastOnce, false, response).await?)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow)]
    req_id: Option<&'a RawValue>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    rc: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a RawValue>,
    req_id: &'a RawValue,
}

/// Largest packet in bytes: the largest payload (`docs/protocol.md` §1.5), the longest topic, and headers.
const PACKET_LIMIT_BYTES: usize = 200_000;

/// Answers and acknowledgements that may wait for the connection: more than a broker's window has of them.
const CHANNEL_LIMIT: usize = 1024;

/// Requests in one batch: as many as an agent takes into one commit.
const BATCH_LIMIT: usize = 256;
