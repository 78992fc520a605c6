//! containers.conf files as they are found on machines: edited, edited again, and given back.

use std::fs;
use std::path::{Path, PathBuf};
use terok_shield::paths::Env;
use terok_shield::podman::conf::{Change, Conf, DEFAULT_HOOKS_DIRS};
use terok_shield::podman::conf_text::Text;
use terok_shield::podman::hooks_dir::{self, Health, Hooks};
use terok_shield::podman::setup::{self, Scope};

const OURS: &str = "/home/u/.local/share/terok/shield/hooks";

fn data(sub: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/containers_conf")
        .join(sub);
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    files
}

/// A file system of our own, with a home.
struct Machine {
    root: PathBuf,
    env: Env,
}

impl Machine {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("shield-conf-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let home = root.join("home/u");
        fs::create_dir_all(&home).unwrap();
        let env = Env {
            root: root.clone(),
            real_root: false,
            home: Some(home),
            shield_state_dir: None,
            shield_config_dir: None,
            xdg_state_home: None,
            xdg_config_home: None,
            xdg_data_home: None,
            xdg_runtime_dir: None,
            containers_conf: None,
            containers_conf_override: None,
            ..Env::of_process()
        };
        Self { root, env }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn conf(&self) -> Conf {
        Conf::load(&self.env).unwrap()
    }

    fn dirs(&self) -> Vec<String> {
        self.conf().hooks_dirs().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

const USER: &str = "home/u/.config/containers/containers.conf";

/// Whether `long` is `short` with bytes put in between.
fn keeps_every_byte(short: &[u8], long: &[u8]) -> bool {
    let mut rest = long.iter();
    short.iter().all(|byte| rest.any(|b| b == byte))
}

#[test]
fn real_files_are_edited_and_given_back_to_the_byte() {
    let files = data("");
    assert!(files.len() >= 15, "{}", files.len());
    for file in files {
        let name = file.display().to_string();
        let original = fs::read(&file).unwrap();
        let machine = Machine::new("corpus");
        let path = machine.put(USER, &original);
        let before = machine.dirs();

        let change = machine.conf().register(Path::new(OURS)).unwrap();
        assert_eq!(change, Change::Edited(path.clone()), "{name}");
        let edited = fs::read(&path).unwrap();
        assert!(keeps_every_byte(&original, &edited), "{name}");
        let mut expected = before.clone();
        expected.push(OURS.into());
        assert_eq!(
            machine.dirs(),
            expected,
            "{name}: the others are kept, in order"
        );

        let change = machine.conf().register(Path::new(OURS)).unwrap();
        assert_eq!(change, Change::Unchanged(path.clone()), "{name}");
        assert_eq!(fs::read(&path).unwrap(), edited, "{name}: idempotent");

        // A second directory comes and goes without touching the first.
        machine.conf().register(Path::new("/second")).unwrap();
        assert_eq!(machine.dirs().len(), before.len() + 2, "{name}");
        machine.conf().unregister(Path::new("/second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), edited, "{name}: re-edited");

        machine.conf().unregister(Path::new(OURS)).unwrap();
        let after = fs::read(&path).unwrap();
        if name.contains("hooks-dir-string") {
            // podman refuses to start with a string; the list stays.
            assert_eq!(machine.dirs(), before, "{name}");
            assert!(keeps_every_byte(&original, &after), "{name}");
        } else {
            assert_eq!(after, original, "{name}: symmetric");
        }
    }
}

#[test]
fn files_podman_cannot_read_are_refused_untouched() {
    let files = data("invalid");
    assert!(files.len() >= 5);
    for file in files {
        let original = fs::read(&file).unwrap();
        let machine = Machine::new("invalid");
        let path = machine.put(USER, &original);
        let error = Conf::load(&machine.env)
            .and_then(|mut conf| conf.register(Path::new(OURS)))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("containers.conf"),
            "{}: {error}",
            file.display()
        );
        assert!(!error.contains('\n'), "{error}");
        let error = setup::install(&machine.env, Scope::User, Path::new("/bin/true"));
        assert!(error.is_err(), "{}", file.display());
        assert_eq!(fs::read(&path).unwrap(), original, "{}", file.display());
        assert!(
            !machine.path("home/u/.local/share/terok").exists(),
            "{}: no half setup",
            file.display()
        );
    }
}

#[test]
fn without_any_file_the_defaults_are_kept_and_the_file_goes_with_us() {
    let machine = Machine::new("none");
    assert_eq!(machine.dirs(), DEFAULT_HOOKS_DIRS);
    let path = machine.path(USER);
    machine.conf().register(Path::new(OURS)).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!(
            "# created by terok-shield setup\n[engine] # added by terok-shield setup\n\
             hooks_dir = [\"/usr/share/containers/oci/hooks.d\", \
             \"/etc/containers/oci/hooks.d\", \"{OURS}\"] # added by terok-shield setup\n"
        )
    );
    let changes = machine.conf().unregister(Path::new(OURS)).unwrap();
    assert_eq!(changes, [Change::Removed(path.clone())]);
    assert!(!path.exists());
}

#[test]
fn files_are_read_in_podmans_order() {
    let list = |dir: &str| format!("[engine]\nhooks_dir = [\"{dir}\"]\n");
    let mut machine = Machine::new("order");
    machine.put("usr/share/containers/containers.conf", list("/share"));
    assert_eq!(machine.dirs(), ["/share"]);
    machine.put("etc/containers/containers.conf", list("/etc"));
    assert_eq!(machine.dirs(), ["/etc"]);
    machine.put("etc/containers/containers.conf.d/20-b.conf", list("/b"));
    machine.put("etc/containers/containers.conf.d/10-a.conf", list("/a"));
    machine.put("etc/containers/containers.conf.d/99.conf.bak", "[broken");
    assert_eq!(machine.dirs(), ["/b"]);
    machine.put(USER, list("/user"));
    assert_eq!(machine.dirs(), ["/user"]);
    machine.put(
        "home/u/.config/containers/containers.conf.d/x.conf",
        "[engine]\nhooks_dir = [\"/more\", {append=true}]\n",
    );
    assert_eq!(machine.dirs(), ["/user", "/more"]);
    let user = machine.env.clone();
    machine.env.real_root = true;
    assert_eq!(
        machine.dirs(),
        ["/b"],
        "root's podman reads no user's files"
    );
    machine.env = user;
    let extra = machine.put("extra.conf", list("/extra"));
    machine.env.containers_conf_override = Some(extra.clone().into());
    assert_eq!(
        machine.dirs(),
        ["/user", "/more", "/extra"],
        "append stays in force"
    );
    machine.env.containers_conf = Some(machine.put("only.conf", list("/only")).into());
    machine.env.containers_conf_override = None;
    assert_eq!(machine.dirs(), ["/only"]);
    machine.env.containers_conf = Some("/nonexistent/c.conf".into());
    let error = Conf::load(&machine.env).unwrap_err().to_string();
    assert!(
        error.starts_with("CONTAINERS_CONF names /nonexistent/c.conf"),
        "{error}"
    );
}

#[test]
fn the_file_that_wins_is_the_one_edited() {
    let machine = Machine::new("wins");
    let system = "[engine]\nhooks_dir = [\"/site\"]\n";
    let system_path = machine.put("etc/containers/containers.conf", system);
    machine.put(USER, "[containers]\n");
    let drop_in = "[engine]\nhooks_dir = [\"/drop\"]\n";
    let path = machine.put(
        "home/u/.config/containers/containers.conf.d/50.conf",
        drop_in,
    );
    let change = machine.conf().register(Path::new(OURS)).unwrap();
    assert_eq!(change, Change::Edited(path.clone()));
    assert_eq!(machine.dirs(), ["/drop", OURS]);
    machine.conf().unregister(Path::new(OURS)).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), drop_in);

    fs::remove_file(&path).unwrap();
    machine.conf().register(Path::new(OURS)).unwrap();
    assert_eq!(
        machine.dirs(),
        ["/site", OURS],
        "root's list is repeated, not lost"
    );
    assert_eq!(
        fs::read_to_string(&system_path).unwrap(),
        system,
        "and not touched"
    );
    machine.conf().unregister(Path::new(OURS)).unwrap();
    assert_eq!(
        fs::read_to_string(machine.path(USER)).unwrap(),
        "[containers]\n"
    );
}

#[test]
fn links_modes_and_slirp_options_are_respected() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let machine = Machine::new("links");
    let text = "[engine]\nnetwork_cmd_options = [\"cidr=10.4.0.0/24\"]\n";
    let real = machine.put("dotfiles/containers.conf", text);
    fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    let link = machine.path(USER);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(&real, &link).unwrap();
    machine.conf().register(Path::new(OURS)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains(OURS));
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    assert_eq!(
        machine.conf().network_cmd_options().unwrap(),
        ["cidr=10.4.0.0/24"]
    );
}

