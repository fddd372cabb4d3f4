use std::fmt;
use std::time::Duration;

/// One MQTT packet, as it passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which connection of the device, from 1 on.
    pub connection: usize,
    /// Whether the device sent it.
    pub upward: bool,
    /// When, since the first one could pass.
    pub at: Duration,
    /// The whole packet.
    pub bytes: Vec<u8>,
}

/// What a packet is (MQTT 3.1.1 §3), as far as devices and brokers use it here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields have the names of the standard")]
pub enum Kind {
    /// §3.1.
    Connect {
        protocol: String,
        level: u8,
        clean_session: bool,
        will: bool,
        keep_alive: u16,
        client_id: String,
        user_name: Option<String>,
        password: Option<String>,
    },
    /// §3.2.
    Connack { session_present: bool, code: u8 },
    /// §3.3.
    Publish { dup: bool, qos: u8, retain: bool, topic: String, packet: Option<u16>, payload: String },
    /// §3.4.
    Puback { packet: u16 },
    /// §3.8.
    Subscribe { packet: u16, filters: Vec<(String, u8)> },
    /// §3.9.
    Suback { packet: u16, codes: Vec<u8> },
    /// §3.12.
    Pingreq,
    /// §3.13.
    Pingresp,
    /// §3.14.
    Disconnect,
    /// Anything else.
    Other(u8),
}

impl Frame {
    /// How long the first packet in these bytes is, once all of it is there.
    pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
        let (length, header) = remaining_length(bytes)?;
        (bytes.len() >= header + length).then_some(header + length)
    }

    /// What it is.
    ///
    /// # Panics
    /// It breaks the standard.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let (_, header) = remaining_length(&self.bytes).expect("it was cut by its length");
        let (first, mut body) = (self.bytes[0], Body(&self.bytes[header..]));
        match (first >> 4, first & 15) {
            (1, 0) => connect(&mut body),
            (2, 0) => Kind::Connack { session_present: body.byte() & 1 == 1, code: body.byte() },
            (3, flags) => {
                let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
                let topic = body.text();
                let packet = (qos > 0).then(|| body.number());
                Kind::Publish { dup, qos, retain, topic, packet, payload: body.rest() }
            }
            (4, 0) => Kind::Puback { packet: body.number() },
            (8, 2) => {
                let packet = body.number();
                let mut filters = Vec::new();
                while !body.0.is_empty() {
                    filters.push((body.text(), body.byte()));
                }
                Kind::Subscribe { packet, filters }
            }
            (9, 0) => Kind::Suback { packet: body.number(), codes: body.0.to_vec() },
            (12, 0) => Kind::Pingreq,
            (13, 0) => Kind::Pingresp,
            (14, 0) => Kind::Disconnect,
            _ => Kind::Other(first),
        }
    }

    /// Where `docs/protocol.md` speaks of it.
    #[must_use]
    pub fn section(&self) -> &'static str {
        match self.kind() {
            Kind::Connect { .. } => "§1.3 identity, §1.4 authentication, §1.5 MQTT",
            Kind::Connack { .. } => "§1.5 MQTT",
            Kind::Subscribe { .. } | Kind::Suback { .. } => "§3 topics, §1.5 QoS 1",
            Kind::Puback { .. } => "§1.5 QoS 1",
            Kind::Publish { topic, .. } => match &*topic {
                "iotdevice-1/mgmt/manage" => "§4.1 manage",
                "iotdevice-1/response" => "§2 envelope, §6.2 reboot",
                "iotdm-1/response" => "§2 envelope, the platform's answer",
                "iotdm-1/mgmt/initiate/device/reboot" => "§5.4 reboot",
                _ => "§3 topics",
            },
            Kind::Pingreq | Kind::Pingresp => "§1.5 keepalive",
            Kind::Disconnect | Kind::Other(_) => "MQTT 3.1.1",
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.upward { "device -> broker" } else { "broker -> device" };
        writeln!(
            f,
            "{:>9.3} s  connection {}  {way}  {} bytes  [{}]",
            self.at.as_secs_f64(),
            self.connection,
            self.bytes.len(),
            self.section()
        )?;
        writeln!(f, "  {:?}", self.kind())?;
        for (row, bytes) in self.bytes.chunks(ROW_BYTES).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text: String = bytes
                .iter()
                .map(|byte| if (32..127).contains(byte) { char::from(*byte) } else { '.' })
                .collect();
            writeln!(f, "  {:04x}  {:<47}  {text}", row * ROW_BYTES, hex.join(" "))?;
        }
        Ok(())
    }
}

fn connect(body: &mut Body<'_>) -> Kind {
    let (protocol, level, flags, keep_alive) = (body.text(), body.byte(), body.byte(), body.number());
    assert_eq!(flags & 1, 0, "the reserved flag is 0 [MQTT-3.1.2-3]");
    Kind::Connect {
        protocol,
        level,
        clean_session: flags & 2 != 0,
        will: flags & 4 != 0,
        keep_alive,
        client_id: body.text(),
        user_name: (flags & 0x80 != 0).then(|| body.text()),
        password: (flags & 0x40 != 0).then(|| body.text()),
    }
}

/// The remaining length, and how long the header before it is.
fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (place, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((length, place + 2));
        }
    }
    None
}

/// What is left of a packet.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("the packet is whole");
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn text(&mut self) -> String {
        let length = self.number();
        let (text, rest) = self.0.split_at(length.into());
        self.0 = rest;
        String::from_utf8(text.to_vec()).expect("strings are UTF-8 [MQTT-1.5.3-1]")
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned()
    }
}

/// How many bytes stand in a row.
const ROW_BYTES: usize = 16;
