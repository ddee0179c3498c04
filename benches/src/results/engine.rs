//! Which engine moved the guest.

use std::fmt;

use engine::strategy::Strategy;
use serde::{Deserialize, Serialize};

const FERRY: &str = "ferry";

/// An engine, and how it was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form")]
pub struct Engine {
    /// `ferry` or `qemu`.
    pub name: String,
    /// As it says itself; nothing in files that are older than this field.
    pub version: Option<String>,
    /// Which of several ways the engine has for the same strategy; nothing for Ferry.
    pub setting: Option<String>,
}

/// Older files have the name alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Name(String),
    Full { name: String, version: Option<String>, setting: Option<String> },
}

impl From<Form> for Engine {
    fn from(form: Form) -> Engine {
        match form {
            Form::Name(name) => Engine { name, version: None, setting: None },
            Form::Full { name, version, setting } => Engine { name, version, setting },
        }
    }
}

impl From<&str> for Engine {
    fn from(name: &str) -> Engine {
        Form::Name(name.to_owned()).into()
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Engine {
    /// This one.
    pub fn ferry() -> Engine {
        Engine { name: FERRY.to_owned(), version: Some(env!("CARGO_PKG_VERSION").to_owned()), setting: None }
    }

    /// QEMU in some setting.
    pub fn qemu(version: &str, setting: &str) -> Engine {
        Engine {
            name: "qemu".to_owned(),
            version: Some(version.to_owned()),
            setting: Some(setting.to_owned()),
        }
    }

    /// What it did in tables and pictures: the strategy, and the engine and its setting if it is another's.
    pub fn label(&self, strategy: Strategy) -> String {
        match (self.is_ferry(), &self.setting) {
            (true, _) => strategy.name().to_owned(),
            (false, Some(setting)) => format!("{self} {setting}"),
            (false, None) => format!("{self} {strategy}"),
        }
    }

    /// It is Ferry, and no peer.
    pub fn is_ferry(&self) -> bool {
        self.name == FERRY
    }
}

/// What another engine says of a move beyond what all runs have; each may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerFigures {
    /// How often it looked for what the guest had written: its rounds, and the looks at the beginning and the end.
    pub dirty_sync_count: Option<u64>,
    /// Total time by its own clock.
    pub total_us: Option<u64>,
    /// Pages that the destination asked for.
    pub postcopy_requests: Option<u64>,
    /// Its own figure for the link.
    pub megabits_per_second: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_files_name_the_engine_only() {
        let old: Engine = serde_json::from_str("\"ferry\"").unwrap();
        assert!(old.is_ferry() && old.version.is_none());
        for engine in [Engine::ferry(), Engine::qemu("10.0.2", "multifd")] {
            let text = serde_json::to_string(&engine).unwrap();
            assert_eq!(serde_json::from_str::<Engine>(&text).unwrap(), engine);
        }
        assert!(!Engine::qemu("10.0.2", "multifd").is_ferry());
    }
}
