// Real processes, real time: bounds are generous and every wait is for an event.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use iotdm_core::{LineListener, RunAs};
use tokio::time::timeout;

use super::*;

/// Longer than anything here takes on a machine that is busy with something else.
const GENEROUS: Duration = Duration::from_secs(60);

/// By then a script that was just started has come to its loop.
const STARTED: Duration = Duration::from_secs(3);

fn sh(script: &str) -> ChildProcess {
    ChildProcess {
        args: vec!["-c".into(), script.into()],
        time_limit: GENEROUS,
        ..ChildProcess::new("/bin/sh")
    }
}

async fn run(child: ChildProcess) -> Result<ChildOutput, ChildError> {
    timeout(2 * GENEROUS, LinuxSystem::new().unwrap().run(child)).await.expect("a run is bounded")
}

/// A script that waits for ever together with a process of its own, deaf to TERM if asked, and writes down both pids.
fn family(folder: &Path, prelude: &str) -> ChildProcess {
    let pids = folder.join("pids");
    let script = "sh -c \"$PRELUDE; while :; do sleep 1; done\" & echo $$ $! > \"$PIDS.part\"; \
                  mv \"$PIDS.part\" \"$PIDS\"; wait; while :; do sleep 1; done";
    ChildProcess {
        env: BTreeMap::from([
            ("PIDS".into(), pids.to_str().unwrap().into()),
            ("PRELUDE".into(), prelude.into()),
        ]),
        ..sh(&format!("{prelude}; {script}"))
    }
}

async fn pids(folder: &Path) -> Vec<u32> {
    until(|| fs::read_to_string(folder.join("pids")).ok())
        .await
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

async fn gone(pids: &[u32]) {
    for pid in pids {
        until(|| is_gone(*pid).then_some(())).await;
    }
}

fn is_gone(pid: u32) -> bool {
    // A zombie has ended; whoever adopted it has only not looked yet.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// What another process does can only be asked again and again.
async fn until<T>(mut happened: impl FnMut() -> Option<T>) -> T {
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    let asked = async {
        loop {
            interval.tick().await;
            if let Some(result) = happened() {
                return result;
            }
        }
    };
    timeout(GENEROUS, asked).await.expect("it happens")
}

#[tokio::test]
async fn a_child_gives_its_output_and_its_exit() {
    let output = run(sh("echo out; echo err >&2; exit 3")).await.unwrap();
    let expected = ChildOutput {
        exit: ChildExit::Status(3),
        stdout: b"out\n".to_vec(),
        stderr: b"err\n".to_vec(),
        truncated: false,
    };
    assert_eq!(output, expected);
    assert_eq!(run(sh("kill -9 $$")).await.unwrap().exit, ChildExit::Signal(9));
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_stand() {
    let args = ["-c", "printf '%s|' \"$0\" \"$@\"", "$HOME `id`", "a b", "*"];
    let child = ChildProcess { args: args.map(str::to_owned).to_vec(), ..sh("") };
    assert_eq!(run(child).await.unwrap().stdout, b"$HOME `id`|a b|*|");
}

#[tokio::test]
async fn a_megabyte_goes_in_and_out_at_once() {
    let stdin: Vec<u8> = (0..1024 * 1024u32).map(|n| (n % 251) as u8).collect();
    let child = ChildProcess { stdin: stdin.clone(), output_limit: 2 * stdin.len(), ..sh("cat") };
    let output = run(child).await.unwrap();
    assert!(output.stdout == stdin && !output.truncated);
}

#[tokio::test]
async fn input_that_nobody_reads_is_no_failure() {
    let child = ChildProcess { stdin: vec![0; 1024 * 1024], ..sh("exit 0") };
    assert_eq!(run(child).await.unwrap().exit, ChildExit::Status(0));
}

#[tokio::test]
async fn output_beyond_the_limit_is_read_and_dropped() {
    // The exit status shows that the writers came to their end.
    let script = "head -c 300000 /dev/zero && head -c 300000 /dev/zero >&2 && exit 7";
    let output = run(ChildProcess { output_limit: 1000, ..sh(script) }).await.unwrap();
    assert_eq!((output.exit, output.truncated), (ChildExit::Status(7), true));
    assert_eq!((output.stdout.len(), output.stderr.len()), (1000, 1000));

    let output = run(ChildProcess { output_limit: 3, ..sh("printf abc") }).await.unwrap();
    assert!(!output.truncated, "a limit that is just reached cuts nothing");
}

#[tokio::test]
async fn the_time_limit_ends_the_child_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let limit = STARTED;
    let child = ChildProcess { time_limit: limit, ..family(folder.path(), "true") };
    let error = run(child).await.unwrap_err();
    assert_eq!(error, ChildError::TimedOut { program: "/bin/sh".into(), limit });
    gone(&pids(folder.path()).await).await;
}

#[tokio::test]
async fn a_group_that_is_deaf_to_term_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let child = ChildProcess { time_limit: STARTED, ..family(folder.path(), "trap '' TERM") };
    assert!(matches!(run(child).await, Err(ChildError::TimedOut { .. })));
    gone(&pids(folder.path()).await).await;
}

#[tokio::test]
async fn term_leaves_time_to_tidy_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidied");
    let script = "trap 'echo tidy > \"$FILE\"; exit 0' TERM; while :; do sleep 0.1; done";
    let child = ChildProcess {
        time_limit: STARTED,
        env: BTreeMap::from([("FILE".into(), file.to_str().unwrap().into())]),
        ..sh(script)
    };
    assert!(matches!(run(child).await, Err(ChildError::TimedOut { .. })));
    assert_eq!(fs::read_to_string(file).unwrap(), "tidy\n");
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_ends_its_group() {
    for prelude in ["true", "trap '' TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let started = tokio::select! {
            result = run(family(folder.path(), prelude)) => panic!("{result:?}"),
            started = pids(folder.path()) => started,
        };
        assert_eq!(started.len(), 2);
        gone(&started).await;
    }
}

