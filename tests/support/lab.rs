/*!
One client machine and one internet, joined by a wire.

The client has its own /etc (an overlay), /run, /tmp and /mnt (empty file systems of its
own), so that a test may change them at will, and what cgfw leaves in them is seen.
*/

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use super::cgroup::Cgroup;
use super::command::{Test, User};
use super::dns;
use super::internet::Internet;
use super::namespace::Namespaces;
use super::sniffer::Sniffer;
use super::{clients, web};

/// Where commands run; everybody may write there.
pub const WORK: &str = "/mnt/work";

/// The host's programs, not what its root user has added, and the lab's own.
const PATH: &str = "/mnt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An ordinary user of the client machine, with a supplementary group. May use sudo without
/// a password.
pub const DEV: User = User {
    name: "dev",
    uid: 4242,
    gid: 4242,
    groups: &[4242, 4243],
    home: "/mnt/home",
};

/// Ends, with all that runs in it, when dropped; and fails the test if cgfw left
/// anything behind.
pub struct Lab {
    // In the order in which they have to go.
    cgroup: Cgroup,
    internet: Internet,
    client: Namespaces,
    wire: Namespaces,
    /// The mounts and files of the client before the first command.
    before: Traces,
}

/// What a command could leave on the client machine.
struct Traces {
    mounts: Vec<String>,
    files: Vec<String>,
}

impl Lab {
    /// Build a lab, or say why this machine cannot.
    pub fn new() -> Option<Self> {
        if !geteuid().is_root() {
            skip(&format!(
                "the lab needs root, and the effective uid is {}",
                geteuid()
            ));
            return None;
        }
        let wire = Namespaces::network();
        let client = Namespaces::machine(furnish);
        connect(&wire, &client);
        let internet = Internet::start(&wire);
        let before = client.run(Traces::take);
        Some(Self {
            cgroup: Cgroup::create(),
            internet,
            client,
            wire,
            before,
        })
    }

    /// `cgfw run`, in the client.
    pub fn cgfw(&self) -> Test<'_> {
        self.command("cgfw").arg("run")
    }

    /// A command in the client, not filtered.
    pub fn command(&self, program: &str) -> Test<'_> {
        Test::inside(program, &self.client, self.cgroup.path(), WORK)
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("USER", "root")
            .env("LANG", "C.UTF-8")
            .env("SSL_CERT_FILE", "/etc/lab-ca.pem")
    }

    /// A shell script in the client, not filtered.
    pub fn sh(&self, script: &str) -> Test<'_> {
        self.command("sh").arg("-c").arg(script)
    }

    pub fn internet(&self) -> &Internet {
        &self.internet
    }

    pub fn client(&self) -> &Namespaces {
        &self.client
    }

    /// The other end of the wire.
    pub fn internet_end(&self) -> &Namespaces {
        &self.wire
    }

    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Watch what arrives at the internet's end of the wire.
    pub fn sniff(&self) -> Sniffer {
        Sniffer::start(&self.wire, &self.client, None)
    }

    /// The same, but for what is sent to `address` alone.
    pub fn sniff_to(&self, address: Ipv4Addr) -> Sniffer {
        Sniffer::start(&self.wire, &self.client, Some(address))
    }

    pub fn write(&self, path: &str, contents: &str) {
        self.client.run(|| fs::write(at(path), contents)).unwrap();
    }

    /// Write an executable file.
    pub fn script(&self, path: &str, contents: &str) {
        self.client
            .run(|| {
                fs::write(at(path), contents)?;
                fs::set_permissions(at(path), fs::Permissions::from_mode(0o755))
            })
            .unwrap();
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let read = self.client.run(|| fs::read_to_string(at(path)));
        read.unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.client.run(|| at(path).exists())
    }

    /// Let resolv.conf name these servers, each of which gets `patience` seconds to answer.
    pub fn nameservers(&self, servers: &[&str], patience: u32) {
        self.write("/etc/resolv.conf", &resolv_conf(servers, patience));
    }

    /// Publish a git repository as <https://NAME/repository.git> on every web server.
    pub fn publish_repository(&self) {
        self.sh(
            "git init --quiet --initial-branch=main source && cd source &&
             echo 'a file of the lab' > file && git add file &&
             git -c user.name=lab -c user.email=lab@example.com commit --quiet --message=lab &&
             git clone --quiet --bare . ../repository.git &&
             git -C ../repository.git update-server-info",
        )
        .run();
        let files = self.client.run(|| {
            let mut files = HashMap::new();
            read_tree(Path::new(WORK), Path::new("repository.git"), &mut files);
            files
        });
        self.internet.publish(files);
    }

    /// Wait until no process is left in the lab's cgroup and no cgroup below it.
    #[track_caller]
    pub fn expect_gone_within(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let (processes, cgroups) = (self.cgroup.processes(), self.cgroup.children());
            if processes.is_empty() && cgroups.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left after {limit:?}: cgroups {cgroups:?}, processes {:?}",
                processes
                    .iter()
                    .map(|pid| describe(*pid))
                    .collect::<Vec<_>>()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Nothing that a run makes has outlived it.
    #[track_caller]
    fn expect_no_traces(&self) {
        self.expect_gone_within(Duration::from_secs(1));
        let after = self.client.run(Traces::take);
        let new = |before: &[String], after: Vec<String>| -> Vec<String> {
            after
                .into_iter()
                .filter(|trace| !before.contains(trace))
                .collect()
        };
        let mounts = new(&self.before.mounts, after.mounts);
        let files = new(&self.before.files, after.files);
        assert!(mounts.is_empty(), "mounts were left: {mounts:#?}");
        assert!(files.is_empty(), "files were left: {files:#?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.expect_no_traces();
        }
    }
}

