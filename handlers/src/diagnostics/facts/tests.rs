use std::fs;
use std::sync::Mutex;

use iotdm_core::Decision;
use proptest::prelude::*;

use super::*;
use crate::fake::{FakeServices, FakeSystem, ask, context};

/// A folder that looks like the root of a small machine.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        root.write(
            "proc/meminfo",
            "MemTotal:         512000 kB\nMemFree: 1 kB\nMemAvailable:     256000 kB\n",
        );
        root.write("proc/loadavg", "0.50 0.25 0.10 1/123 4567\n");
        root.zone(0, "cpu-thermal\n", "48312\n");
        root.zone(1, "gpu-thermal\n", "-5000\n");
        root.write("sys/class/thermal/cooling_device0/type", "fan\n");
        fs::create_dir(root.0.path().join("data")).unwrap();
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn zone(&self, number: u32, name: &str, temperature: &str) {
        let zone = format!("sys/class/thermal/thermal_zone{number}");
        self.write(&format!("{zone}/type"), name);
        self.write(&format!("{zone}/temp"), temperature);
    }

    fn facts(&self) -> SystemFacts {
        let disks = vec!["/data".into(), "/absent".into()];
        let options = FactsOptions { disks, root: self.0.path().into(), ..FactsOptions::default() };
        SystemFacts::new(options).unwrap()
    }

    fn read(&self) -> Facts {
        self.facts().read(&FakeSystem::new())
    }
}

#[tokio::test(start_paused = true)]
async fn the_platform_gets_the_facts_of_the_moment() {
    let (root, system, services) = (Root::new(), FakeSystem::new(), FakeServices::new());
    let mut table = Table::new();
    table.with(root.facts()).unwrap();
    let cx = context(&system, &services);
    let decision = ask(&table, &ReadFacts::ROUTE, &cx, json!({"fields": []})).await;
    let Decision::Replied(parts) = decision else { panic!("{decision:?}") };
    let mut d: Value = serde_json::from_str(parts.d.unwrap().get()).unwrap();
    let disks = d["disks"].take();
    assert_eq!(
        d,
        json!({
            "time": "2017-07-14T02:40:00.000Z",
            "uptimeSeconds": 60,
            "memory": {"totalBytes": 524_288_000, "availableBytes": 262_144_000},
            "load": [0.5, 0.25, 0.1],
            "disks": null,
            "temperatures": [
                {"zone": "cpu-thermal", "celsius": 48.312}, {"zone": "gpu-thermal", "celsius": -5.0}
            ],
        })
    );
    assert_eq!(
        (disks.as_array().unwrap().len(), &disks[0]["path"]),
        (1, &json!("/data")),
        "one is not there"
    );
    assert!(disks[0]["totalBytes"].as_u64() >= disks[0]["availableBytes"].as_u64());
}

/// A file system that does not answer must not take one thread after the other.
#[tokio::test(start_paused = true)]
async fn one_thread_at_a_time_reads() {
    let (root, system, services) = (Root::new(), FakeSystem::new(), FakeServices::new());
    let facts = root.facts();
    let mut table = Table::new();
    table.with(facts.clone()).unwrap();
    let cx = context(&system, &services);
    let hung = facts.turn().await;
    let route = ReadFacts::ROUTE;
    let mut second = std::pin::pin!(ask(&table, &route, &cx, json!({})));
    assert!(tokio::time::timeout(HOUR, &mut second).await.is_err());
    drop(hung);
    assert!(matches!(second.await, Decision::Replied(_)));
}

#[test]
fn a_machine_that_tells_nothing_has_no_facts_but_its_time() {
    let empty = Root(tempfile::tempdir().unwrap());
    assert_eq!(json!(empty.read()), json!({"time": "2017-07-14T02:40:00.000Z", "uptimeSeconds": 60}));
}

