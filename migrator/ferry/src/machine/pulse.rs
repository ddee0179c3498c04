//! The built-in guest's command line, from what a user typed.

use guest_images::pulse::CommandLine;
use thiserror::Error;

/// Words that pulse does not understand.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PulseOptionError {
    /// Not of the form `key=value`.
    #[error("{word:?} is no option of pulse: write key=value, as in working-set=64MiB")]
    NotKeyValue {
        /// The word.
        word: String,
    },
    /// No such key.
    #[error(
        "pulse has no option {key:?}; it has fill, fill-bytes, working-set, rate, pattern, idle, seed, check, \
         gap-threshold-us"
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A value that is none of the key's.
    #[error("pulse's {key}={value} is not possible: it must be {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would be possible.
        expected: &'static str,
    },
}

/// Builds and validates pulse's command line by the parser that the guest itself uses.
///
/// # Errors
/// On the first word that it does not understand.
pub fn pulse_command_line(words: &[String], vcpus: u8) -> Result<String, PulseOptionError> {
    let mut line = CommandLine { vcpus: u64::from(vcpus), ..CommandLine::default() };
    for word in words {
        let Some((typed, value)) = word.split_once('=') else {
            return Err(PulseOptionError::NotKeyValue { word: word.clone() });
        };
        // Shorter to type, and what everybody tries first.
        let key = if typed == "rate" { "dirty-rate" } else { typed };
        let is_known = line.set(key, value).map_err(|expected| PulseOptionError::BadValue {
            key: typed.to_owned(),
            value: value.to_owned(),
            expected,
        })?;
        // How many vCPUs there are is the machine's to say.
        if !is_known || key == "vcpus" {
            return Err(PulseOptionError::UnknownKey { key: typed.to_owned() });
        }
    }
    Ok(line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Result<String, PulseOptionError> {
        pulse_command_line(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), 2)
    }

    #[test]
    fn words_are_validated_by_the_guests_own_parser() {
        let text = line(&["working-set=8MiB", "rate=5000"]).unwrap();
        assert!(text.contains("working-set=8388608") && text.contains("dirty-rate=5000"), "{text}");
        assert!(text.contains("vcpus=2"), "{text}");
        assert!(matches!(line(&["8MiB"]), Err(PulseOptionError::NotKeyValue { .. })));
        assert!(matches!(line(&["speed=1"]), Err(PulseOptionError::UnknownKey { .. })));
        assert!(matches!(line(&["vcpus=1"]), Err(PulseOptionError::UnknownKey { .. })));
        assert!(matches!(line(&["fill=noise"]), Err(PulseOptionError::BadValue { .. })));
    }
}
