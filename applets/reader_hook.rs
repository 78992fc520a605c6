//! The hook that starts the event reader: it protects nothing, so it never fails a container.

use crate::error::Result;
use crate::oci::Stage;
use crate::{output, reader_hook};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one stage; the OCI state comes on standard input. Always exit 0.
pub(super) fn exec(args: &[OsString]) -> Result<ExitCode> {
    let done = Stage::from_args(args).and_then(|s| reader_hook::run(s, std::io::stdin().lock()));
    if let Err(e) = done {
        output::warn(&format!("Warning: no events of this container: {e}"));
    }
    Ok(ExitCode::SUCCESS)
}
