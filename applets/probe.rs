//! `probe HOST [PORT=443]`: one JSON object on stdout, CONTRACT section 8.
//!
//! Exit 0 when the probe completed, whatever it found; 1 on misuse or failure, with `{"error":…}`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use super::quoted;
use crate::error::{Error, Result};
use crate::json::Object;
use crate::{output, probe};

const DEFAULT_PORT: u16 = 443;
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn exec(args: &[OsString]) -> Result<ExitCode> {
    if args.first().is_some_and(|a| a == "--help" || a == "-h") {
        return Err(Error::help(
            "Usage: probe HOST [PORT=443]\n\n\
             Sends one UDP datagram and reports, as a JSON object, whether it was answered (open),\n\
             refused by an ICMP error (icmp-error, with type, code and errno) or neither (timeout).\n",
        ));
    }
    match run(args) {
        Ok(json) => {
            output::line(&json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let mut out = String::new();
            let mut object = Object::open(&mut out);
            object.text("error", &error.to_string()).close();
            output::line(&out)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run(args: &[OsString]) -> Result<String> {
    let (host, port) = match args {
        [host] => (host, DEFAULT_PORT),
        [host, port] => (host, parse_port(port)?),
        _ => return Err(Error::usage("usage: probe HOST [PORT=443]")),
    };
    let host = host
        .to_str()
        .filter(|h| !h.is_empty() && !h.starts_with('-'))
        .ok_or_else(|| Error::usage(format!("not a host: {}", quoted(host))))?;
    let outcome = probe::probe(host, port, PATIENCE)?;
    Ok(render(host, port, &outcome))
}

fn parse_port(arg: &OsString) -> Result<u16> {
    arg.to_str()
        .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|p| p.parse().ok())
        .filter(|p| *p != 0)
        .ok_or_else(|| Error::usage(format!("not a port (1-65535): {}", quoted(arg))))
}

fn render(host: &str, port: u16, outcome: &probe::Outcome) -> String {
    let result = match outcome {
        probe::Outcome::Open => "open",
        probe::Outcome::Timeout => "timeout",
        probe::Outcome::IcmpError(_) => "icmp-error",
    };
    let mut out = String::new();
    let mut object = Object::open(&mut out);
    object.text("host", host).number("port", port.into());
    object.text("result", result);
    if let probe::Outcome::IcmpError(e) = outcome {
        object
            .number("icmp_type", e.icmp_type.into())
            .number("icmp_code", e.code.into())
            .text("icmp_code_name", &e.code_name())
            .number("errno", e.errno.into());
    }
    object.close();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Family, IcmpError, Outcome};

    #[test]
    fn an_icmp_error_has_its_four_fields() {
        let outcome = Outcome::IcmpError(IcmpError {
            family: Family::V6,
            icmp_type: 1,
            code: 1,
            errno: 13,
        });
        assert_eq!(
            render("2001:db8::1", 443, &outcome),
            r#"{"host":"2001:db8::1","port":443,"result":"icmp-error","icmp_type":1,"icmp_code":1,"icmp_code_name":"admin-prohibited","errno":13}"#
        );
    }

    #[test]
    fn other_outcomes_have_none_and_a_hostile_name_stays_one_string() {
        assert_eq!(
            render("a\"b\n", 1, &Outcome::Timeout),
            r#"{"host":"a\"b ","port":1,"result":"timeout"}"#
        );
    }

    #[test]
    fn misuse_is_refused() {
        for args in [
            &[][..],
            &["h", "0"],
            &["h", "65536"],
            &["h", "+80"],
            &["h", "x"],
            &[""],
            &["-x"],
            &["h", "1", "2"],
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert!(run(&args).is_err(), "{args:?}");
        }
    }
}
