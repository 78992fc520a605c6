//! What we know of podman, and what we ask it: always by argv, bounded, with a deadline.

pub mod conf_text;
pub mod info;
pub mod inspect;
pub mod network;
pub mod run;
mod value;
