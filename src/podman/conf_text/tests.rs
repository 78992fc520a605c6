use super::*;

const OURS: &str = "/ours";

fn with(text: &str, base: &[&str]) -> String {
    let base: Vec<String> = base.iter().map(|b| b.to_string()).collect();
    let text = Text::parse("c.conf", text).unwrap();
    text.with(OURS, &base).unwrap()
}

fn without(text: &str, base: &[&str]) -> String {
    let base: Vec<String> = base.iter().map(|b| b.to_string()).collect();
    let text = Text::parse("c.conf", text).unwrap();
    text.without(OURS, &base).unwrap()
}

/// Adds, adds again, removes: each as expected, and the end is the beginning.
fn round_trip(text: &str, expected: &str) {
    let added = with(text, &["/base"]);
    assert_eq!(added, expected);
    assert_eq!(with(&added, &["/base"]), added, "idempotent");
    assert_eq!(without(&added, &["/base"]), text, "symmetric");
    assert_eq!(without(text, &["/base"]), text, "nothing to remove");
}

#[test]
fn items_join_lists_in_the_lists_own_layout() {
    round_trip(
        "[engine]\nhooks_dir = [\"/a\"]\n",
        "[engine]\nhooks_dir = [\"/a\", \"/ours\"]\n",
    );
    round_trip(
        "[engine]\nhooks_dir=[\"/a\",] # c\n",
        "[engine]\nhooks_dir=[\"/a\", \"/ours\",] # c\n",
    );
    round_trip(
        "[engine]\nhooks_dir = []\n",
        "[engine]\nhooks_dir = [\"/ours\"]\n",
    );
    round_trip(
        "[engine]\nhooks_dir = [ # c\n]\n",
        "[engine]\nhooks_dir = [\"/ours\" # c\n]\n",
    );
    round_trip(
        "[engine]\r\nhooks_dir = [\r\n\t'/a', # one, two\r\n\t'/b' # last, really\r\n]\r\n",
        "[engine]\r\nhooks_dir = [\r\n\t'/a', # one, two\r\n\t'/b', # last, really\r\n\t\"/ours\"\r\n]\r\n",
    );
    round_trip(
        "[engine]\nhooks_dir = [\n  \"/a\",\n  \"/b\", # c\n  # end\n]",
        "[engine]\nhooks_dir = [\n  \"/a\",\n  \"/b\", # c\n  \"/ours\",\n  # end\n]",
    );
    round_trip(
        "[engine]\nhooks_dir = [\"/a\",\n  \"/b\"]\n",
        "[engine]\nhooks_dir = [\"/a\",\n  \"/b\", \"/ours\"]\n",
    );
    round_trip(
        "[engine]\nhooks_dir = [\"/a\", {append=true}]\n",
        "[engine]\nhooks_dir = [\"/a\", {append=true}, \"/ours\"]\n",
    );
}

#[test]
fn a_key_goes_where_engine_is() {
    let line = "hooks_dir = [\"/base\", \"/ours\"] # added by terok-shield setup";
    let head = "[engine] # added by terok-shield setup";
    round_trip("", &format!("{head}\n{line}\n"));
    round_trip("# c\n", &format!("# c\n{head}\n{line}\n"));
    round_trip("x = 1", &format!("x = 1\n{head}\n{line}"));
    round_trip(
        "x = 1\r\ny = 2",
        &format!("x = 1\r\ny = 2\r\n{head}\r\n{line}"),
    );
    round_trip("[engine]", &format!("[engine]\n{line}"));
    round_trip(
        "[ engine ] # c\n\na = 1\n[network]\n",
        &format!("[ engine ] # c\n{line}\n\na = 1\n[network]\n"),
    );
    round_trip(
        "[\"engine\"]\r\na = 1\r\n",
        &format!("[\"engine\"]\r\n{line}\r\na = 1\r\n"),
    );
    round_trip(
        "[engine.runtimes]\ncrun = []\n",
        &format!("[engine.runtimes]\ncrun = []\n{head}\n{line}\n"),
    );
    round_trip(
        "\u{feff}engine.runtime = \"crun\"\n[network]\n",
        &format!("\u{feff}engine.{line}\nengine.runtime = \"crun\"\n[network]\n"),
    );
    round_trip("\u{feff}", &format!("\u{feff}{head}\n{line}\n"));
    round_trip(
        "a = 1\nengine = { runtime = \"crun\" } # c\nb = 2",
        "a = 1\nengine = { hooks_dir = [\"/base\", \"/ours\"], runtime = \"crun\" } \
         # added by terok-shield setup # c\nb = 2",
    );
    round_trip(
        "engine = {}",
        "engine = { hooks_dir = [\"/base\", \"/ours\"]} # added by terok-shield setup",
    );
}

