//! The facade the verbs call: one container's shield, on disk and in the kernel.

pub mod change;
pub mod environment;
pub mod locate;
pub mod observe;
pub mod prepare;
pub mod resolve;
pub mod run_args;

use crate::audit::{Action, Audit};
use crate::bundle::Bundle;
use crate::contract::file;
use crate::error::{Error, Result};
use crate::hub;
use crate::process::PidFd;

/// A container's shield.
#[derive(Debug)]
pub struct Container {
    /// The name the operator typed.
    pub name: String,
    /// Its bundle.
    pub bundle: Bundle,
    /// Whether changes are written to the audit log.
    pub audit: bool,
}

impl Container {
    /// The init process if the container runs, by the record the hook left in the bundle.
    pub fn running(&self) -> Result<Option<PidFd>> {
        Ok(self
            .bundle
            .living_init()?
            .and_then(|identity| identity.open()))
    }

    /// Writes a line to the audit log, if there is one.
    pub fn log(&self, action: Action, dest: Option<&str>, detail: Option<&str>) {
        let audit = Audit {
            dir: self.bundle.dir(),
            container: &self.name,
            enabled: self.audit,
        };
        audit.write(action, dest, detail);
    }

    /// Tells the hub of a change, where one listens.
    pub fn tell_hub(&self, change: hub::Change) {
        let Ok(Some(id)) = self.bundle.container_id() else {
            return;
        };
        hub::tell_change(&hub::Paths::of(&id), change, &self.name, None);
    }

    /// Refuses an id that is not this container's: an orchestrator says which run it means.
    pub fn check_id(&self, id: &str) -> Result<()> {
        match self.bundle.container_id()? {
            Some(recorded) if id.starts_with(&recorded) || recorded.starts_with(id) => Ok(()),
            Some(recorded) => Err(Error::new(format!(
                "container {} has the id {recorded}, not {id}",
                self.name
            ))),
            None => Err(Error::new(format!(
                "container {} has never been started: its bundle has no {}",
                self.name,
                file::CONTAINER_ID
            ))),
        }
    }
}
