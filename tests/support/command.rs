/*!
The one test harness: run a command, check what became of it, show everything if that is
not what was expected.

Standard output and error are files in memory and not pipes, so that a process which
outlives the command and holds them open cannot make the test wait.
*/

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chdir, close, setgid, setgroups, setuid, write};

use super::namespace::Namespaces;

/// A user other than root to run a command as.
pub struct User {
    pub name: &'static str,
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
    pub home: &'static str,
}

/// A command and what is expected of it: success, unless a test says otherwise.
#[must_use = "a command does nothing until `run` or `spawn` is called"]
pub struct Test<'lab> {
    place: Option<(&'lab Namespaces, &'lab Path)>,
    argv: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    dir: Option<CString>,
    user: Option<&'static User>,
    stdin: Option<OwnedFd>,
    fds: Vec<(OwnedFd, i32)>,
    closed: Vec<i32>,
    limit: Duration,
    expected: Expected,
}

#[derive(Default)]
struct Expected {
    status: Option<i32>,
    any_status: bool,
    signal: Option<Signal>,
    stdout: Option<String>,
    stdout_has: Vec<String>,
    stderr_has: Vec<String>,
    stderr_lacks: Vec<String>,
    within: Option<Duration>,
}

/// What a command did.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    command: String,
}

/// A command that runs; killed when dropped.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
    limit: Duration,
    expected: Expected,
    command: String,
}

