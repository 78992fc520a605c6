//! The dossier: the orchestrator's identity fields, passed through to every event.
//!
//! The fixed part comes with the container's annotations; the rest from a JSON file the
//! orchestrator rewrites at will, which is looked at for every event and read when it changed.
//! An image can carry annotations, too: every text is sanitised and the whole is bounded.

use crate::contract::{annotation, file};
use crate::files::{self, Dir};
use crate::json::{self, Object};
use miniserde::json::Value;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

/// Most bytes of dossier in an event: a line has to stay under 64 KiB.
pub const MAX_JSON: usize = 32 * 1024;
/// Most bytes of the orchestrator's file.
const MAX_FILE: usize = 256 * 1024;
const META_PATH: &str = "meta_path";

type Fields = BTreeMap<String, String>;

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: i64,
    modified: (i64, i64),
}

/// The dossier of one container.
#[derive(Debug, Default)]
pub struct Dossier {
    fixed: Fields,
    path: Option<PathBuf>,
    stamp: Option<Stamp>,
    json: String,
}

/// The `dossier.` annotations of a JSON object of annotations, prefix stripped, bounded.
pub fn fields_of(annotations: &Value) -> Fields {
    let Value::Object(object) = annotations else {
        return Fields::new();
    };
    fields_among(object.iter().filter_map(|(key, value)| match value {
        Value::String(value) => Some((key.as_str(), value.as_str())),
        _ => None,
    }))
}

/// The same of annotations as pairs.
pub fn fields_among<'a>(annotations: impl Iterator<Item = (&'a str, &'a str)>) -> Fields {
    let mut fields = Fields::new();
    let mut room = MAX_JSON;
    for (key, value) in annotations {
        if let Some(key) = key.strip_prefix(annotation::DOSSIER_PREFIX) {
            take(&mut fields, key, value, &mut room);
        }
    }
    fields
}

/// Adds a field while there is room; `room` counts what it costs as JSON.
fn take(fields: &mut Fields, key: &str, value: &str, room: &mut usize) {
    // Twice the limit: every character might need an escape.
    let cost = 2 * (key.len().min(256) + value.len().min(256)) + 6;
    if key != META_PATH && !key.is_empty() && cost <= *room {
        *room -= cost;
        let clean = crate::sanitize::text;
        fields.insert(clean(key), clean(value));
    }
}

/// The annotations the reader wants, as a JSON object for its command line.
pub fn annotations_json(fields: &Fields, audit_enabled: Option<&str>) -> String {
    let mut out = String::new();
    let mut object = Object::open(&mut out);
    object.some_text(annotation::AUDIT_ENABLED, audit_enabled);
    for (key, value) in fields {
        object.text(&format!("{}{key}", annotation::DOSSIER_PREFIX), value);
    }
    object.close();
    out
}

impl Dossier {
    /// The dossier of a bundle, whose `meta_path` names the orchestrator's file.
    pub fn new(dir: &Dir, fixed: Fields) -> Self {
        let path = dir
            .read_text(file::META_PATH, 4096)
            .ok()
            .flatten()
            .map(|text| PathBuf::from(text.trim_end_matches('\n')))
            .filter(|path| path.is_absolute());
        let mut dossier = Self {
            fixed,
            path,
            ..Self::default()
        };
        dossier.render(Fields::new());
        dossier.refresh();
        dossier
    }

    /// Takes in what the orchestrator wrote since the last call.
    pub fn refresh(&mut self) {
        let stamp = self.path.as_ref().and_then(|p| rustix::fs::lstat(p).ok());
        let stamp = stamp.map(|s| Stamp {
            inode: (s.st_dev, s.st_ino),
            size: s.st_size,
            modified: (s.st_mtime, s.st_mtime_nsec as i64),
        });
        if stamp != self.stamp {
            self.stamp = stamp;
            let meta = self.read_meta().unwrap_or_default();
            self.render(meta);
        }
    }

    /// The dossier as a JSON object, as of the last refresh.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Whether there are no fields at all.
    pub fn is_empty(&self) -> bool {
        self.json == "{}"
    }

