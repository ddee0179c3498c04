//! What a VM's process says when it ends, and exits with.

use std::process::ExitCode;

use super::output::tell;
use crate::daemon::End;

/// Says how it ended.
pub fn tell(name: &str, end: &End) -> ExitCode {
    match end {
        End::Guest(ending) if ending.exit_code == 0 => {
            tell!("{name}: {}", ending.words);
            ExitCode::SUCCESS
        }
        End::Guest(ending) => {
            tell!("ferry: {name}: {}", ending.words);
            ExitCode::from(ending.exit_code)
        }
        End::Stopped => {
            tell!("{name} stopped");
            ExitCode::SUCCESS
        }
        End::Moved { to } => {
            tell!("{name} moved to {to}");
            ExitCode::SUCCESS
        }
        End::EndedElsewhere { to, ending } => {
            tell!("{name} ended at {to} with code {}: {}", ending.exit_code, ending.words);
            ExitCode::from(ending.exit_code)
        }
        End::NothingCame => {
            tell!("ferry: no VM came to {name}");
            ExitCode::FAILURE
        }
    }
}