impl Traces {
    fn take() -> Self {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mut files = Vec::new();
        for root in ["/tmp", "/run", "/dev/shm"] {
            list(Path::new(root), &mut files);
        }
        // The cache of kernel facts may stay, as may what sudo and mount keep of their own.
        let kept = ["/run/cgfw", "/run/sudo", "/run/mount"];
        files.retain(|file| !kept.iter().any(|kept| file.starts_with(kept)));
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            files,
        }
    }
}

/// Print that a check cannot run here, and why, for `cargo xtask test` to count.
#[expect(
    clippy::print_stdout,
    reason = "this is the output of a test, and captured as such"
)]
pub fn skip(proof: &str) {
    let test = thread::current().name().unwrap_or("unknown").to_owned();
    println!("SKIP {test}: {proof}");
}

/// Paths that are not absolute are in [`WORK`], as for the commands.
fn at(path: &str) -> PathBuf {
    Path::new(WORK).join(path)
}

/// "PID: command line", for messages.
fn describe(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid}: {}",
        String::from_utf8_lossy(&line).replace('\0', " ")
    )
}

fn list(dir: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().filter_map(Result::ok) {
        files.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), files);
        }
    }
}

fn read_tree(root: &Path, relative: &Path, files: &mut HashMap<String, Vec<u8>>) {
    for entry in fs::read_dir(root.join(relative)).unwrap() {
        let entry = entry.unwrap();
        let path = relative.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_tree(root, &path, files);
        } else {
            files.insert(
                format!("/{}", path.display()),
                fs::read(entry.path()).unwrap(),
            );
        }
    }
}

/// A resolver that is not answered waits longer than any refusal may take.
pub const PATIENCE: u32 = 15;

fn resolv_conf(servers: &[&str], patience: u32) -> String {
    let mut text = format!("options timeout:{patience} attempts:2\n");
    for server in servers {
        writeln!(text, "nameserver {server}").unwrap();
    }
    text
}

/// Prepare the file systems of the client; runs in its new mount namespace.
fn furnish() {
    // The host must not see our mounts. What mounts there later need not reach us, but
    // within the client mounts propagate, as they do on a machine with systemd.
    remount(MsFlags::MS_PRIVATE);
    let programs: Vec<(String, fs::File)> = clients::programs()
        .into_iter()
        .map(|(name, path)| (format!("/mnt/bin/{name}"), fs::File::open(path).unwrap()))
        .collect();
    let examples = fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).unwrap();
    for (path, mode) in [("/mnt", 0o755), ("/run", 0o755), ("/tmp", 0o1777)] {
        mount_new("tmpfs", path, &format!("mode={mode:o}"));
    }
    for dir in ["bin", "work", "home", "examples", "etc", "etc.work"] {
        fs::create_dir(Path::new("/mnt").join(dir)).unwrap();
    }
    fs::set_permissions(WORK, fs::Permissions::from_mode(0o777)).unwrap();
    chown(DEV.home, Some(DEV.uid), Some(DEV.gid)).unwrap();
    for (path, program) in &programs {
        fs::write(path, "").unwrap();
        bind(program, path);
    }
    bind(&examples, "/mnt/examples");
    mount_new(
        "overlay",
        "/etc",
        "lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/etc.work",
    );
    furnish_etc();
    remount(MsFlags::MS_SHARED);
}

