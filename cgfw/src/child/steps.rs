//! What happens in the new processes between clone and execve, and how cgfw hears of a failure.

use std::io::{self, PipeReader, Read as _};
use std::os::fd::RawFd;

use nix::errno::Errno;

/// What happens in the new processes between clone and execve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    EnterCgroup,
    BeginInit,
    Mount,
    Mask,
    NoNewPrivs,
    Capabilities,
    Scopes,
    Filter,
    Fork,
    BeKnown,
    ChangeUser,
    Tie,
    OpenFiles,
    Signals,
    Execute,
}

impl Step {
    const ALL: [(Self, &'static str); 15] = [
        (Self::EnterCgroup, "enter the cgroup"),
        (Self::BeginInit, "become the init of a PID namespace"),
        (Self::Mount, "mount, hide or protect"),
        (
            Self::Mask,
            "mask the sockets of name service daemons (CAP_SYS_ADMIN is needed)",
        ),
        (Self::NoNewPrivs, "set no_new_privs"),
        (Self::Capabilities, "drop capabilities"),
        (Self::Scopes, "enter a Landlock domain"),
        (Self::Filter, "install a seccomp filter"),
        (Self::Fork, "start a process below the init"),
        (Self::BeKnown, "tell cgfw of the command"),
        (Self::ChangeUser, "become the user of the child"),
        (Self::Tie, "tie the child to cgfw"),
        (Self::OpenFiles, "restore the limit of open files"),
        (Self::Signals, "restore signals"),
        (Self::Execute, "execute the command"),
    ];

    /// What it does, after "cannot".
    pub(super) fn name(self) -> &'static str {
        let known = Self::ALL.into_iter().find(|(step, _)| *step == self);
        known.map_or("prepare the child", |(_, name)| name)
    }
}

/// A step that failed, as it goes through the pipe to cgfw.
pub(super) struct Failure {
    pub(super) step: Step,
    /// Which of the mounts.
    pub(super) place: u32,
    pub(super) error: Errno,
}

impl Failure {
    const SIZE: usize = 9;

    fn to_octets(&self) -> [u8; Self::SIZE] {
        let mut octets = [self.step as u8; Self::SIZE];
        octets[1..5].copy_from_slice(&self.place.to_ne_bytes());
        octets[5..].copy_from_slice(&(self.error as i32).to_ne_bytes());
        octets
    }

    /// What the child says before it executes the command; nothing if it got that far,
    /// because execve closes the pipe.
    pub(super) fn receive(mut reader: PipeReader) -> io::Result<Option<Self>> {
        let mut message = Vec::with_capacity(Self::SIZE);
        reader.read_to_end(&mut message)?;
        if message.is_empty() {
            return Ok(None);
        }
        Self::parse(&message)
            .map(Some)
            .ok_or_else(|| io::Error::other("what the child says makes no sense"))
    }

    fn parse(message: &[u8]) -> Option<Self> {
        let (&number, rest) = message.split_first()?;
        let (place, error) = rest.split_first_chunk()?;
        let (step, _) = Step::ALL
            .into_iter()
            .find(|(step, _)| *step as u8 == number)?;
        Some(Self {
            step,
            place: u32::from_ne_bytes(*place),
            error: Errno::from_raw(i32::from_ne_bytes(error.try_into().ok()?)),
        })
    }

    /// In the new process: tell cgfw, and end.
    pub(super) fn report(&self, pipe: RawFd) -> ! {
        let message = self.to_octets();
        // SAFETY: the message is valid for as many octets as are written. If the parent is
        // gone, there is nobody to tell.
        unsafe { libc::write(pipe, message.as_ptr().cast(), message.len()) };
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
}

/// A step, and what it does.
pub(super) type Act<'a> = (Step, &'a dyn Fn() -> Result<(), Errno>);

/// Take every step, up to the first that fails.
pub(super) fn take(steps: &[Act<'_>]) -> Result<(), Failure> {
    for (step, act) in steps {
        act().map_err(|error| Failure {
            step: *step,
            place: 0,
            error,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        for (step, name) in Step::ALL {
            let failure = Failure {
                step,
                place: 0x0102_0304,
                error: Errno::EBUSY,
            };
            let heard = Failure::parse(&failure.to_octets()).unwrap();
            assert_eq!((heard.step, heard.step.name()), (step, name));
            assert_eq!((heard.place, heard.error), (0x0102_0304, Errno::EBUSY));
        }
        assert!(Failure::parse(&[0; Failure::SIZE - 1]).is_none());
        assert!(Failure::parse(&[0xff; Failure::SIZE]).is_none());
    }
}