    /// Reads the orchestrator's file; whatever is wrong with it, the event goes out without.
    fn read_meta(&self) -> Option<Fields> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path.as_ref()?, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        // An image may name any file: only a regular one of our own user's is the orchestrator's.
        let own = stat.st_uid == rustix::process::geteuid().as_raw() || stat.st_uid == 0;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !own {
            return None;
        }
        let bytes = files::read_bounded(File::from(fd), MAX_FILE, "the dossier's file").ok()?;
        let text = std::str::from_utf8(&bytes).ok()?;
        let Ok(Value::Object(object)) = miniserde::json::from_str(text) else {
            return None;
        };
        let mut fields = Fields::new();
        let mut room = MAX_JSON;
        for (key, value) in &object {
            let key = key.strip_prefix(annotation::DOSSIER_PREFIX).unwrap_or(key);
            if let Value::String(value) = value {
                take(&mut fields, key, value, &mut room);
            }
        }
        Some(fields)
    }

    /// The file's fields win over the annotations': they are the fresher ones.
    fn render(&mut self, meta: Fields) {
        let mut all = self.fixed.clone();
        all.extend(meta);
        let mut json = String::new();
        let mut object = Object::open(&mut json);
        let mut room = MAX_JSON;
        for (key, value) in &all {
            let mut field = String::new();
            json::push_text(&mut field, value);
            let cost = field.len() + 2 * key.len() + 4;
            if cost <= room {
                room -= cost;
                object.raw(key, &field);
            }
        }
        object.close();
        self.json = json;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> (PathBuf, Dir) {
        let path =
            std::env::temp_dir().join(format!("shield-dossier-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        (path.clone(), Dir::create(&path).unwrap())
    }

    fn now(dossier: &mut Dossier) -> &str {
        dossier.refresh();
        dossier.json()
    }

    fn fields(json: &str) -> Fields {
        fields_of(&miniserde::json::from_str(json).unwrap())
    }

    #[test]
    fn annotations_give_the_fixed_part_and_the_file_the_rest() {
        let (path, dir) = temp("parts");
        let meta = path.join("meta.json");
        dir.write(file::META_PATH, format!("{}\n", meta.display()).as_bytes())
            .unwrap();
        let fixed = fields(
            r#"{"dossier.task":"t1","dossier.meta_path":"/x","dossier.n":5,"terok.shield.name":"box"}"#,
        );
        let mut dossier = Dossier::new(&dir, fixed);
        assert_eq!(now(&mut dossier), r#"{"task":"t1"}"#, "no file yet");
        std::fs::write(
            &meta,
            r#"{"task":"t2","a\u001b":"b\"\n","meta_path":"/y","n":1}"#,
        )
        .unwrap();
        assert_eq!(now(&mut dossier), r#"{"a ":"b\" ","task":"t2"}"#);
        std::fs::write(&meta, "not json").unwrap();
        assert_eq!(now(&mut dossier), r#"{"task":"t1"}"#);
        std::fs::remove_file(&meta).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &meta).unwrap();
        assert_eq!(now(&mut dossier), r#"{"task":"t1"}"#);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_megabyte_of_annotations_stays_bounded_and_json() {
        let mut huge = String::from("{");
        for n in 0..4000 {
            huge.push_str(&format!("\"dossier.k{n}\":\"{}\",", "\\\"".repeat(120)));
        }
        huge.push_str(&format!("\"dossier.z\":\"{}\"}}", "x".repeat(1_000_000)));
        let fixed = fields(&huge);
        assert!(annotations_json(&fixed, None).len() <= MAX_JSON + 8192);
        let (path, dir) = temp("huge");
        let mut dossier = Dossier::new(&dir, fixed);
        let json = now(&mut dossier).to_string();
        assert!(json.len() <= MAX_JSON + 2, "{}", json.len());
        assert!(miniserde::json::from_str::<Value>(&json).is_ok());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn the_command_lines_form_reads_back() {
        let given = fields(r#"{"dossier.a":"1","dossier.b":"x\"y\\"}"#);
        let json = annotations_json(&given, Some("false"));
        assert_eq!(fields(&json), given);
    }
}
