//! Applies a file of nft syntax in the present network namespace and reads it back, as nft-hook
//! does: `apply FILE`. For the side-by-side measurements of benches/apply.
//!
//! With `--learn N` it then re-arms N learned addresses, one by one, and prints the mean time.

use std::error::Error;
use std::time::Instant;
use terok_shield::nft::kernel::{Detail, Nft};
use terok_shield::nft::model::{Element, Set};
use terok_shield::nft::{text, verify};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: apply FILE [--learn N]")?;
    let steps = std::env::var_os("STEPS").is_some();
    let start = Instant::now();
    let step = |what: &str| {
        if steps {
            eprintln!("{what}: {} us", start.elapsed().as_micros());
        }
    };
    let meant = text::parse(&std::fs::read_to_string(file)?)?;
    step("parsed");
    let mut nft = Nft::open()?;
    nft.replace(&meant)?;
    step("replaced");
    let held = nft
        .dump(meant.family, &meant.table, Detail::Full)?
        .ok_or("no table")?;
    step("dumped");
    verify::equal(&meant, &held, &|_| false)?;
    step("verified");
    if let (Some(_), Some(count)) = (arguments.next(), arguments.next()) {
        let set = meant.set("allow_v4").ok_or("no set allow_v4")?;
        let set = Set {
            elements: Vec::new(),
            ..set.clone()
        };
        learn(&mut nft, &meant, &set, count.parse()?)?;
    }
    Ok(())
}

fn learn(
    nft: &mut Nft,
    ruleset: &terok_shield::nft::model::Ruleset,
    set: &Set,
    count: u32,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    for i in 0..count {
        let address = std::net::Ipv4Addr::from(0xC633_6400 + i % 100).into();
        let element = Element {
            timeout: Some(600_000),
            ..Element::range(address, address)
        };
        nft.learn(ruleset.family, &ruleset.table, set, &[element])?;
    }
    let each = start.elapsed() / count.max(1);
    println!("{count} elements learned, {each:?} each");
    Ok(())
}
