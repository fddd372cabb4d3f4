//! Random lives of a gateway with three pumps: crashes, power cuts, lost connections, failed commits and withheld
//! acknowledgements at any moment, few reqIds for all devices, and what must hold for each of them.

use std::collections::BTreeMap;

use super::*;

/// How many lives are lived when `IOTDM_GATEWAY_LIVES` does not say otherwise.
const LIVES: u64 = 40;

/// Steps of a life.
const STEPS: usize = 60;

/// What was asked of whom, and what came of it.
struct Life {
    rig: Rig,
    random: fastrand::Rng,
    running: Option<Running>,
    /// Device and reqId of all requests, and how often each was sent.
    asked: BTreeMap<(Subject, String), usize>,
    story: Vec<String>,
    /// How much had been published when a process ended.
    ends: Vec<usize>,
}

/// What a reqId asks for is the same on every device: an echo, a work that may not be repeated, or a reboot.
fn route_of(req_id: &str) -> Route {
    match req_id.chars().next() {
        Some('e') => Echo::ROUTE,
        Some('o') => Once::ROUTE,
        _ => Reboot::ROUTE,
    }
}

impl Life {
    async fn new(seed: u64) -> Self {
        let mut life = Self {
            rig: Rig::new(),
            random: fastrand::Rng::with_seed(seed),
            running: None,
            asked: BTreeMap::new(),
            story: Vec::new(),
            ends: Vec::new(),
        };
        life.start();
        life.rig.until_managed(&gateway(), 1).await;
        life
    }

