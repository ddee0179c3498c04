//! `ferry doctor`

mod host;
#[cfg(feature = "kvm")]
mod machine;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::output::{print, print_json};

/// Say what this host can do
///
/// Names each need: whether it is there, why it matters, and how to mend it. Fails if a guest cannot run at all.
#[derive(Args)]
pub struct Doctor {
    /// As JSON: an array of needs
    #[arg(long)]
    json: bool,
}

/// What a need is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Weight {
    /// To run a guest at all.
    Necessary,
    /// For one strategy, or for some of what Ferry does.
    Useful,
    /// For honest figures.
    Measuring,
}

/// One thing that Ferry needs of a host.
#[derive(Debug, Serialize)]
struct Need {
    name: &'static str,
    present: bool,
    weight: Weight,
    /// What was found.
    found: String,
    /// Why it matters.
    why: &'static str,
    /// How to mend it; only where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Need {
    fn new(name: &'static str, weight: Weight, why: &'static str, found: Result<String, Lack>) -> Need {
        let (present, found, mend) = match found {
            Ok(found) => (true, found, None),
            Err(Lack { found, mend }) => (false, found, Some(mend)),
        };
        Need { name, present, weight, found, why, mend }
    }
}

/// What is there instead, and how to mend it.
struct Lack {
    found: String,
    mend: String,
}

/// For `Err`.
fn lack<T>(found: impl ToString, mend: impl ToString) -> Result<T, Lack> {
    Err(Lack { found: found.to_string(), mend: mend.to_string() })
}

impl Doctor {
    /// Looks and tells.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let mut needs = machine_needs();
        needs.extend(host::needs());
        if self.json {
            print_json(&needs)?;
        } else {
            needs.iter().try_for_each(show)?;
            print(format_args!("\n{}", verdict(&needs)))?;
        }
        let is_able = needs.iter().all(|need| need.present || need.weight != Weight::Necessary);
        Ok(if is_able { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

#[cfg(feature = "kvm")]
fn machine_needs() -> Vec<Need> {
    machine::needs()
}

#[cfg(not(feature = "kvm"))]
fn machine_needs() -> Vec<Need> {
    let lack = lack(
        "this ferry was built without KVM",
        "build it with the feature `kvm`; `ferry run sim` works without",
    );
    vec![Need::new("KVM", Weight::Necessary, "runs guests", lack)]
}

fn show(need: &Need) -> anyhow::Result<()> {
    let mark = match (need.present, need.weight) {
        (true, _) => "yes",
        (false, Weight::Necessary) => "NO",
        (false, _) => "no",
    };
    print(format_args!("{mark:>3}  {:<20} {}", need.name, need.found))?;
    if let Some(mend) = &need.mend {
        print(format_args!("     {:<20} why: {}", "", need.why))?;
        print(format_args!("     {:<20} mend: {mend}", ""))?;
    }
    Ok(())
}

fn verdict(needs: &[Need]) -> &'static str {
    let lacks = |weight| needs.iter().any(|need| !need.present && need.weight == weight);
    if lacks(Weight::Necessary) {
        "Guests cannot run here. Simulated ones can: ferry run sim"
    } else if lacks(Weight::Useful) {
        "Guests run and move here; what is marked `no` does not work."
    } else {
        "Guests run and move here, by every strategy."
    }
}
