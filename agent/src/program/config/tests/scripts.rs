//! Declarations of scripts, in the main file and in a folder of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use iotdm_core::{Code, Interrupted};
use iotdm_handlers::scripts::{Parameter, ParameterKind, Pattern};

use super::{Place, with_device};

const SCRIPT: &str = "bundle = \"b\"\naction = \"a\"\nprogram = \"sh\"\n";

/// A configuration that names `scripts.d`, and the files in it.
fn folder(files: &[(&str, &str)]) -> Place {
    let place = Place::with(&with_device("[actions]\nscripts_dir = \"scripts.d\"\n"));
    fs::create_dir(place.path("scripts.d")).unwrap();
    fs::set_permissions(place.path("scripts.d"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text) in files {
        place.write(&format!("scripts.d/{name}"), text, 0o644);
    }
    place
}

/// The only mistake of a file of the folder.
#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(folder(&[("a.toml", text)]).load().unwrap_err(), expected, "{text}");
}

#[track_caller]
fn check_parameter(keys: &str, expected: &str) {
    let text = format!("[[script]]\n{SCRIPT}[[script.parameter]]\nname = \"n\"\n{keys}");
    check(&text, &format!("scripts.d/a.toml:{expected}"));
}

#[test]
fn every_key_of_a_declaration_is_taken() {
    let text = "[[script]]\nbundle = \"lamp\"\naction = \"dim\"\ntitle = \"Dim\"\ndescription = \"Dims.\"\n\
        program = \"./dim\"\nargs = [\"{percent}\", \"{{x}}\"]\ndirectory = \"work\"\n\
        env = { ROOM = \"hall\" }\npass_env = [\"LANG\", \"NOT_SET\"]\ntime_limit = \"2m\"\noutput_limit = 10\n\
        exit = { 3 = 409, 4 = 400 }\ninterrupted = \"run-again\"\nlate = { refuse_after = \"15m\" }\n\
        parameter = [\n  { name = \"percent\", type = \"integer\", min = 0, max = 100 },\n\
        { name = \"fade\", type = \"number\", max = 60, default = 1.5 },\n\
        { name = \"on\", type = \"boolean\", required = false },\n\
        { name = \"room\", type = \"string\", min_length = 1, pattern = \"[a-z]+\", leading_hyphen = true },\n\
        { name = \"curve\", type = \"enum\", values = [\"linear\", \"log\"] },\n]\n";
    let place =
        folder(&[("lamp.toml", text), (".hidden.toml", "x"), ("lamp.toml.bak", "x"), ("README", "x")])
            .variable("LANG", "C");
    let settings = place.load().unwrap();
    let [spec] = &settings.actions.scripts[..] else { panic!("{:?}", settings.actions.scripts) };
    assert_eq!((spec.title.as_deref(), spec.description.as_deref()), (Some("Dim"), Some("Dims.")));
    assert_eq!(spec.program, place.path("scripts.d/./dim"));
    assert_eq!(spec.args, ["{percent}", "{{x}}"]);
    assert_eq!(spec.directory, Some(place.path("scripts.d/work")));
    assert_eq!(spec.env, [("LANG", "C"), ("ROOM", "hall")].map(|(a, b)| (a.into(), b.into())).into());
    assert_eq!((spec.time_limit.as_secs(), spec.output_limit), (120, 10));
    assert_eq!(spec.exit, [(3, Code::CONFLICT), (4, Code::BAD_REQUEST)].into());
    assert_eq!(spec.interrupted, Interrupted::RunAgain);
    let room = ParameterKind::Text {
        min_length: 1,
        max_length: ParameterKind::DEFAULT_MAX_LENGTH,
        pattern: Some(Pattern::new("[a-z]+").unwrap()),
    };
    assert_eq!(
        spec.parameters.as_deref().unwrap(),
        [
            Parameter::new("percent", ParameterKind::Integer { min: 0, max: 100 }),
            Parameter::new("fade", ParameterKind::Number { min: f64::MIN, max: 60.0 }).default(1.5),
            Parameter::new("on", ParameterKind::Boolean).optional(),
            Parameter { leading_hyphen: true, ..Parameter::new("room", room) },
            Parameter::new("curve", ParameterKind::Choice(vec!["linear".into(), "log".into()])),
        ]
    );
}

