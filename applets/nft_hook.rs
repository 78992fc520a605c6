//! The hook that protects: exit 0 means the kernel holds the rules that were meant.

use crate::error::Result;
use crate::hook;
use crate::oci::Stage;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one stage; the OCI state comes on standard input.
pub fn exec(args: &[OsString]) -> Result<ExitCode> {
    hook::run(Stage::from_args(args)?, std::io::stdin().lock())?;
    Ok(ExitCode::SUCCESS)
}
