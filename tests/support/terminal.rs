/*!
A command on a terminal of its own: what a person at a keyboard sees and types.
*/

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::unistd::setsid;

use super::command::Test;

const LIMIT: Duration = Duration::from_secs(20);

/// A session leader on a pseudo terminal; killed when dropped.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: String,
}

impl Terminal {
    /// Start the command as the leader of a new session on a new terminal.
    pub fn start(test: &Test<'_>) -> Self {
        // Close-on-exec from the start: other tests spawn commands meanwhile.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(ptsname_r(&master).unwrap())
            .unwrap();
        let copy = || slave.try_clone().unwrap();
        let mut command = test.prepare();
        command.stdin(copy()).stdout(copy()).stderr(copy());
        let control = || {
            setsid()?;
            // SAFETY: the ioctl takes no pointer, and descriptor 0 is the terminal.
            Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: both are bare system calls, async-signal-safe.
        unsafe { command.pre_exec(control) };
        let child = command.spawn().unwrap();
        Self {
            child,
            keyboard: nonblocking(&master),
            screen: String::new(),
        }
    }

    pub fn typed(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Wait until the screen has shown `text` since the last call, and forget up to there.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.look();
            if let Some(at) = self.screen.find(text) {
                let rest = self.screen.split_off(at + text.len());
                return std::mem::replace(&mut self.screen, rest);
            }
            assert!(
                Instant::now() < deadline,
                "no {text:?} on the terminal:\n{}",
                self.screen
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Wait for the end; with it, what the screen has shown since the last call.
    #[track_caller]
    pub fn finish(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ended = self.child.try_wait().unwrap();
            self.look();
            if let Some(status) = ended {
                return (status, std::mem::take(&mut self.screen));
            }
            assert!(Instant::now() < deadline, "did not end:\n{}", self.screen);
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn look(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.keyboard.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => self.screen += &String::from_utf8_lossy(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The other side is closed.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return,
                Err(error) => panic!("cannot read the terminal: {error}"),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only if it has ended, as it should have.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn nonblocking(master: &PtyMaster) -> File {
    let fd = master.as_fd().try_clone_to_owned().unwrap();
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    fd.into()
}