#[test]
fn a_runtime_that_ends_takes_the_group_with_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let ending = runtime();
    ending.spawn(run(family(&path, "trap '' TERM")));
    let started = ending.block_on(pids(&path));
    drop(ending);
    runtime().block_on(gone(&started));
}

#[tokio::test]
async fn a_process_left_behind_cannot_hold_up_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let child = ChildProcess {
        env: BTreeMap::from([("FILE".into(), file.to_str().unwrap().into())]),
        ..sh("sleep 100000 & echo $! > \"$FILE\"; echo done")
    };
    // A run that waited for the pipes would come to its time limit.
    let output = run(child).await.unwrap();
    assert_eq!((output.exit, &output.stdout[..]), (ChildExit::Status(0), &b"done\n"[..]));
    gone(&[fs::read_to_string(file).unwrap().trim().parse().unwrap()]).await;
}

#[tokio::test]
async fn a_service_that_lets_go_of_the_pipes_is_left_alone() {
    let script = "sleep 100000 <&- >&- 2>&- & echo $!";
    let output = run(sh(script)).await.unwrap();
    let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(!is_gone(pid));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[tokio::test]
async fn nothing_of_the_agents_environment_but_path_is_passed_on() {
    assert!(std::env::vars_os().count() > 1, "there is something to leak");
    let child = ChildProcess {
        program: "/usr/bin/env".into(),
        args: Vec::new(),
        env: BTreeMap::from([("ROOM".into(), "kitchen sink".into())]),
        ..sh("")
    };
    let output = String::from_utf8(run(child).await.unwrap().stdout).unwrap();
    let mut names: Vec<_> = output.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["PATH", "ROOM"]);
    assert!(output.contains("ROOM=kitchen sink\n"));
}