impl<'lab> Test<'lab> {
    /// `program`, on the host.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            place: None,
            argv: vec![program.as_ref().to_owned()],
            env: BTreeMap::new(),
            dir: None,
            user: None,
            stdin: None,
            fds: Vec::new(),
            closed: Vec::new(),
            limit: Duration::from_secs(30),
            expected: Expected::default(),
        }
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
    }

    /// `program`, in these namespaces, in a cgroup, and with `dir` as working directory.
    pub fn inside(
        program: impl AsRef<OsStr>,
        namespaces: &'lab Namespaces,
        cgroup: &'lab Path,
        dir: &str,
    ) -> Self {
        Self {
            place: Some((namespaces, cgroup)),
            ..Self::new(program)
        }
        .dir(dir)
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// End the options; the child is `argv`.
    pub fn child(self, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arg("--").args(argv)
    }

    /// End the options; the child is a shell script.
    pub fn sh(self, script: &str) -> Self {
        self.child(["sh", "-c", script])
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.to_owned(), value.as_ref().to_owned());
        self
    }

    pub fn dir(mut self, dir: &str) -> Self {
        self.dir = Some(CString::new(dir).unwrap());
        self
    }

    pub fn user(mut self, user: &'static User) -> Self {
        self.user = Some(user);
        self.env("HOME", user.home)
            .env("USER", user.name)
            .env("LOGNAME", user.name)
    }

    pub fn stdin(self, text: &str) -> Self {
        let file = memory();
        (&file).write_all(text.as_bytes()).unwrap();
        (&file).rewind().unwrap();
        self.stdin_fd(file.into())
    }

    pub fn stdin_fd(mut self, fd: OwnedFd) -> Self {
        self.stdin = Some(fd);
        self
    }

    /// Let the command inherit `fd` as descriptor `number`.
    pub fn fd(mut self, fd: OwnedFd, number: i32) -> Self {
        self.fds.push((fd, number));
        self
    }

    /// Start the command without this standard descriptor.
    pub fn closed(mut self, number: i32) -> Self {
        self.closed.push(number);
        self
    }

    /// Kill the command, and fail, after this time (30 s by default).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The exit code that is expected.
    pub fn status(mut self, code: i32) -> Self {
        self.expected.status = Some(code);
        self
    }

    /// Leave the exit status to the test.
    pub fn any_status(mut self) -> Self {
        self.expected.any_status = true;
        self
    }

    /// The command is expected to be ended by this signal.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.expected.signal = Some(signal);
        self
    }

    /// All of standard output.
    pub fn stdout(mut self, text: impl Into<String>) -> Self {
        self.expected.stdout = Some(text.into());
        self
    }

    pub fn stdout_has(mut self, text: impl Into<String>) -> Self {
        self.expected.stdout_has.push(text.into());
        self
    }

    pub fn stderr_has(mut self, text: impl Into<String>) -> Self {
        self.expected.stderr_has.push(text.into());
        self
    }

    pub fn stderr_lacks(mut self, text: impl Into<String>) -> Self {
        self.expected.stderr_lacks.push(text.into());
        self
    }

    /// The command is expected to end this soon.
    pub fn within(mut self, limit: Duration) -> Self {
        self.expected.within = Some(limit);
        self
    }

    /// Run to the end and check every expectation.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().finish()
    }

    #[track_caller]
    pub fn spawn(self) -> Running {
        let (stdout, stderr) = (memory(), memory());
        let mut command = self.prepare();
        command.stdout(stdout.try_clone().unwrap());
        command.stderr(stderr.try_clone().unwrap());
        let shown = shown(&self.argv);
        let started = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
        Running {
            child,
            stdout,
            stderr,
            started,
            limit: self.limit,
            expected: self.expected,
            command: shown,
        }
    }

    /// The command without its standard output and error.
    pub fn prepare(&self) -> Command {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).env_clear().envs(&self.env);
        match &self.stdin {
            Some(fd) => command.stdin(fd.try_clone().unwrap()),
            None => command.stdin(Stdio::null()),
        };
        let place = self.place.map(|(namespaces, cgroup)| {
            let procs = OpenOptions::new()
                .write(true)
                .open(cgroup.join("cgroup.procs"));
            (namespaces.try_clone(), procs.unwrap())
        });
        let dir = self.dir.clone();
        let user = self.user.map(|user| {
            let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
            (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
        });
        let fds: Vec<(OwnedFd, i32)> = self
            .fds
            .iter()
            .map(|(fd, number)| (fd.try_clone().unwrap(), *number))
            .collect();
        let closed = self.closed.clone();
        let enter = move || -> io::Result<()> {
            if let Some((namespaces, procs)) = &place {
                write(procs, b"0")?;
                namespaces.enter()?;
            }
            if let Some(dir) = &dir {
                chdir(dir.as_c_str())?;
            }
            for (fd, number) in &fds {
                duplicate(fd, *number)?;
            }
            for number in &closed {
                close(*number)?;
            }
            if let Some((uid, gid, groups)) = &user {
                setgroups(groups)?;
                setgid(*gid)?;
                setuid(*uid)?;
            }
            Ok(())
        };
        // SAFETY: the closure makes only system calls, on what was allocated before.
        unsafe { command.pre_exec(enter) };
        command
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    /// Wait until standard output contains `text`.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str) {
        self.wait_until(&format!("standard output contains {text:?}"), |running| {
            running.stdout().contains(text)
        });
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            let ended = self.child.try_wait().unwrap();
            // What it wrote last counts, even if it has ended since.
            if ended.is_some() && holds(self) {
                return;
            }
            assert!(
                ended.is_none() && self.started.elapsed() < self.limit,
                "waited in vain until {what} ({ended:?})\n{}",
                self.report()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Wait for the end and check every expectation.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                self.started.elapsed() < self.limit,
                "did not end within {:?}\n{}",
                self.limit,
                self.report()
            );
            thread::sleep(Duration::from_millis(1));
        };
        let output = Output {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
            elapsed: self.started.elapsed(),
            command: self.command.clone(),
        };
        self.expected.check(&output);
        output
    }

    fn report(&self) -> String {
        format!(
            "$ {}\n--- stdout\n{}--- stderr\n{}---",
            self.command,
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, as it should have been.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Expected {
    #[track_caller]
    fn check(&self, output: &Output) {
        match self.signal {
            Some(signal) => assert_eq!(
                output.status.signal(),
                Some(signal as i32),
                "expected to be ended by {signal}\n{output}"
            ),
            None if self.any_status => {}
            None => assert_eq!(
                output.status.code(),
                Some(self.status.unwrap_or(0)),
                "unexpected exit status\n{output}"
            ),
        }
        if let Some(stdout) = &self.stdout {
            assert_eq!(
                *stdout, output.stdout,
                "unexpected standard output\n{output}"
            );
        }
        for text in &self.stdout_has {
            assert!(
                output.stdout.contains(text),
                "no {text:?} in stdout\n{output}"
            );
        }
        for text in &self.stderr_has {
            assert!(
                output.stderr.contains(text),
                "no {text:?} in stderr\n{output}"
            );
        }
        for text in &self.stderr_lacks {
            assert!(
                !output.stderr.contains(text),
                "{text:?} in stderr\n{output}"
            );
        }
        if let Some(within) = self.within {
            assert!(
                output.elapsed < within,
                "took longer than {within:?}\n{output}"
            );
        }
    }
}

impl Output {
    /// The lines that tell of a refusal, as key and value.
    pub fn refusals(&self) -> Vec<BTreeMap<String, String>> {
        self.stderr
            .lines()
            // Somewhere in a line: what the child has not ended with a newline is before it.
            .filter_map(|line| Some(line.split_once(" BLOCKED reason=")?.1))
            .map(|pairs| parse_pairs(&format!("reason={pairs}")))
            .collect()
    }

    /// The one refusal that is expected.
    #[track_caller]
    pub fn refusal(&self) -> BTreeMap<String, String> {
        let mut refusals = self.refusals();
        assert_eq!(refusals.len(), 1, "expected one refusal\n{self}");
        refusals.pop().unwrap()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        writeln!(f, "{} after {} ms", self.status, self.elapsed.as_millis())?;
        writeln!(
            f,
            "--- stdout\n{}\n--- stderr\n{}\n---",
            self.stdout, self.stderr
        )
    }
}

/// Split `key=value key="quoted \"value\""`.
fn parse_pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = text;
    while let Some((key, tail)) = rest.split_once('=') {
        let (value, tail) = match tail.strip_prefix('"') {
            None => tail
                .split_once(' ')
                .map_or((tail.to_owned(), ""), |(value, tail)| {
                    (value.to_owned(), tail)
                }),
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, char)) = chars.next() {
                    match char {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                        other => value.push(other),
                    }
                }
                (value, &quoted[end..])
            }
        };
        pairs.insert(key.trim().to_owned(), value);
        rest = tail;
    }
    pairs
}

fn shown(argv: &[OsString]) -> String {
    let words: Vec<_> = argv.iter().map(|arg| arg.to_string_lossy()).collect();
    words.join(" ")
}

/// A file in memory, to which several processes may write at once: without O_APPEND the
/// kernel does not order them, as it does for files that have a name.
fn memory() -> File {
    let file = memfd_create(c"output", MFdFlags::MFD_CLOEXEC).unwrap();
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).unwrap();
    file.into()
}

fn contents(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// dup2(2), which leaves the new descriptor open across exec; not so where it is the old one,
/// with which dup2 does nothing.
fn duplicate(fd: &OwnedFd, number: i32) -> nix::Result<()> {
    if fd.as_raw_fd() == number {
        return fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop);
    }
    // SAFETY: nothing in this process, which is about to exec, owns `number`.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    Errno::result(result).map(drop)
}
