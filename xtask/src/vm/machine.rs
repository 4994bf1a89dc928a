//! Booting, and listening to the serial console.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::test::Tally;

/// What starts the lines of init.sh.
const MARKER: &str = "CGFW-VM ";

/// A boot takes some 6 s on an idle machine without KVM.
const BOOT: Duration = Duration::from_mins(1);
/// Each case has 60 s in init.sh; this bounds an emulator that stands still.
const SILENCE: Duration = Duration::from_secs(90);
/// A few boots in a hundred end in an oops, which is the emulator's doing. Never retried
/// is what happens after init has said that it is up.
const BOOTS: usize = 5;

/// What is booted.
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// For the kernel's command line, beside what this module puts there.
    pub(super) parameters: &'a str,
}

/// What a line of the console says.
#[derive(Debug, PartialEq, Eq)]
enum Word<'a> {
    Up(&'a str),
    Pass(&'a str),
    Fail(&'a str),
    End,
}

impl Boot<'_> {
    /// Boot until init is up, then count each of `cases` once, whatever happens.
    pub(super) fn run(&self, title: &str, cases: &[&str], tally: &mut Tally) -> Result<()> {
        let mut retries = 0;
        loop {
            let mut machine = Machine::start(self)?;
            if let Some(release) = machine.wait_until_up() {
                println!("{title}: Linux {release} is up after {retries} retries");
                machine.count(title, cases, tally);
                return Ok(());
            }
            machine.print_console(title);
            if retries + 1 == BOOTS {
                for case in cases {
                    tally.fail(format!(
                        "{title} {case}: init did not come up in {BOOTS} boots"
                    ));
                }
                return Ok(());
            }
            retries += 1;
            println!("{title}: init did not come up; retry {retries}");
        }
    }
}

/// A running emulator, ended on drop.
struct Machine {
    emulator: Child,
    lines: Receiver<String>,
    console: Vec<String>,
}

impl Machine {
    fn start(boot: &Boot<'_>) -> Result<Self> {
        let mut emulator = Command::new("qemu-system-x86_64")
            // With five-level paging most boots of 6.12 end in an oops under emulation.
            .args([
                "-accel",
                "tcg",
                "-cpu",
                "max,-la57",
                "-smp",
                "1",
                "-m",
                "1024",
            ])
            .args([
                "-nodefaults",
                "-no-reboot",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            // An oops ends the emulator at once, instead of leaving it to hang.
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet oops=panic panic=-1 {}",
                boot.parameters
            ))
            .arg("-kernel")
            .arg(boot.kernel)
            .arg("-initrd")
            .arg(boot.initramfs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run qemu-system-x86_64")?;
        let stdout = emulator.stdout.take().context("the pipe was asked for")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            emulator,
            lines,
            console: Vec::new(),
        })
    }

    /// The release of the kernel, as soon as init says it; `None` if it does not in time.
    fn wait_until_up(&mut self) -> Option<String> {
        let deadline = Instant::now() + BOOT;
        loop {
            let line = self
                .next(deadline.saturating_duration_since(Instant::now()))
                .ok()?;
            if let Some(Word::Up(release)) = word(&line) {
                return Some(release.to_owned());
            }
        }
    }

    /// Count what init says of each case. A case of which it says nothing has failed.
    fn count(&mut self, title: &str, cases: &[&str], tally: &mut Tally) {
        let mut pending = cases.to_vec();
        let silence = loop {
            let line = match self.next(SILENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => break format!("said nothing for {SILENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => break "ended".to_owned(),
            };
            println!("{title}: {line}");
            match word(&line) {
                Some(Word::Pass(case)) if pending.contains(&case) => {
                    pending.retain(|other| *other != case);
                    tally.pass();
                }
                Some(Word::Fail(how)) => {
                    let case = how.split(' ').next().unwrap_or(how);
                    pending.retain(|other| *other != case);
                    tally.fail(format!("{title} {how}"));
                }
                Some(Word::End) => break "said it was done".to_owned(),
                Some(Word::Up(_) | Word::Pass(_)) | None => {}
            }
        };
        for case in pending {
            tally.fail(format!(
                "{title} {case}: the machine {silence} without a verdict"
            ));
        }
    }

    fn next(&mut self, timeout: Duration) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(timeout)?;
        self.console.push(line.clone());
        Ok(line)
    }

    fn print_console(&self, title: &str) {
        for line in &self.console {
            println!("{title}: {line}");
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already, and there is nothing to do about it if it cannot be.
        if let Err(error) = self.emulator.kill().and_then(|()| self.emulator.wait()) {
            eprintln!("failed to end the emulator: {error}");
        }
    }
}

fn word(line: &str) -> Option<Word<'_>> {
    let rest = &line[line.find(MARKER)? + MARKER.len()..];
    match rest.split_once(' ') {
        Some(("up", release)) => Some(Word::Up(release)),
        Some(("pass", case)) => Some(Word::Pass(case)),
        Some(("fail", how)) => Some(Word::Fail(how)),
        None if rest == "end" => Some(Word::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_init_are_understood_behind_what_the_kernel_says() {
        for (line, expected) in [
            (
                "CGFW-VM up 5.10.0-32-cloud-amd64",
                Some(Word::Up("5.10.0-32-cloud-amd64")),
            ),
            ("CGFW-VM pass block", Some(Word::Pass("block"))),
            (
                "[    1.5] random: CGFW-VM fail block with status 1",
                Some(Word::Fail("block with status 1")),
            ),
            ("CGFW-VM end", Some(Word::End)),
            ("CGFW-VM", None),
            ("CGFW-VM ending", None),
            ("Kernel panic - not syncing", None),
        ] {
            assert_eq!(word(line), expected, "{line}");
        }
    }
}