#[test]
fn a_string_becomes_a_list_because_podman_refuses_strings() {
    let text = "[engine]\nhooks_dir = '/a' # mine\n";
    let added = with(text, &[]);
    assert_eq!(added, "[engine]\nhooks_dir = ['/a', \"/ours\"] # mine\n");
    assert_eq!(
        without(&added, &[]),
        "[engine]\nhooks_dir = ['/a'] # mine\n"
    );
    let ours = "[engine]\nhooks_dir = \"/ours\"\n";
    assert_eq!(with(ours, &[]), "[engine]\nhooks_dir = [\"/ours\"]\n");
    assert_eq!(without(ours, &[]), "[engine]\nhooks_dir = []\n");
}

#[test]
fn what_the_operator_did_since_is_kept() {
    let added = with("[engine]\n", &["/base"]);
    let grown = added.replace("\"/ours\"]", "\"/ours\", \"/theirs\"]");
    assert_eq!(
        without(&grown, &["/base"]),
        "[engine]\nhooks_dir = [\"/base\", \"/theirs\"] # added by terok-shield setup\n"
    );
    for (list, rest) in [
        ("[\"/ours\", \"/b\"]", "[\"/b\"]"),
        ("[\"/ours\",]", "[]"),
        ("[\"/ours\" ,]", "[]"),
        ("[\"/ours\", # c\n \"/b\"]", "[ # c\n \"/b\"]"),
        ("[\"/a\", \"/ours\", \"/b\"]", "[\"/a\", \"/b\"]"),
        (
            "[\n \"/a\", # a\n \"/ours\", # o\n \"/b\",\n]",
            "[\n \"/a\", # a # o\n \"/b\",\n]",
        ),
        ("[\"/ours\", \"/a\", \"/ours\"]", "[\"/a\"]"),
        ("[\"/a\"\n, \"/ours\"\n]", "[\"/a\"\n\n]"),
    ] {
        let text = format!("[engine]\nhooks_dir = {list}\n");
        assert_eq!(
            without(&text, &[]),
            format!("[engine]\nhooks_dir = {rest}\n"),
            "{list}"
        );
    }
    let added = with("# c\n", &["/base"]) + "runtime = \"crun\"\n";
    assert_eq!(
        without(&added, &["/base"]),
        "# c\n[engine] # added by terok-shield setup\nruntime = \"crun\"\n"
    );
}

#[test]
fn values_are_read() {
    let text = "[engine]\nhooks_dir = ['/a', {append=true}, \"/\\u0062\"]\n\
                network_cmd_options = [\"cidr=10.1.0.0/24\", 5]\n";
    let text = Text::parse("c", text).unwrap();
    let hooks = text.hooks_dir().unwrap();
    assert_eq!(
        (hooks.dirs, hooks.append),
        (vec!["/a".into(), "/b".into()], Some(true))
    );
    assert_eq!(text.network_cmd_options().unwrap(), ["cidr=10.1.0.0/24"]);
    assert_eq!(Text::parse("c", "[network]\n").unwrap().hooks_dir(), None);
}

#[test]
fn what_podman_cannot_read_is_refused_with_its_line() {
    for (text, expected) in [
        ("[engine]\nhooks_dir = [\"/a\"\n[network]\n", "c.conf line "),
        ("[engine]\n[engine]\n", "c.conf line 2: not valid TOML: "),
        ("a = 1\na = 2\n", "c.conf line 2: not valid TOML: "),
        ("[[engine]]\n", "c.conf: engine is no table"),
        ("engine = 5\n", "c.conf: engine is no table"),
        (
            "[engine]\nhooks_dir = 5\n",
            "c.conf: engine.hooks_dir is no list",
        ),
        (
            "[engine]\nhooks_dir = {a = 1}\n",
            "c.conf: engine.hooks_dir is no list",
        ),
    ] {
        let error = Text::parse("c.conf", text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn paths_are_quoted_or_refused() {
    let text = Text::parse("c", "").unwrap();
    let odd = "/a\"b\\c/é";
    let added = text.with(odd, &[]).unwrap();
    assert_eq!(
        Text::parse("c", &added).unwrap().hooks_dir().unwrap().dirs,
        [odd]
    );
    assert!(text.with("/a\nb", &[]).is_err());
}

proptest::proptest! {
    #[test]
    fn any_valid_file_survives_adding_and_removing(
        text in r#"((\[engine\]|\["engine"\]|\[engine\.x\]|\[b\]|engine\.a = 1|engine = \{|hooks_dir = \[|'/a'|"/ours"|,|\]|\}| |#,é|\r?\n|a = 2|é)){0,14}"#,
    ) {
        if let Ok(parsed) = Text::parse("c", &text) {
            let base = ["/base".to_owned()];
            let had = parsed.hooks_dir();
            let added = parsed.with(OURS, &base).unwrap();
            let back = without(&added, &["/base"]);
            if had.is_none_or(|h| !h.dirs.contains(&OURS.to_owned())) {
                proptest::prop_assert_eq!(back, text);
            }
        }
    }
}
