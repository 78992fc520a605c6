//! What we know of podman, and what we ask it: always by argv, bounded, with a deadline.

pub mod conf;
pub mod conf_text;
pub mod hooks_dir;
pub mod info;
pub mod inspect;
pub mod network;
pub mod run;
pub mod setup;
mod value;