#[tokio::test]
async fn a_child_runs_in_the_root_folder_or_where_it_is_told() {
    assert_eq!(run(sh("pwd")).await.unwrap().stdout, b"/\n");
    let child = ChildProcess { directory: Some("/proc".into()), ..sh("pwd") };
    assert_eq!(run(child).await.unwrap().stdout, b"/proc\n");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let child = ChildProcess { program: "/nowhere/to/be/found".into(), ..sh("") };
    let error = run(child).await.unwrap_err();
    assert!(matches!(error, ChildError::NotStarted { .. }));
    assert!(error.to_string().starts_with("/nowhere/to/be/found could not be started: "), "{error}");
}

fn command(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_restart_command_that_works_means_restarting() {
    let system = LinuxSystem::new().unwrap().reboot_command(command("exit 0"));
    assert_eq!(system.restart(Restart::Reboot).await, Ok(Performed::Restarting));
    let error = system.restart(Restart::FactoryReset).await;
    assert_eq!(error, Err(RestartError::NotConfigured(Restart::FactoryReset)));
}

#[tokio::test]
async fn a_restart_command_that_fails_says_why_within_bounds() {
    let check = async |script: &str, expected: &str| {
        let system = LinuxSystem::new().unwrap().factory_reset_command(command(script));
        let Err(RestartError::Command { kind, reason }) = system.restart(Restart::FactoryReset).await else {
            panic!("{script}")
        };
        assert_eq!((kind, reason.as_str()), (Restart::FactoryReset, expected));
    };
    check("echo not permitted >&2; exit 1", "exit status 1: not permitted").await;
    check("exit 2", "exit status 2").await;
    let long = format!("exit status 1: {}", "x".repeat(RESTART_OUTPUT_LIMIT_BYTES));
    check("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", &long).await;
}

#[tokio::test]
async fn a_dry_run_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ran");
    let system =
        LinuxSystem::new().unwrap().reboot_command(vec!["touch".into(), file.to_str().unwrap().into()]);
    assert_eq!(system.clone().dry_run(true).restart(Restart::Reboot).await, Ok(Performed::Complete));
    assert!(!file.exists());
    assert_eq!(system.restart(Restart::Reboot).await, Ok(Performed::Restarting));
    assert!(file.exists(), "the command would have shown");
}

#[tokio::test]
async fn a_dry_run_of_one_kind_needs_no_command_and_leaves_the_other_kind_alone() {
    let system =
        LinuxSystem::new().unwrap().reboot_command(command("exit 0")).dry_run_of(Restart::FactoryReset, true);
    assert_eq!(system.restart(Restart::FactoryReset).await, Ok(Performed::Complete));
    assert_eq!(system.restart(Restart::Reboot).await, Ok(Performed::Restarting));
}

#[tokio::test]
async fn a_restart_command_that_hangs_is_ended_at_its_own_limit() {
    let system = LinuxSystem::new()
        .unwrap()
        .reboot_command(command("while :; do sleep 1; done"))
        .restart_limit(Restart::Reboot, STARTED);
    let restart = timeout(2 * GENEROUS, system.restart(Restart::Reboot)).await.expect("a restart is bounded");
    let Err(RestartError::Command { reason, .. }) = restart else { panic!("{restart:?}") };
    assert_eq!(reason, "/bin/sh was ended after its limit of 3s");
}

#[test]
fn the_clocks_and_the_boot_id_are_the_kernels() {
    let system = LinuxSystem::new().unwrap();
    // 2024-01-01: this was written later.
    assert!(system.wall_clock() > Duration::from_secs(1_704_067_200));
    let before = system.uptime();
    assert!(before > Duration::ZERO && system.uptime() >= before);
    assert_eq!(system.boot_id().0.len(), 36);
    assert_eq!(LinuxSystem::new().unwrap().boot_id(), system.boot_id());
}