/// They are shown to operators, and cannot rot.
#[test]
fn the_declarations_of_the_examples_are_good() {
    let place = folder(&[
        ("dim.toml", include_str!("../../../../../examples/scripts/dim.toml")),
        ("pair.toml", include_str!("../../../../../examples/scripts/pair.toml")),
    ]);
    let settings = place.load().unwrap();
    let actions: Vec<&str> = settings.actions.scripts.iter().map(|spec| spec.action.as_str()).collect();
    assert_eq!(actions, ["dim", "pair"]);
}

#[test]
fn scripts_of_the_main_file_come_first_and_then_those_of_the_folder_by_name() {
    let script =
        |action: &str| format!("[[script]]\nbundle = \"b\"\naction = \"{action}\"\nprogram = \"sh\"\n");
    let place = folder(&[("z.toml", &script("last")), ("a.toml", &(script("first") + &script("second")))]);
    let main = format!("[actions]\nscripts_dir = \"scripts.d\"\n[[actions.script]]\n{SCRIPT}");
    place.write("agent.toml", with_device(&main), 0o644);
    let settings = place.load().unwrap();
    let actions: Vec<&str> = settings.actions.scripts.iter().map(|spec| spec.action.as_str()).collect();
    assert_eq!(actions, ["a", "first", "second", "last"]);
}

#[test]
fn a_mistake_in_the_folder_has_its_file_line_and_column() {
    check(
        "",
        "scripts.d/a.toml: is empty; it needs at least one [[script]] section with bundle, action and program, or another name than *.toml",
    );
    check("x", "scripts.d/a.toml:1:2: is not TOML here: key with no value, expected `=`");
    check("[[scripts]]\n", "scripts.d/a.toml:1:3: scripts: is not a known key; did you mean `script`?");
    check(
        "[script]\nbundle = \"b\"\n",
        "scripts.d/a.toml:1:1: script: there may be several; write [[script]], with two brackets on each side",
    );
    check(
        &format!("[[script]]\n{SCRIPT}budget = \"3s\"\n"),
        "scripts.d/a.toml:5:1: script[0].budget: is not a known key; [script[0]] has bundle, action, title, description, \
         program, args, parameter, directory, user, env, pass_env, time_limit, output_limit, exit, interrupted, late",
    );
    check(
        "[[script]]\nbundle = \"b\"\naction = \"a/b\"\nprogram = \"sh\"\n",
        "scripts.d/a.toml:3:10: script[0].action: \"a/b\" is no id; write 1 to 255 characters of a-z A-Z 0-9 - _ .",
    );
}

#[test]
fn two_declarations_of_one_action_name_both_places() {
    let script = format!("[[script]]\n{SCRIPT}");
    let place = folder(&[("a.toml", &script), ("b.toml", &script)]);
    assert_eq!(
        place.load().unwrap_err(),
        "scripts.d/b.toml:3:10: script[0].action: b/a has a script already at scripts.d/a.toml:3:10; keep one of the two"
    );
    let main = format!("[actions]\nscripts_dir = \"scripts.d\"\n[[actions.script]]\n{SCRIPT}");
    let place = folder(&[("a.toml", &script)]);
    place.write("agent.toml", with_device(&main), 0o644);
    assert_eq!(
        place.load().unwrap_err(),
        "scripts.d/a.toml:3:10: script[0].action: b/a has a script already at agent.toml:9:10; keep one of the two"
    );
}

