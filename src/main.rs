//! The multicall binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    terok_shield::applets::main()
}