    fn start(&mut self) {
        if self.running.is_none() {
            // An agent whose first commit fails ends, and would be started again by its service manager.
            self.rig.disk.heal();
            self.running = Some(self.rig.start());
        }
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    async fn step(&mut self) {
        match self.random.u8(..100) {
            0..40 => self.ask(),
            40..50 => self.rig.plant.gate.notify_one(),
            50..58 => self.rig.platform.cut(),
            58..64 => self.end().await,
            64..68 => {
                self.end().await;
                self.rig.system.next_boot();
                self.tell("power off");
            }
            68..73 => {
                let n = self.random.u64(1..4);
                self.rig.disk.fail_commit(n);
                self.tell(format!("commit {n} fails"));
            }
            73..77 => self.rig.platform.hold_pubacks(true),
            77..83 => self.rig.platform.hold_pubacks(false),
            83..86 => self.rig.platform.offline(true),
            86..92 => self.rig.platform.offline(false),
            _ => tokio::time::sleep(Duration::from_secs(self.random.u64(1..20))).await,
        }
        self.start();
        tokio::time::sleep(Duration::from_millis(self.random.u64(0..40))).await;
        self.check_safety();
    }

    fn ask(&mut self) {
        let kind = ["e", "e", "o", "o", "r"][self.random.usize(..5)];
        let req_id = format!("{kind}{}", self.random.u8(..6));
        let device =
            [gateway(), pump(1), pump(2), pump(3), named("pump", "p-9")][self.random.usize(..5)].clone();
        self.tell(format!("{req_id} to {device}"));
        self.rig.platform.send_to(&device, route_of(&req_id), json!({ "reqId": req_id }));
        *self.asked.entry((device, req_id)).or_default() += 1;
    }

    async fn end(&mut self) {
        self.tell("the process dies");
        if let Some(running) = self.running.take() {
            running.kill().await;
        }
        self.ends.push(self.rig.platform.everything().len());
    }

    /// What must hold at every moment.
    fn check_safety(&self) {
        let runs = self.rig.plant.runs();
        for (device, req_id) in self.asked.keys() {
            let count = |what: &str| self.rig.plant.count(&format!("{what} {req_id} {device}"));
            self.must(count("once") <= 1, "P2: a work that may not be repeated ran twice", device, req_id);
            // A restart may be begun once more where nothing shows that it has happened, up to the limit.
            self.must(count("restart") <= 3, "P6: more restarts than attempts", device, req_id);
            if count("restart") > 0 {
                let accepted = self.rig.answers(device, req_id).iter().any(|body| body["rc"] == 202);
                self.must(accepted, "P5: a restart began before its answer was sent", device, req_id);
            }
            let mut answers = self.rig.answers(device, req_id);
            answers.dedup();
            self.must(answers.len() <= 1, "P2: a replay got another answer", device, req_id);
        }
        for run in &runs {
            self.must_all(!run.contains("p-9"), "a device that is not attached ran something");
        }
        for item in self.rig.platform.everything() {
            if item.route == Some(UpRoute::Response) {
                let req_id = item.body["reqId"].as_str().unwrap_or_default().to_owned();
                let asked = |device: &Subject| {
                    let key = (device.clone(), req_id.clone());
                    item.topic == format!("iotdevice-1/{device}response") && self.asked.contains_key(&key)
                };
                let all = [gateway(), pump(1), pump(2), pump(3), named("pump", "p-9")];
                self.must_all(all.iter().any(asked), "an answer to nothing that this device was asked");
            }
        }
        self.check_hold();
    }

    /// P5: between the 202 of a reboot and its end in one process, this device sends no manage.
    fn check_hold(&self) {
        let everything = self.rig.platform.everything();
        for (place, item) in everything.iter().enumerate() {
            let req_id = item.body["reqId"].as_str().unwrap_or_default();
            let is_202 = item.route == Some(UpRoute::Response) && item.body["rc"] == 202;
            if !is_202 || everything[..place].iter().any(|before| before == item) {
                continue;
            }
            let device = item.topic.trim_start_matches("iotdevice-1/").trim_end_matches("response");
            let manage = format!("iotdevice-1/{device}mgmt/manage");
            let end = self.ends.iter().copied().find(|end| *end > place).unwrap_or(everything.len());
            let back = self.rig.plant.back(req_id, device).unwrap_or(usize::MAX).min(end);
            let held = everything.get(place..back).unwrap_or_default();
            // Its restart did not come, or its work did not end: that is told, and the hold is over.
            let failed = format!("(reqId {req_id}) failed");
            let told = |item: &iotdm_agent::testing::Published| {
                item.topic == format!("iotdevice-1/{device}add/diag/log")
                    && item.body["d"]["message"].as_str().is_some_and(|text| text.contains(&failed))
            };
            self.must_all(
                everything.iter().any(told) || held.iter().all(|item| item.topic != manage),
                "P5: a manage before the end of the reboot",
            );
        }
    }

    /// Everything works again: everything comes to its end.
    async fn calm(&mut self) {
        self.tell("everything works again");
        self.rig.platform.offline(false);
        self.rig.platform.hold_pubacks(false);
        self.rig.disk.heal();
        for _ in 0..40 {
            // Work that waits for the gate, and restarts that never came, come to their ends.
            self.rig.plant.gate.notify_one();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        self.check_safety();
        self.must_all(self.rig.platform.unacknowledged() == 0, "P3: something was not acknowledged");
        let asked: Vec<(Subject, String)> = self.asked.keys().cloned().collect();
        for (device, req_id) in asked {
            let answered = !self.rig.answers(&device, &req_id).is_empty();
            self.must(answered, "P1 and P3: it was never answered", &device, &req_id);
        }
        for device in [gateway(), pump(1), pump(2), pump(3)] {
            // Whoever is managed answers, and its records stay few.
            let answer = self.rig.ask::<Echo>(&device, "last").await;
            let expected = if device == gateway() { 501 } else { 200 };
            self.must(answer["rc"] == expected, "the device does not serve any more", &device, "last");
        }
        self.rig.platform.drained().await;
        let running = self.running.take().expect("it was started");
        running.stop().await.expect("it was told to stop");
        // At most 18 requests of each device, and a handful of attributes.
        self.must_all(self.rig.disk.pairs() < 200, "P8: more records than there can be");
    }

    #[track_caller]
    fn must(&self, holds: bool, law: &str, device: &Subject, req_id: &str) {
        assert!(holds, "{law}: {req_id} of {device}\n{}", self.told());
    }

    #[track_caller]
    fn must_all(&self, holds: bool, law: &str) {
        assert!(holds, "{law}\n{}", self.told());
    }

    fn told(&self) -> String {
        let published: Vec<String> = self
            .rig
            .platform
            .everything()
            .iter()
            .map(|item| format!("{} {}", item.topic, item.body))
            .collect();
        format!(
            "{}\n--\n{}\n--\n{}",
            self.story.join("\n"),
            self.rig.plant.runs().join("\n"),
            published.join("\n")
        )
    }
}

/// Requests that are sent before there is a session are lost; here the session is there from the first connection on.
#[tokio::test(start_paused = true)]
async fn the_promises_hold_for_each_device_whenever_anything_ends() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = number("IOTDM_GATEWAY_FIRST", 0);
    let lives = number("IOTDM_GATEWAY_LIVES", LIVES);
    let mut restarts = 0;
    let mut runs = 0;
    for seed in first..first + lives {
        println!("life {seed}");
        let mut life = Life::new(seed).await;
        for _ in 0..STEPS {
            life.step().await;
        }
        life.calm().await;
        restarts += life.rig.system.restarts().len();
        runs += life.rig.plant.runs().len();
    }
    println!("{lives} lives, {runs} handlers, {restarts} restarts of the gateway");
    assert!(runs > 0, "something ran");
}