#[test]
fn what_is_not_understood_is_left_out() {
    let root = Root::new();
    root.write("proc/meminfo", "MemTotal: much\n");
    root.write("proc/loadavg", "nan inf");
    root.zone(0, "cpu-thermal", "hot");
    root.zone(10, "", "1000");
    root.write("sys/class/thermal/thermal_zone2/temp", "2000");
    root.write("sys/class/thermal/thermal_zonex/temp", "3000");
    let facts = root.read();
    assert_eq!((facts.memory, facts.load), (None, None));
    let zones: Vec<_> = facts.temperatures.iter().map(|found| (found.zone.as_str(), found.celsius)).collect();
    assert_eq!(zones, [("gpu-thermal", -5.0), ("thermal_zone2", 2.0), ("thermal_zone10", 1.0)]);
}

#[test]
fn a_machine_with_very_much_is_told_within_bounds() {
    let root = Root::new();
    for number in 0..60 {
        root.zone(number, &"é".repeat(100), "1000");
    }
    let facts = root.read();
    assert_eq!(facts.temperatures.len(), 16);
    assert!(facts.temperatures.iter().all(|found| found.zone.len() == 64));
    assert!(json!(facts).to_string().len() < 4096);
}

#[test]
fn options_that_could_only_fail_later_are_refused_at_once() {
    let with = |options: FactsOptions| SystemFacts::new(options).map(|_| ());
    let good = FactsOptions::default();
    assert_eq!(with(good.clone()), Ok(()));
    let relative = FactsOptions { disks: vec!["data".into()], ..good.clone() };
    assert_eq!(with(relative), Err(FactsOptionsError::Path("data".into())));
    let many = FactsOptions { disks: vec!["/".into(); 17], ..good.clone() };
    assert_eq!(with(many), Err(FactsOptionsError::Disks));
    for interval in [Duration::from_secs(9), Duration::MAX] {
        assert_eq!(with(FactsOptions { interval, ..good.clone() }), Err(FactsOptionsError::Interval));
    }
}

