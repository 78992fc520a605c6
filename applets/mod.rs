//! The applets: argv[0], then the first argument, choose one from a static table.

use std::process::ExitCode;

/// Runs the applet that the command line names.
pub fn main() -> ExitCode {
    eprintln!("Error: no applet yet");
    ExitCode::from(2)
}
