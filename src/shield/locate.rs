//! Finding a container's bundle (CONTRACT section 3).

use super::Container;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::contract::annotation;
use crate::error::{Context, Error, Result};
use crate::paths::Env;
use crate::podman::inspect;
use crate::podman::run::Podman;
use crate::validate;
use std::path::Path;

/// The shield of a container. With `only_here` the state root of `env` is the only place; else
/// podman is asked where the bundle is, unless the one in its usual place belongs to a container
/// that runs now: asking podman takes longer than everything else a verb does.
pub fn container(env: &Env, name: &str, only_here: bool) -> Result<Container> {
    validate::container_name(name)?;
    let audit = Config::load(env)?.audit;
    let usual = env.bundle(name)?;
    let open = |path: &Path| -> Result<Container> {
        let bundle = Bundle::open(path)?;
        Ok(Container {
            name: name.into(),
            bundle,
            audit,
        })
    };
    let here = usual.symlink_metadata().is_ok();
    if only_here && !here {
        return Err(Error::new(format!(
            "container {name} has no bundle in {}; prepare it, or give another --state-dir",
            usual.display()
        )));
    }
    if here {
        let found = open(&usual)?;
        if only_here || found.bundle.living_init()?.is_some() {
            return Ok(found);
        }
    }
    match inspect::Container::ask(&Podman::default(), name) {
        Ok(Some(known)) => match known.annotation(annotation::STATE_DIR) {
            Some(dir) => open(Path::new(dir)).context(|| format!("container {name}")),
            None => Err(Error::new(format!(
                "container {name} is not shielded: it has no annotation {}; start it with terok-shield run",
                annotation::STATE_DIR
            ))),
        },
        // Prepared and not created yet, or removed: the bundle is all there is.
        Ok(None) | Err(_) if here => open(&usual),
        Ok(None) => Err(Error::new(format!(
            "there is no container {name}, and no bundle for one in {}",
            usual.display()
        ))),
        Err(e) => Err(e).context(|| format!("cannot find the bundle of container {name}")),
    }
}