fn furnish_etc() {
    let User {
        name,
        uid,
        gid,
        home,
        ..
    } = DEV;
    append(
        "/etc/passwd",
        &format!("{name}:x:{uid}:{gid}:Lab:{home}:/bin/sh\n"),
    );
    append(
        "/etc/group",
        &format!("{name}:x:{gid}:\ndeployers:x:4243:{name}\n"),
    );
    append("/etc/shadow", &format!("{name}:*:19000:0:99999:7:::\n"));
    for (path, text) in [
        (
            "/etc/resolv.conf",
            resolv_conf(&[&dns::RESOLVER.to_string()], PATIENCE),
        ),
        (
            "/etc/hosts",
            format!("127.0.0.1 localhost {}\n::1 localhost\n", host_name()),
        ),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\n".to_owned(),
        ),
        // A gai.conf, curlrc or wgetrc of the host would change what the clients do.
        ("/etc/gai.conf", String::new()),
        ("/etc/wgetrc", String::new()),
        ("/etc/lab-ca.pem", web::root_certificate().to_owned()),
    ] {
        // A symbolic link of the host, into /run for instance, is replaced and not followed.
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_file(path).unwrap();
        }
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    if fs::symlink_metadata(bundle).is_ok() {
        fs::remove_file(bundle).unwrap();
    }
    symlink("/etc/lab-ca.pem", bundle).unwrap();
    let sudoers = "/etc/sudoers.d/lab";
    fs::write(
        sudoers,
        format!("{name} ALL=(ALL:ALL) NOPASSWD:SETENV: ALL\n"),
    )
    .unwrap();
    fs::set_permissions(sudoers, fs::Permissions::from_mode(0o440)).unwrap();
}

/// sudo wants the host's name to resolve.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim_end().to_owned()
}

fn append(path: &str, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn remount(propagation: MsFlags) {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | propagation,
        None::<&str>,
    )
    .unwrap();
}

fn mount_new(kind: &str, path: &str, options: &str) {
    mount(
        Some(kind),
        path,
        Some(kind),
        MsFlags::empty(),
        Some(options),
    )
    .unwrap_or_else(|error| panic!("cannot mount {kind} on {path}: {error}"));
}

fn bind(source: &fs::File, target: &str) {
    let source = format!("/proc/thread-self/fd/{}", source.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap_or_else(|error| panic!("cannot bind {target}: {error}"));
}

/// Join the two with a veth pair. All of the documentation networks are local to the
/// internet (RFC 5737, RFC 3849), but for the upper half of 198.51.100.0/24, where
/// nobody lives; a gateway for NAT64 (RFC 6052) is the internet itself. Of every kind of
/// private network a part is there, too, and a cloud's metadata service.
fn connect(wire: &Namespaces, client: &Namespaces) {
    let client_net = format!("/proc/{}/fd/{}", std::process::id(), client.net.as_raw_fd());
    ip(
        wire,
        &format!(
            "link set lo up
             link add wire type veth peer name eth0 netns {client_net}
             addr add 192.0.2.1/24 dev wire
             addr add 2001:db8:0:1::1/64 dev wire nodad
             addr add fe80::1/64 dev wire nodad
             link set wire up
             route add local 198.51.100.0/25 dev lo
             route add local 203.0.113.0/24 dev lo
             route add local 2001:db8:53::/64 dev lo
             route add local 2001:db8:100::/64 dev lo
             route add local 2001:db8:200::/64 dev lo
             route add local 64:ff9b::/96 dev lo
             route add local 10.9.0.0/24 dev lo
             route add local 172.20.0.0/24 dev lo
             route add local 192.168.9.0/24 dev lo
             route add local 100.100.0.0/24 dev lo
             route add local 169.254.169.254 dev lo
             route add local fd00:9::/64 dev lo"
        ),
    );
    ip(
        client,
        "link set lo up
         addr add 192.0.2.10/24 dev eth0
         addr add 2001:db8:0:1::10/64 dev eth0 nodad
         link set eth0 up
         route add default via 192.0.2.1
         route add default via 2001:db8:0:1::1",
    );
    // IPv6 lets a socket bind to an address that only a route makes local with this alone.
    wire.run(|| fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1"))
        .unwrap();
    // As systemd sets it: everybody may ping without raw sockets.
    client
        .run(|| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"))
        .unwrap();
}

/// Run ip(8) commands, one a line, in the network of `namespaces`.
pub fn ip(namespaces: &Namespaces, commands: &str) {
    let net = namespaces.net.try_clone().unwrap();
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    let enter = move || {
        Ok(nix::sched::setns(
            &net,
            nix::sched::CloneFlags::CLONE_NEWNET,
        )?)
    };
    // SAFETY: setns(2) is a bare system call, async-signal-safe.
    unsafe { command.pre_exec(enter) };
    let mut child = command.spawn().expect("cannot run ip, of iproute2");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "ip failed on:\n{commands}");
}