#[tokio::test]
async fn lines_of_standard_error_are_heard_while_the_child_runs() {
    let (heard, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    // It ends only when the first line was heard.
    let script = "echo one >&2; until [ -e \"$GO\" ]; do sleep 0.05; done; printf 'two\nno end' >&2";
    let child = ChildProcess {
        env: BTreeMap::from([("GO".into(), go.to_str().unwrap().into())]),
        lines: Some(LineListener::new(move |line| heard.send(line.to_owned()).unwrap())),
        ..sh(script)
    };
    let listening = async {
        assert_eq!(lines.recv().await.unwrap(), "one");
        fs::write(&go, "").unwrap();
        assert_eq!(lines.recv().await.unwrap(), "two");
    };
    let (output, ()) = tokio::join!(run(child), listening);
    assert_eq!(output.unwrap().stderr, b"one\ntwo\nno end");
}

#[tokio::test]
async fn a_line_without_end_takes_no_more_memory_than_a_line_may_have() {
    let (heard, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let child = ChildProcess {
        output_limit: 10,
        lines: Some(LineListener::new(move |line| heard.send(line.to_owned()).unwrap())),
        ..sh("head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2")
    };
    let output = run(child).await.unwrap();
    assert!(output.truncated);
    let long = lines.recv().await.unwrap();
    assert_eq!(long.len(), LineListener::MAX_LINE_BYTES);
    assert_eq!(lines.recv().await.unwrap(), "last");
}

/// Set where a test runs as a child of another one.
const WITH_GROUPS: &str = "IOTDM_TEST_WITH_GROUPS";

/// What a child finds in the kernel's own words about itself.
const WHO_AM_I: &str = "grep -E '^(Uid|Gid|Groups):' /proc/self/status";

/// Whoever runs this may have no other groups that could be kept by mistake: a process of its own gets some.
#[tokio::test]
#[ignore = "needs root: only root may run a child as another user"]
async fn another_user_has_its_own_group_and_none_of_root_s() {
    assert!(rustix::process::geteuid().is_root(), "run it as root");
    let test = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let inner = "system::tests::a_process_with_groups_runs_a_child_as_another_user";
    let args = ["--groups", "7,8", &test, "--exact", inner, "--include-ignored"];
    let child = ChildProcess {
        args: args.map(str::to_owned).to_vec(),
        env: BTreeMap::from([(WITH_GROUPS.into(), "yes".into())]),
        time_limit: GENEROUS,
        ..ChildProcess::new("setpriv")
    };
    let output = run(child).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.exit == ChildExit::Status(0) && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run as a child process by another test"]
async fn a_process_with_groups_runs_a_child_as_another_user() {
    if std::env::var_os(WITH_GROUPS).is_none() {
        return;
    }
    let own = fs::read_to_string("/proc/self/status").unwrap();
    assert!(own.contains("Groups:\t7 8"), "{own}");
    let child = ChildProcess { user: Some(RunAs { uid: 65534, gid: 65533 }), ..sh(WHO_AM_I) };
    let output = String::from_utf8(run(child).await.unwrap().stdout).unwrap();
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [
            vec!["Uid:", "65534", "65534", "65534", "65534"],
            vec!["Gid:", "65533", "65533", "65533", "65533"],
            vec!["Groups:"],
        ]
    );
}

/// A group of another user must die with it, too: the agent signals as root.
#[tokio::test]
#[ignore = "needs root: only root may run a child as another user"]
async fn the_time_limit_ends_the_child_of_another_user_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    let child = ChildProcess {
        user: Some(RunAs { uid: 65534, gid: 65534 }),
        time_limit: STARTED,
        ..family(folder.path(), "trap '' TERM")
    };
    assert!(matches!(run(child).await, Err(ChildError::TimedOut { .. })));
    gone(&pids(folder.path()).await).await;
}

#[tokio::test]
async fn who_is_not_root_cannot_run_a_child_as_another_user() {
    if rustix::process::geteuid().is_root() {
        return;
    }
    let child = ChildProcess { user: Some(RunAs { uid: 65534, gid: 65534 }), ..sh("true") };
    assert!(matches!(run(child).await, Err(ChildError::NotStarted { .. })));
}
