//! The ways in which QEMU is asked to move the guest.
//!
//! All of them may use the link as it is (QEMU's own default is a bandwidth of 128 MiB/s, which would be the only thing
//! measured), and pages are sent as they are. Beyond that each is what its name says.

use std::time::Duration;

use engine::strategy::Strategy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// More than any link has; QEMU knows no word for "unlimited" that all its versions take.
const UNLIMITED_BYTES_PER_SECOND: u64 = 1 << 40;
const MULTIFD_CHANNELS: u32 = 2;

/// A way to move a guest, of QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Paused, then moved.
    StopAndCopy,
    /// Pre-copy with QEMU's own downtime limit, 300 ms.
    PreCopy,
    /// Pre-copy with the downtime limit that Ferry gets.
    PreCopyLimit,
    /// Post-copy from the first moment on.
    PostCopy,
    /// Post-copy with a channel of its own for pages that are waited for.
    PostCopyPreempt,
    /// Pre-copy over two channels, with the downtime limit that Ferry gets.
    Multifd,
}

impl Setting {
    /// All of them, beside Ferry's in the order of its strategies.
    pub const ALL: [Setting; 6] = [
        Setting::StopAndCopy,
        Setting::PreCopy,
        Setting::PreCopyLimit,
        Setting::Multifd,
        Setting::PostCopy,
        Setting::PostCopyPreempt,
    ];

    /// Its name in tables and results.
    pub fn name(self) -> &'static str {
        match self {
            Setting::StopAndCopy => "stop-and-copy",
            Setting::PreCopy => "pre-copy",
            Setting::PreCopyLimit => "pre-copy-limit",
            Setting::PostCopy => "post-copy",
            Setting::PostCopyPreempt => "post-copy-preempt",
            Setting::Multifd => "multifd",
        }
    }

    /// The strategy of Ferry's that it stands beside.
    pub fn strategy(self) -> Strategy {
        match self {
            Setting::StopAndCopy => Strategy::StopAndCopy,
            Setting::PreCopy | Setting::PreCopyLimit | Setting::Multifd => Strategy::PreCopy,
            Setting::PostCopy | Setting::PostCopyPreempt => Strategy::PostCopy,
        }
    }

    /// The guest starts at the destination before its pages are there.
    pub fn is_post_copy(self) -> bool {
        self.strategy() == Strategy::PostCopy
    }

    /// The guest is paused before anything moves, and continued by hand.
    pub fn pauses_first(self) -> bool {
        self == Setting::StopAndCopy
    }

    /// It gets the downtime limit that Ferry gets; the others keep QEMU's own.
    pub fn takes_limit(self) -> bool {
        matches!(self, Setting::PreCopyLimit | Setting::Multifd)
    }

    /// What QEMU must be capable of, by its own names.
    pub fn capabilities(self) -> &'static [&'static str] {
        match self {
            Setting::StopAndCopy | Setting::PreCopy | Setting::PreCopyLimit => &[],
            Setting::PostCopy => &["postcopy-ram"],
            Setting::PostCopyPreempt => &["postcopy-ram", "postcopy-preempt"],
            Setting::Multifd => &["multifd"],
        }
    }

    /// Arguments of `migrate-set-capabilities`, for both sides. Without `events` QEMU does not say when it is done.
    pub fn capability_arguments(self) -> Value {
        let names = std::iter::once(&"events").chain(self.capabilities());
        let switches: Vec<Value> = names.map(|name| json!({ "capability": name, "state": true })).collect();
        json!({ "capabilities": switches })
    }

    /// Arguments of `migrate-set-parameters`, for both sides.
    pub fn parameter_arguments(self, downtime_limit: Duration) -> Value {
        let mut parameters = json!({ "max-bandwidth": UNLIMITED_BYTES_PER_SECOND });
        if self.takes_limit() {
            // In whole milliseconds, and nothing is no limit that can be kept.
            parameters["downtime-limit"] = json!((downtime_limit.as_millis() as u64).max(1));
        }
        if self == Setting::Multifd {
            parameters["multifd-channels"] = json!(MULTIFD_CHANNELS);
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_stands_beside_a_strategy_and_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Setting::ALL.iter().map(|setting| setting.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Setting::ALL.len());
        // No setting of QEMU's has a budget for what is sent during the pause.
        for strategy in Strategy::ALL.into_iter().filter(|&strategy| strategy != Strategy::Hybrid) {
            assert!(Setting::ALL.iter().any(|setting| setting.strategy() == strategy), "{strategy}");
        }
    }

    #[test]
    fn only_settings_that_say_so_get_ferrys_limit() {
        let of = |setting: Setting| setting.parameter_arguments(Duration::from_micros(10_900));
        assert_eq!(of(Setting::PreCopyLimit)["downtime-limit"], 10);
        assert_eq!(of(Setting::Multifd)["downtime-limit"], 10);
        assert_eq!(of(Setting::Multifd)["multifd-channels"], 2);
        assert_eq!(of(Setting::PreCopy).get("downtime-limit"), None);
        let tiny = Setting::PreCopyLimit.parameter_arguments(Duration::from_micros(300));
        assert_eq!(tiny["downtime-limit"], 1);
        assert!(Setting::ALL.iter().all(|&setting| of(setting)["max-bandwidth"].is_u64()));
    }

    #[test]
    fn capabilities_are_switched_on_by_name() {
        let arguments = Setting::PostCopyPreempt.capability_arguments();
        let names: Vec<&str> = arguments["capabilities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|switch| switch["capability"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["events", "postcopy-ram", "postcopy-preempt"]);
    }
}
