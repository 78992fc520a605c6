//! `nflog-reader STATE_DIR CONTAINER`: streams one container's blocked connections. It runs in
//! the container's network namespace.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::quoted;
use crate::error::{Error, Result};
use crate::process::Identity;
use crate::watch::reader::{self, Emit, Options};

const USAGE: &str = "\
Usage: nflog-reader STATE_DIR CONTAINER [OPTIONS]

Reads the packets the shield of CONTAINER logs in this network namespace, and reports the blocked ones.

Options (also --option=VALUE):
  --emit socket|json    to the hub's socket (default), or as JSON lines on standard output
  --annotations JSON    the container's annotations; its dossier.* fields go with every event
  --container-id ID     the id events carry (default: the bundle's container.id)
  --hub-socket PATH     the hub's socket (default: the usual place)
  --emit none           only to watch and simple-clearance, until standard input is closed
  --join                enter the container's network namespace first
  --init 'PID START'    the container's init process, whose end is the reader's, too
";

pub(super) fn exec(args: &[OsString]) -> Result<ExitCode> {
    reader::run(parse(args)?)?;
    Ok(ExitCode::SUCCESS)
}

fn parse(args: &[OsString]) -> Result<Options> {
    let mut places: Vec<&OsString> = Vec::new();
    let mut options = Options {
        state_dir: PathBuf::new(),
        container: String::new(),
        emit: Emit::Socket,
        join: false,
        annotations: None,
        container_id: None,
        hub_socket: None,
        init: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or("");
        if matches!(text, "--help" | "-h") {
            return Err(Error::help(USAGE));
        }
        if text == "--join" {
            options.join = true;
            continue;
        }
        if !text.starts_with("--") {
            places.push(arg);
            continue;
        }
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, value.to_string()),
            None => {
                let value = args
                    .next()
                    .and_then(|v| v.to_str())
                    .ok_or_else(|| Error::usage(format!("{text} needs a value")))?;
                (text, value.to_string())
            }
        };
        match flag {
            "--emit" => options.emit = emit(&value)?,
            "--annotations" => options.annotations = Some(value),
            "--container-id" => options.container_id = Some(value),
            "--hub-socket" => options.hub_socket = Some(value.into()),
            "--init" => {
                let identity = Identity::parse(&value)
                    .ok_or_else(|| Error::usage("--init takes 'PID START'"))?;
                options.init = Some(identity);
            }
            _ => {
                return Err(Error::usage(format!(
                    "unknown option {}; see nflog-reader --help",
                    quoted(arg)
                )));
            }
        }
    }
    let [state_dir, container] = places[..] else {
        return Err(Error::usage(
            "usage: nflog-reader STATE_DIR CONTAINER [--emit socket|json] [--annotations JSON] [--container-id ID] [--hub-socket PATH]",
        ));
    };
    options.state_dir = PathBuf::from(state_dir);
    options.container = container.to_string_lossy().into_owned();
    Ok(options)
}

fn emit(value: &str) -> Result<Emit> {
    match value {
        "socket" => Ok(Emit::Socket),
        "json" => Ok(Emit::Json),
        "none" => Ok(Emit::Nowhere),
        _ => Err(Error::usage("--emit takes socket, json or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Options> {
        parse(&args.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn both_spellings_of_an_option_are_taken_anywhere() {
        for args in [
            &["--emit", "json", "/b", "box", "--container-id", "0123"][..],
            &["/b", "--emit=json", "box", "--container-id=0123"],
        ] {
            let o = parsed(args).unwrap();
            assert_eq!(o.state_dir, PathBuf::from("/b"));
            assert_eq!(o.container, "box");
            assert_eq!(o.emit, Emit::Json);
            assert_eq!(o.container_id.as_deref(), Some("0123"));
        }
        let o = parsed(&["/b", "box", "--annotations={\"a\":\"b=c\"}", "--init=7 9"]).unwrap();
        assert_eq!(o.annotations.as_deref(), Some("{\"a\":\"b=c\"}"));
        assert_eq!(o.init, Some(Identity { pid: 7, start: 9 }));
    }

    #[test]
    fn misuse_is_a_usage_error() {
        for args in [
            &[][..],
            &["/b"],
            &["/b", "box", "more"],
            &["/b", "box", "--emit"],
            &["/b", "box", "--emit=xml"],
            &["/b", "box", "--init=x"],
            &["/b", "box", "--nonsense=1"],
        ] {
            assert_eq!(parsed(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }
}