#[test]
fn podmans_own_file_reads_as_it_says() {
    let text = fs::read_to_string(&data("")[0]).unwrap();
    let parsed = Text::parse("containers.conf", &text).unwrap();
    assert_eq!(parsed.hooks_dir(), None, "all of it is commented out");
}

#[test]
fn descriptors_are_the_same_to_the_byte() {
    assert_eq!(
        hooks_dir::descriptor(Path::new("/h\"o"), "nft-hook", "createRuntime").unwrap(),
        "{\"version\":\"1.0.0\",\"hook\":{\"path\":\"/h\\\"o/terok-shield\",\
         \"args\":[\"nft-hook\",\"createRuntime\"]},\"when\":{\"annotations\":\
         {\"^terok\\\\.shield\\\\.profiles$\":\".*\"}},\"stages\":[\"createRuntime\"]}\n"
    );
    assert!(hooks_dir::descriptor(Path::new("/a\nb"), "x", "y").is_err());
}

/// A user's machine with the shield set up from a stand-in binary.
fn set_up(test: &str) -> (Machine, PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new(test);
    let binary = machine.put("bin/terok-shield", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
    setup::install(&machine.env, Scope::User, &binary).unwrap();
    let dir = setup::hooks_dir(&machine.env).unwrap();
    (machine, binary, dir)
}

#[test]
fn setup_is_idempotent_and_symmetric() {
    let (machine, binary, dir) = set_up("setup");
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "terok-shield",
            "terok-shield-bridge-createRuntime.json",
            "terok-shield-bridge-poststop.json",
            "terok-shield-createRuntime.json",
            "terok-shield-poststop.json",
        ]
    );
    let check = hooks_dir::check(&machine.env, &dir, &binary).unwrap();
    assert_eq!((check.health, check.problem), (Health::Ok, None));

    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&dir.join("terok-shield"));
    let said = setup::install(&machine.env, Scope::User, &binary).unwrap();
    assert!(said[0].starts_with("Hooks are current in "), "{said:?}");
    assert!(said[1].starts_with("Already registered in "), "{said:?}");
    assert_eq!(inode(&dir.join("terok-shield")), before);
    // Setup run from the installed copy itself.
    setup::install(&machine.env, Scope::User, &dir.join("terok-shield")).unwrap();

    let said = setup::uninstall(&machine.env).unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(!dir.exists() && !machine.path(USER).exists());
    assert_eq!(
        setup::uninstall(&machine.env).unwrap(),
        ["Nothing was installed"]
    );
    let check = hooks_dir::check(&machine.env, &dir, &binary).unwrap();
    assert_eq!(
        (check.hooks, check.health),
        (Hooks::NotInstalled, Health::SetupNeeded)
    );
    assert!(
        check
            .require()
            .unwrap_err()
            .to_string()
            .contains("terok-shield setup")
    );
}