#[test]
fn what_others_can_change_is_refused_with_the_command_that_mends_it() {
    let place = folder(&[("a.toml", &format!("[[script]]\n{SCRIPT}"))]);
    let mode = |name: &str, mode| {
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("scripts.d/a.toml", 0o664);
    assert_eq!(
        place.load().unwrap_err(),
        "scripts.d/a.toml: scripts.d/a.toml can be changed by others than its owner (mode 0664); run: chmod go-w \
         scripts.d/a.toml"
    );
    mode("scripts.d/a.toml", 0o600);
    assert!(place.load().is_ok());
    mode("scripts.d", 0o1777);
    assert_eq!(
        place.load().unwrap_err(),
        "agent.toml:6:15: actions.scripts_dir: scripts.d can be changed by others than its owner (mode 1777); run: chmod \
         go-w scripts.d"
    );
}

#[test]
fn a_program_that_others_can_change_is_refused_and_one_that_is_not_there_is_warned_of() {
    let place = folder(&[("a.toml", "[[script]]\nbundle = \"b\"\naction = \"a\"\nprogram = \"./a.sh\"\n")]);
    let warnings = place.load().unwrap().warnings;
    assert!(
        warnings.iter().any(|warning| warning.ends_with("scripts.d/./a.sh is not there")),
        "{warnings:?}"
    );
    place.write("scripts.d/a.sh", "", 0o775);
    assert_eq!(
        place.load().unwrap_err(),
        "scripts.d/a.toml:4:11: script[0].program: scripts.d/./a.sh can be changed by others than its owner (mode 0775); \
         run: chmod go-w scripts.d/./a.sh"
    );
    place.write("scripts.d/a.sh", "", 0o755);
    assert!(place.load().is_ok());
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = folder(&[("a.toml", &format!("[[script]]\n{SCRIPT}"))]);
    std::os::unix::fs::chown(place.path("scripts.d/a.toml"), Some(65534), None).unwrap();
    assert_eq!(
        place.load().unwrap_err(),
        "scripts.d/a.toml: scripts.d/a.toml belongs to user 65534, who could change it; run: chown 0 scripts.d/a.toml"
    );
}

#[test]
fn a_folder_that_is_not_there_or_is_none() {
    let text = with_device("[actions]\nscripts_dir = \"scripts.d\"\n");
    let place = Place::with(&text);
    assert_eq!(
        place.load().unwrap_err(),
        "agent.toml:6:15: actions.scripts_dir: scripts.d cannot be read: No such file or directory (os error 2); create \
         the folder, or leave the key out"
    );
    place.write("scripts.d", "", 0o644);
    assert_eq!(
        place.load().unwrap_err(),
        "agent.toml:6:15: actions.scripts_dir: scripts.d is no folder; name the one that has the declarations"
    );
}

#[test]
fn parameters_say_what_is_wrong_with_them() {
    check_parameter(
        "",
        "5:1: script[0].parameter[0].type: is missing; add one of \"integer\", \"number\", \"boolean\", \"string\" and \"enum\"",
    );
    check_parameter(
        "type = \"int\"\n",
        "7:8: script[0].parameter[0].type: \"int\" is not one of the choices; write \"integer\" or \"number\" or \"boolean\" or \"string\" or \"enum\"",
    );
    check_parameter(
        "type = \"boolean\"\nmin = 1\n",
        "8:7: script[0].parameter[0].min: is of no use with type = \"boolean\"; remove it",
    );
    check_parameter(
        "type = \"integer\"\nmin = 0.5\n",
        "8:7: script[0].parameter[0].min: 0.5 is no whole number; write one, or type = \"number\"",
    );
    check_parameter(
        "type = \"integer\"\nmin = 2\nmax = 1\n",
        "8:7: script[0].parameter[0].min: has an empty range; min is at most max",
    );
    check_parameter(
        "type = \"string\"\npattern = \"(\"\n",
        "8:11: script[0].parameter[0].pattern: is no regular expression: found open group without closing ')'",
    );
    check_parameter(
        "type = \"enum\"\n",
        "5:1: script[0].parameter[0].values: needs 1 to 256 different values without control characters",
    );
    check_parameter(
        "type = \"integer\"\ndefault = \"x\"\nmax = 5\n",
        "8:11: script[0].parameter[0].default: has a default that has another type; write a whole number from -9007199254740991 to 5",
    );
    check_parameter(
        "type = \"boolean\"\ndefault = true\nrequired = true\n",
        "8:11: script[0].parameter[0].default: is required and has a default; keep one of the two",
    );
    check_parameter(
        "type = \"boolean\"\ndefault = []\n",
        "8:11: script[0].parameter[0].default: is no value of a parameter; write a text, a number, true or false",
    );
}

#[test]
fn what_joins_the_keys_of_a_script_is_placed_where_it_stands() {
    let with = |keys: &str| format!("[[script]]\n{SCRIPT}{keys}");
    check(
        &with("args = [\"-x\", \"{level}\"]\n"),
        "scripts.d/a.toml:5:15: script[0].args[1]: {level} in an argument is no declared parameter; declare it, or write \
         {{level}} for this text",
    );
    check(
        &with("args = [\"{n}\"]\nparameter = [{ name = \"n\", type = \"boolean\", required = false }]\n"),
        "scripts.d/a.toml:5:9: script[0].args[0]: {n} in an argument may be missing; make the parameter required, or give \
         it a default",
    );
    check(
        &with("exit = { 3 = 202 }\n"),
        "scripts.d/a.toml:5:14: script[0].exit.3: exit status 3 cannot become 202; write 200, 400, 409, 500 or 501",
    );
    check(
        &with("exit = { 0 = 409 }\n"),
        "scripts.d/a.toml:5:14: script[0].exit.0: 0 is no exit status that can be given a meaning; write 1 to 255",
    );
    check(
        &with("exit = { busy = 409 }\n"),
        "scripts.d/a.toml:5:17: script[0].exit.busy: is no exit status; write exit = { 3 = 409 } with a status from 1 to \
         255",
    );
    check(
        &with("user = \"nobody-of-this-name\"\n"),
        "scripts.d/a.toml:5:8: script[0].user: /etc/passwd has no user \"nobody-of-this-name\"; add one, such as: useradd \
         --system nobody-of-this-name",
    );
    check(
        &with("user = -1\n"),
        "scripts.d/a.toml:5:8: script[0].user: -1 is no user's number; write 0 or more",
    );
}

#[test]
fn the_device_s_secrets_are_passed_to_no_script() {
    for name in ["IOTDM_TOKEN", "CREDENTIALS_DIRECTORY"] {
        let main = format!(
            "[auth]\ntoken_env = \"IOTDM_TOKEN\"\n[[actions.script]]\n{SCRIPT}pass_env = [\"HOME\", \"{name}\"]\n"
        );
        let place = Place::with(&with_device(&main)).variable("IOTDM_TOKEN", "t0k3n").variable("HOME", "/");
        assert_eq!(
            place.load().unwrap_err(),
            format!(
                "agent.toml:11:21: actions.script[0].pass_env[1]: {name} leads to the device's secrets, which no script \
                 gets; remove it"
            )
        );
        // In a file of the folder as well.
        let place = folder(&[("a.toml", &format!("[[script]]\n{SCRIPT}pass_env = [\"{name}\"]\n"))]);
        let main = "[auth]\ntoken_env = \"IOTDM_TOKEN\"\n[actions]\nscripts_dir = \"scripts.d\"\n";
        place.write("agent.toml", with_device(main), 0o644);
        let error = place.variable("IOTDM_TOKEN", "t0k3n").load().unwrap_err();
        assert!(error.starts_with("scripts.d/a.toml:5:13: script[0].pass_env[0]: "), "{error}");
    }
}

#[test]
fn what_keeps_a_script_from_running_is_warned_of_with_its_file() {
    let declare = |keys: &str| format!("[[script]]\nbundle = \"b\"\naction = \"a\"\n{keys}");
    for (keys, expected) in [
        ("program = \"./a.sh\"\n", "script[0].program: the program scripts.d/./a.sh is not there"),
        (
            "program = \"a.sh\"\n",
            "script[0].program: the program a.sh is not in PATH; one beside this file is written with ./",
        ),
        (
            "program = \"./a.toml\"\n",
            "script[0].program: the program scripts.d/./a.toml may be executed by nobody; run chmod +x on it",
        ),
        (
            "program = \"/bin/sh\"\ndirectory = \"work\"\n",
            "script[0].directory: the folder scripts.d/work is not there",
        ),
    ] {
        let place = folder(&[("a.toml", &declare(keys))]);
        let home = format!("{}/", place.path("").display()).replace("//", "/");
        let warnings = place.load().unwrap().warnings;
        let warnings: Vec<String> = warnings.iter().map(|warning| warning.replace(&home, "")).collect();
        let expected = format!("scripts.d/a.toml: {expected}");
        assert!(warnings.iter().any(|warning| warning.starts_with(&expected)), "{expected}: {warnings:?}");
    }
    check(
        &declare("program = \"./\"\n"),
        "scripts.d/a.toml:4:11: script[0].program: scripts.d/./ is a folder; name the program in it",
    );
}
