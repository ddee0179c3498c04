//! `ferry balloon`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use hyper::Method;
use tokio::time::sleep;

use super::{
    block_on,
    output::{print, print_json, tell},
    units::{self, show_bytes},
};
use crate::{
    api::{
        BalloonRequest,
        client::{Client, ClientError, PROMPT},
    },
    daemon::Registry,
    machine::BalloonReport,
};

const PATH: &str = "/v1/vm/balloon";
/// How often a guest is looked at.
const TICK: Duration = Duration::from_millis(50);
/// After how many looks a guest that does not get on is waited for no more: 4 s.
const LOOKS: u32 = 80;
/// The same, for one that has no driver, or none yet: 0.2 s.
const DRIVER_LOOKS: u32 = 4;

/// Take memory from a guest, or give it back
///
/// SIZE is how much is to be in the guest's balloon: memory it does without, which goes back to the host, and which no
/// migration sends. (`virsh setmem` counts the other way: what the guest keeps.) The guest needs a balloon, as with
/// `ferry run --balloon`, and a driver for it, which Linux has. It gives what it can spare; how much that was is printed
/// when there is nothing more to come.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Balloon {
    /// The VM's name
    name: String,
    /// How much is to be in the balloon, as in 256MiB; 0 gives everything back [default: only look]
    #[arg(value_parser = units::memory)]
    size: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  ferry balloon linux 32MiB     the guest gives 32 MiB up
  ferry balloon linux           how much is in the balloon
  ferry balloon linux 0         it gets them back";

impl Balloon {
    /// Asks, and waits as long as the guest gets on with it.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        let client = Client::new(&Registry::open()?, &self.name);
        let found = block_on(async {
            let look = || client.call(Method::GET, PATH, Some(PROMPT));
            Ok(match self.size {
                None => look().await?,
                Some(target_bytes) => {
                    let asked = client.put(PATH, &BalloonRequest { target_bytes }).await?;
                    settled(asked, TICK, look).await?
                }
            })
        })?;
        if self.json {
            print_json(&found)?;
        } else {
            print(in_words(&found))?;
        }
        if self.size.is_some() && found.has_no_prospect() {
            tell!(
                "ferry: {} has no driver for its balloon, or has not started it yet: it gives what is wanted once it has one",
                self.name
            );
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What `look` finds once the balloon is as large as wanted, or does not change any more.
async fn settled<F: Future<Output = Result<BalloonReport, ClientError>>>(
    mut last: BalloonReport,
    tick: Duration,
    look: impl Fn() -> F,
) -> Result<BalloonReport, ClientError> {
    // A driver reads the wish after some microseconds; who has none never does.
    let mut idle_looks = if last.has_driver { 0 } else { LOOKS - DRIVER_LOOKS };
    while last.actual_bytes != last.target_bytes && idle_looks < LOOKS {
        sleep(tick).await;
        let now = look().await?;
        idle_looks = if now == last { idle_looks + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

impl BalloonReport {
    /// Nobody is there to do what is wanted.
    fn has_no_prospect(&self) -> bool {
        !self.has_driver && self.actual_bytes != self.target_bytes
    }
}

fn in_words(balloon: &BalloonReport) -> String {
    let actual = show_bytes(balloon.actual_bytes);
    match balloon {
        BalloonReport { target_bytes: 0, actual_bytes: 0, .. } => "the balloon is empty".to_owned(),
        balloon if balloon.actual_bytes == balloon.target_bytes => format!("{actual} in the balloon"),
        _ => format!("{actual} in the balloon, {} wanted", show_bytes(balloon.target_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn report(target_bytes: u64, actual_bytes: u64) -> BalloonReport {
        BalloonReport { target_bytes, actual_bytes, has_driver: true }
    }

    #[test]
    fn a_balloon_is_put_in_words() {
        assert_eq!(in_words(&report(0, 0)), "the balloon is empty");
        assert_eq!(in_words(&report(32 << 20, 32 << 20)), "32 MiB in the balloon");
        assert_eq!(in_words(&report(32 << 20, 0)), "0 B in the balloon, 32 MiB wanted");
        assert_eq!(in_words(&report(0, 1 << 20)), "1 MiB in the balloon, 0 B wanted");
    }

    #[tokio::test]
    async fn a_guest_is_waited_for_as_long_as_it_gets_on() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            // It gets on slowly, and then no more.
            let actual = (looks.get() / LOOKS).min(5);
            async move { Ok(report(7, u64::from(actual))) }
        };
        assert_eq!(settled(report(7, 0), Duration::ZERO, look).await.unwrap(), report(7, 5));
        assert_eq!(looks.get(), 6 * LOOKS);
        // Without a driver it is looked a few times only.
        looks.set(0);
        let idle = BalloonReport { has_driver: false, ..report(7, 0) };
        let look = || {
            looks.set(looks.get() + 1);
            async move { Ok(idle) }
        };
        assert!(settled(idle, Duration::ZERO, look).await.unwrap().has_no_prospect());
        assert_eq!(looks.get(), DRIVER_LOOKS);
        let never = || async { panic!("nobody looks at what is as wanted") };
        assert_eq!(settled(report(5, 5), Duration::ZERO, never).await.unwrap(), report(5, 5));
    }
}
