//! Looking at a container's shield without changing it.

use super::Container;
use crate::contract::{self, set};
use crate::error::Result;
use crate::ipnet::IpNet;
use crate::lists::Lists;
use crate::netns;
use crate::nft::classify::{State, classify};
use crate::nft::kernel::{Detail, Nft};
use crate::nft::model::{Element, Family, Ruleset, Set};
use std::net::IpAddr;

/// What the kernel holds of a container's shield now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// What the rules are; `None` where there are none.
    pub state: Option<State>,
    /// The rules, if there are any that we can read.
    pub rules: Option<Ruleset>,
    /// Why the state is `error`, where the rules cannot be read.
    pub problem: Option<String>,
}

impl Live {
    /// The word `status` prints.
    pub fn word(&self) -> &'static str {
        self.state.map_or("offline", State::word)
    }
}

/// Reads the kernel. A container that does not run has no rules.
pub fn live(c: &Container, detail: Detail) -> Result<Live> {
    let Some(init) = c.running()? else {
        return Ok(Live {
            state: None,
            rules: None,
            problem: None,
        });
    };
    netns::enter_as_operator(&init)?;
    Ok(
        match Nft::open()?.dump(Family::Inet, contract::TABLE, detail) {
            Ok(None) => Live {
                state: None,
                rules: None,
                problem: None,
            },
            Ok(Some(rules)) => Live {
                state: Some(classify(&rules)),
                rules: Some(rules),
                problem: None,
            },
            Err(e) => Live {
                state: Some(State::Error),
                rules: None,
                problem: Some(e.to_string()),
            },
        },
    )
}

/// Where an element of a set came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A profile.
    Profile,
    /// `allow` or `deny`.
    Live,
    /// DNS, while the container runs.
    Learned,
    /// None of the bundle's lists knows it.
    Unknown,
}

impl Origin {
    /// The word `rules` prints.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Profile => "profile",
            Origin::Live => "live",
            Origin::Learned => "learned",
            Origin::Unknown => "unknown",
        }
    }
}

/// The origin of an element of this set.
pub fn origin(lists: &Lists, set: &Set, element: &Element) -> Origin {
    let within = |net: &IpNet| net.first() <= element.first && element.last <= net.last();
    let name = set.name.as_str();
    let denying = name == set::DENY_V4 || name == set::DENY_V6;
    let learned =
        name == set::LEARNED_V4 || name == set::LEARNED_V6 || set.default_timeout.is_some();
    let live = || {
        let addr: IpAddr = element.first;
        lists.live_allowed.iter().any(within)
            || lists.timed.iter().any(|t| within(&t.net))
            || element.service.is_some() && lists.services.iter().any(|s| s.addr == addr)
    };
    match () {
        () if denying && lists.deny.iter().any(within) => Origin::Live,
        () if denying => Origin::Unknown,
        () if learned => Origin::Learned,
        () if lists.profile_allowed.iter().any(within) => Origin::Profile,
        () if live() => Origin::Live,
        () => Origin::Unknown,
    }
}
