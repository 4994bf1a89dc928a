/*!
Network and mount namespaces that live exactly as long as somebody holds them: they have
no name, so that there is nothing to remove.
*/

use std::fs::File;
use std::os::fd::OwnedFd;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, and a mount namespace where that is not the host's.
pub struct Namespaces {
    pub net: OwnedFd,
    mnt: Option<OwnedFd>,
}

impl Namespaces {
    /// A new network namespace.
    pub fn network() -> Self {
        Self::create(CloneFlags::CLONE_NEWNET, || {})
    }

    /// A new network and mount namespace, which `furnish` sees first.
    pub fn machine(furnish: impl FnOnce() + Send) -> Self {
        Self::create(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, furnish)
    }

    fn create(flags: CloneFlags, furnish: impl FnOnce() + Send) -> Self {
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(flags).expect("unshare needs root");
                furnish();
                let open = |path| OwnedFd::from(File::open(path).unwrap());
                Self {
                    net: open("/proc/thread-self/ns/net"),
                    mnt: flags
                        .contains(CloneFlags::CLONE_NEWNS)
                        .then(|| open("/proc/thread-self/ns/mnt")),
                }
            });
            match made.join() {
                Ok(made) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Move the calling thread, or the process about to exec, here. Async-signal-safe.
    pub fn enter(&self) -> nix::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        match &self.mnt {
            Some(mnt) => setns(mnt, CloneFlags::CLONE_NEWNS),
            None => Ok(()),
        }
    }

    /// Call `act` on a thread in here.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                // A thread that shares its root with others may not change its mounts.
                unshare(CloneFlags::CLONE_FS).unwrap();
                self.enter().unwrap();
                act()
            });
            match done.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    pub fn try_clone(&self) -> Self {
        Self {
            net: self.net.try_clone().unwrap(),
            mnt: self.mnt.as_ref().map(|mnt| mnt.try_clone().unwrap()),
        }
    }
}
