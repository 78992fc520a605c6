//! Events of one container: what was logged, looked up and done, for the hub and for people.

pub mod desk;
pub mod destinations;
pub mod dns_log;
pub mod domain_cache;
pub mod dossier;
pub mod ears;
pub mod event;
pub mod follow;
pub mod live;
pub mod names;
pub mod packets;
pub mod queries;
pub mod reader;
pub mod sink;
pub mod view;
