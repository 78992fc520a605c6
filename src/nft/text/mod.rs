//! Ruleset ⇄ nft syntax (nft(8)).
//!
//! [`parse`] reads what the system, its operators and `nft list table` write; anything else is an
//! error with its place, nothing is guessed. [`render`] writes byte for byte what nft 1.0.6 lists.

mod error;
mod lexer;
mod names;
mod parse;
mod render;
mod rule;
mod set;
#[cfg(test)]
mod tests;
mod timespan;

pub use error::ParseError;
pub use parse::{parse, parse_bytes};
pub use render::{element, render};