/// What `run` sets of `metadata` in so much time; meanwhile `happens` may change the machine.
async fn kept(root: &Root, metadata: Value, time: Duration, happens: impl AsyncFn(&Root)) -> Vec<Value> {
    let attribute = Mutex::new(metadata);
    let sets = Mutex::new(Vec::new());
    let read = || Some(attribute.lock().unwrap().clone());
    let set = async |value: Value| {
        sets.lock().unwrap().push(value.clone());
        *attribute.lock().unwrap() = value;
        Ok(())
    };
    let facts = root.facts();
    let run = facts.run(Arc::new(FakeSystem::new()), read, set);
    let both = async { tokio::join!(run, happens(root)) };
    assert!(tokio::time::timeout(time, both).await.is_err());
    sets.into_inner().unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn the_facts_are_told_at_the_start_beside_what_the_platform_has_set() {
    let root = Root::new();
    let stale = json!(root.read());
    let sets = kept(&root, json!({"pole": 7, "facts": stale}), 12 * HOUR, async |_| {}).await;
    let [only] = &sets[..] else { panic!("{sets:?}") };
    assert_eq!((&only["pole"], &only["facts"]["load"][0]), (&json!(7), &json!(0.5)));
    let sets = kept(&root, Value::Null, HOUR, async |_| {}).await;
    assert_eq!(sets.len(), 1, "metadata comes into being");
}

#[tokio::test(start_paused = true)]
async fn afterwards_they_are_told_only_when_a_threshold_is_passed() {
    let root = Root::new();
    let sets = kept(&root, json!({}), 12 * HOUR, async |root| {
        // Never while they are read.
        sleep(DEFAULT_INTERVAL / 2).await;
        for (load, cpu) in
            [("1.2", "48312"), ("1.3", "48312"), ("1.3", "52000"), ("1.3", "53400"), ("9", "9000")]
        {
            sleep(HOUR).await;
            root.write("proc/loadavg", &format!("7 {load} 7 1/1 1"));
            root.zone(0, "cpu-thermal", cpu);
        }
    })
    .await;
    let told: Vec<_> = sets
        .iter()
        .map(|set| (set["facts"]["load"][1].as_f64(), set["facts"]["temperatures"][0]["celsius"].as_f64()))
        .collect();
    let expected = [(0.25, 48.312), (1.3, 48.312), (1.3, 53.4), (9.0, 9.0)];
    assert_eq!(told, expected.map(|(load, celsius)| (Some(load), Some(celsius))));
}

#[tokio::test(start_paused = true)]
async fn the_facts_are_an_event_at_once_and_after_each_interval_whether_they_changed_or_not() {
    let (root, events) = (Root::new(), Mutex::new(Vec::new()));
    let facts = root.facts();
    let take = |event: Event| {
        events.lock().unwrap().push((tokio::time::Instant::now(), event));
        async { Ok(()) }
    };
    let publish = facts.publish(Arc::new(FakeSystem::new()), Duration::from_secs(600), take);
    assert!(tokio::time::timeout(HOUR - Duration::from_secs(1), publish).await.is_err());
    let events = events.into_inner().unwrap();
    assert_eq!(events.len(), 6);
    assert!(events.windows(2).all(|pair| pair[1].0 - pair[0].0 >= Duration::from_secs(600)));
    let (_, event) = &events[0];
    assert_eq!(event.topic().to_string(), "iot-2/evt/facts/fmt/json");
    assert!(event.is_stored());
    let facts: Facts = serde_json::from_slice(event.payload()).unwrap();
    assert_eq!(facts.load, Some([0.5, 0.25, 0.1]));
}

#[tokio::test(start_paused = true)]
async fn the_event_ends_when_the_agent_does() {
    let publish = |_| async { Err(Failure::new("the agent is stopping")) };
    let ended = Root::new().facts().publish(Arc::new(FakeSystem::new()), HOUR, publish).await;
    assert_eq!(ended, Failure::new("the agent is stopping"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_agent_does() {
    let root = Root::new();
    let ended = root
        .facts()
        .run(Arc::new(FakeSystem::new()), || None, |_| async { Err(Failure::new("the agent is stopping")) })
        .await;
    assert_eq!(ended.to_string(), "the agent is stopping");
}

#[test]
fn what_comes_or_goes_passes_every_threshold() {
    let now = Root::new().read();
    let passes = |known: &Facts| Thresholds::default().are_passed(&json!(known), &now);
    assert!(!passes(&now));
    assert!(
        !passes(&Facts { time: "later".into(), uptime_seconds: 1, ..now.clone() }),
        "time alone is nothing"
    );
    assert!(passes(&Facts { memory: None, ..now.clone() }));
    assert!(passes(&Facts { load: None, ..now.clone() }));
    assert!(passes(&Facts { disks: Vec::new(), ..now.clone() }));
    let mut renamed = now.clone();
    renamed.temperatures[0].zone = "soc".into();
    assert!(passes(&renamed));
    assert!(Thresholds::default().are_passed(&json!("set by somebody else"), &now));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_kernel_writes_is_read_or_left_out(meminfo in any::<String>(), load in "[0-9. ainf-]{0,20}", temp in any::<String>()) {
        let root = Root::new();
        root.write("proc/meminfo", &meminfo);
        root.write("proc/loadavg", &load);
        root.zone(0, &temp, &temp);
        let facts = json!(root.read());
        prop_assert!(serde_json::from_value::<Facts>(facts).is_ok());
    }

    /// Right below its threshold nothing is told, at it something is: however large the space, up or down.
    #[test]
    fn a_change_of_space_passes_by_its_share(
        total in prop_oneof![1_u64..10_000, 1_u64..u64::MAX / 2],
        percent in 1_u8..=100,
        down in any::<bool>(),
    ) {
        let space = |available_bytes| Space { total_bytes: total, available_bytes };
        let facts = |available| Facts {
            memory: Some(space(available)),
            time: String::new(),
            uptime_seconds: 0,
            load: None,
            disks: Vec::new(),
            temperatures: Vec::new(),
        };
        let thresholds = Thresholds { memory_percent: percent, ..Thresholds::default() };
        let least = (u128::from(total) * u128::from(percent)).div_ceil(100) as u64;
        for (change, passes) in [(least - 1, false), (least, true)] {
            let (known, now) = if down { (change, 0) } else { (0, change) };
            prop_assert_eq!(thresholds.are_passed(&json!(facts(known)), &facts(now)), passes);
        }
    }
}
