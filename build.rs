//! Embeds the profiles and the version.

fn main() {}