#[test]
fn every_broken_link_of_the_chain_is_seen() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    type Break = fn(&Machine, &Path);
    let breaks: [(&str, Break, &str); 9] = [
        (
            "missing binary",
            |_, d| fs::remove_file(d.join("terok-shield")).unwrap(),
            "cannot be executed",
        ),
        (
            "not executable",
            |_, d| {
                fs::set_permissions(d.join("terok-shield"), PermissionsExt::from_mode(0o644))
                    .unwrap();
            },
            "cannot be executed",
        ),
        (
            "other binary",
            |_, d| fs::write(d.join("terok-shield"), "#!/bin/sh\nexit 1\n").unwrap(),
            "not the one that is running now",
        ),
        (
            "writable binary",
            |_, d| {
                fs::set_permissions(d.join("terok-shield"), PermissionsExt::from_mode(0o757))
                    .unwrap();
            },
            "can write to terok-shield",
        ),
        (
            "missing descriptor",
            |_, d| fs::remove_file(d.join("terok-shield-poststop.json")).unwrap(),
            "terok-shield-poststop.json is missing",
        ),
        (
            "edited descriptor",
            |_, d| fs::write(d.join("terok-shield-createRuntime.json"), "{}").unwrap(),
            "not what this version installs",
        ),
        (
            "linked descriptor",
            |_, d| {
                fs::remove_file(d.join("terok-shield-createRuntime.json")).unwrap();
                symlink("/dev/null", d.join("terok-shield-createRuntime.json")).unwrap();
            },
            "symbolic link",
        ),
        (
            "writable directory",
            |_, d| {
                fs::set_permissions(d, PermissionsExt::from_mode(0o777)).unwrap();
            },
            "others than its owner can write to the directory",
        ),
        (
            "masked",
            |m, _| {
                let later = m.path("later");
                m.put("later/terok-shield-createRuntime.json", "{}");
                m.conf().register(&later).unwrap();
            },
            "takes their place",
        ),
    ];
    for (what, damage, expected) in breaks {
        let (machine, binary, dir) = set_up("chain");
        damage(&machine, &dir);
        let check = hooks_dir::check(&machine.env, &dir, &binary).unwrap();
        assert_eq!(check.health, Health::StaleHooks, "{what}");
        let problem = check.problem.unwrap();
        assert!(problem.contains(expected), "{what}: {problem}");
        assert!(
            problem.ends_with("run: terok-shield setup"),
            "{what}: {problem}"
        );
        if what != "masked" && what != "writable directory" {
            setup::install(&machine.env, Scope::User, &binary).unwrap();
            let check = hooks_dir::check(&machine.env, &dir, &binary).unwrap();
            assert_eq!(check.problem, None, "{what}: setup mends it");
        }
    }
}

#[test]
fn root_and_user_are_chosen_by_who_asks() {
    let machine = Machine::new("scope");
    let mut root = machine.env.clone();
    root.real_root = true;
    assert_eq!(
        Scope::choose(&machine.env, false, false).unwrap(),
        Scope::User
    );
    assert_eq!(
        Scope::choose(&machine.env, false, true).unwrap(),
        Scope::User
    );
    assert_eq!(Scope::choose(&root, false, false).unwrap(), Scope::Root);
    assert_eq!(Scope::choose(&root, true, false).unwrap(), Scope::Root);
    assert!(Scope::choose(&machine.env, true, false).is_err());
    assert!(Scope::choose(&root, false, true).is_err());
    assert_eq!(Scope::choose(&root, true, true).unwrap_err().exit_code(), 2);
}
