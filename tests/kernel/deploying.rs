//! A script that deploys, under `--strict`: what must still work, and what is refused with a
//! message that can be understood.

use std::time::Duration;

use crate::support::Lab;
use crate::support::lab::DEV;

const STRICT: [&str; 3] = ["--block", "github.com", "--strict"];
const AS_DEV: [&str; 2] = ["--user", "dev"];

/// The script prints `output`, as root and as an ordinary user, without cgfw and with
/// `--strict`.
#[track_caller]
fn works(lab: &Lab, script: &str, output: &str) {
    let script = format!("set -eu; cd $(mktemp -d -p /mnt/work); {script}");
    let bash = ["bash", "-c", &script];
    lab.command("bash")
        .args(&bash[1..])
        .stdout(output)
        .limit(Duration::from_mins(1))
        .run();
    for user in [&[][..], &AS_DEV] {
        lab.cgfw()
            .args(STRICT)
            .args(user)
            .child(bash)
            .stdout(output)
            .limit(Duration::from_mins(1))
            .run();
    }
}

/// The script works for root alone, also with `--strict`.
#[track_caller]
fn works_for_root(lab: &Lab, script: &str, output: &str) {
    let script = format!("set -eu; cd $(mktemp -d -p /mnt/work); {script}");
    lab.sh(&script).stdout(output).run();
    lab.cgfw()
        .args(STRICT)
        .sh(&script)
        .stdout(output)
        .limit(Duration::from_mins(1))
        .run();
}

#[test]
fn a_shell() {
    let Some(lab) = Lab::new() else { return };
    works(
        &lab,
        "seq 1 1000 | sort -rn | head -n 1; echo $(printf a | tr a b); cat <(echo c) <<< d; \
         (exec 9> lock; flock 9; echo e); trap 'echo f' EXIT; wait; nice -n 5 true",
        "1000\nb\nc\ne\nf\n",
    );
    works(
        &lab,
        "printf '.PHONY: all\\nall: a b c\\n%%:\\n\\t@sleep 0.1; touch $@\\n' > Makefile; \
         make -s -j 3; ls; make -s -j 3",
        "Makefile\na\nb\nc\n",
    );
    works(
        &lab,
        "mkdir a && echo x > a/b && chmod 640 a/b && ln -s b a/c && tar czf a.tgz a && rm -r a && \
         tar xzf a.tgz && stat -c '%a %F' a/b a/c && sha256sum a/c | cut -c 1-8",
        "640 regular file\n777 symbolic link\n73cb3858\n",
    );
}

#[test]
fn compilers_and_interpreters() {
    let Some(lab) = Lab::new() else { return };
    works(
        &lab,
        "printf '#include <stdio.h>\\nint main(void) { puts(\"built\"); }' > a.c; \
         gcc -O2 -pipe -o a a.c; ./a",
        "built\n",
    );
    works(
        &lab,
        "cat > a.js <<'END'
const { execFile, fork } = require('child_process');
const { Worker } = require('worker_threads');
const http = require('http');
if (process.argv[2]) process.send('forked');
else execFile('echo', ['spawned'], (error, out) => {
  process.stdout.write(out);
  fork(__filename, ['child']).on('message', (text) => {
    console.log(text);
    new Worker(\"require('worker_threads').parentPort.postMessage('worked')\", { eval: true })
      .on('message', (text) => {
        console.log(text);
        const server = http.createServer((_, answer) => answer.end('served\\n'));
        server.listen(0, '127.0.0.1', () => http.get(server.address(), (answer) => {
          answer.on('end', () => server.close()).pipe(process.stdout);
        }));
      });
  });
});
END
node a.js",
        "spawned\nforked\nworked\nserved\n",
    );
    works(
        &lab,
        "cat > a.py <<'END'
import multiprocessing, sqlite3, subprocess, tempfile, threading
if __name__ == '__main__':
    print(subprocess.run(['tr', 'a', 'b'], input=b'a', capture_output=True).stdout.decode())
    with multiprocessing.Pool(2) as pool:
        print(pool.map(abs, [-1, 2]))
    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=queue.put, args=['queued'])
    process.start()
    print(queue.get())
    process.join()
    thread = threading.Thread(target=print, args=['threaded'])
    thread.start()
    thread.join()
    with tempfile.NamedTemporaryFile() as file:
        print(sqlite3.connect(file.name).execute('select 3').fetchone())
END
python3 a.py",
        "b\n[1, 2]\nqueued\nthreaded\n(3,)\n",
    );
}

#[test]
fn git_and_the_network() {
    let Some(lab) = Lab::new() else { return };
    lab.publish_repository();
    works(
        &lab,
        "git clone --quiet https://allowed.example/repository.git clone; cd clone; cat file; \
         echo more >> file; git -c user.name=dev -c user.email=dev@example.com commit -qam more; \
         git log --format=%s; curl --silent http://example.com/; getent ahostsv4 example.com | \
         cut -d ' ' -f 1 | uniq",
        "a file of the lab\nmore\nlab\nhello from example.com\n203.0.113.20\n",
    );
    for user in [&[][..], &AS_DEV] {
        let output = lab
            .cgfw()
            .args(STRICT)
            .args(user)
            .child(["curl", "--silent", "http://github.com/"])
            .status(6)
            .run();
        assert_eq!(output.refusal()["domain"], "github.com.", "{output}");
    }
}

#[test]
fn packages_and_owners() {
    let Some(lab) = Lab::new() else { return };
    works_for_root(
        &lab,
        "mkdir -p package/DEBIAN package/opt root/var/lib/dpkg/info root/var/lib/dpkg/updates; \
         printf 'Package: lab\\nVersion: 1\\nArchitecture: all\\nMaintainer: lab\\n\
         Description: lab\\n' > package/DEBIAN/control; \
         echo payload > package/opt/file; chown -R dev:deployers package/opt; \
         dpkg-deb --build package lab.deb > log 2>&1; \
         touch root/var/lib/dpkg/status root/var/lib/dpkg/available; \
         dpkg --root=root --install lab.deb >> log 2>&1; \
         cat root/opt/file; stat -c '%U %G' root/opt/file; \
         dpkg --root=root --remove lab >> log 2>&1; ls root",
        "payload\ndev deployers\nvar\n",
    );
    works_for_root(
        &lab,
        "mkdir -p package/DEBIAN package/opt repository state/lists/partial cache/archives/partial; \
         printf 'Package: lab\\nVersion: 1\\nArchitecture: all\\nMaintainer: lab\\n\
         Description: lab\\n' > package/DEBIAN/control; \
         dpkg-deb --build package repository/lab.deb > log; chmod 755 . repository; \
         (cd repository; cat ../package/DEBIAN/control; echo Filename: ./lab.deb; \
          echo Size: $(stat -c %s lab.deb); \
          echo SHA256: $(sha256sum lab.deb | cut -d ' ' -f 1)) > repository/Packages; \
         echo \"deb [trusted=yes] file:$PWD/repository ./\" > sources.list; touch status; \
         apt() { apt-get -q -o Dir::Etc::sourcelist=$PWD/sources.list \
           -o Dir::Etc::sourceparts=/dev/null -o Dir::State=$PWD/state \
           -o Dir::State::status=$PWD/status -o Dir::Cache=$PWD/cache \"$@\" >> log 2>&1; }; \
         apt update; apt download lab; dpkg-deb --field lab_1_all.deb Package",
        "lab\n",
    );
    works_for_root(
        &lab,
        "touch file; chown dev:deployers file; chmod 4750 file; \
         stat -c '%U %G %a' file; cp -a file copy; stat -c '%U %G %a' copy; \
         su -s /bin/sh dev -c 'id -un; touch /mnt/home/mine'; stat -c %U /mnt/home/mine; \
         nice -n -5 true; chroot / true",
        "dev deployers 4750\ndev deployers 4750\ndev\ndev\n",
    );
}

/// Who runs which script, and with what status and message it ends.
const REFUSED: [(&[&str], &str, i32, &str); 9] = [
    (
        &[],
        "systemctl restart ssh",
        1,
        "Failed to connect to bus: Permission denied",
    ),
    (
        &AS_DEV,
        "systemctl restart ssh",
        1,
        "Failed to connect to bus: Permission denied",
    ),
    (
        &[],
        "curl --silent --show-error --unix-socket /run/docker.sock http://docker/info",
        7,
        "curl: (7)",
    ),
    (
        &AS_DEV,
        "sudo id",
        1,
        "The \"no new privileges\" flag is set, which prevents sudo from running as root",
    ),
    (&AS_DEV, "echo | su -c id", 1, "su: "),
    (
        &[],
        "mount -t tmpfs none /mnt/home",
        32,
        "permission denied",
    ),
    (&[], "mknod node c 1 3", 1, "Operation not permitted"),
    (
        &[],
        "sysctl -w kernel.core_pattern=core",
        1,
        "permission denied on key \"kernel.core_pattern\"",
    ),
    (
        &[],
        "python3 -c 'import multiprocessing; multiprocessing.Manager()'",
        1,
        "Permission denied",
    ),
];

#[test]
fn what_is_refused_says_so() {
    let Some(lab) = Lab::new() else { return };
    // What talks to systemd, to docker and to the system log does it over these.
    let mut daemons = lab
        .command("python3")
        .args([
            "-c",
            "
import os, socket, time
os.makedirs('/run/systemd/system')
os.makedirs('/run/dbus')
sockets = []
for path in ['/run/systemd/private', '/run/dbus/system_bus_socket', '/run/docker.sock']:
    sockets.append(socket.socket(socket.AF_UNIX))
    sockets[-1].bind(path)
    sockets[-1].listen()
    os.chmod(path, 0o666)
print('ready', flush=True)
time.sleep(60)",
        ])
        .any_status()
        .spawn();
    daemons.wait_for_stdout("ready");
    for (user, script, status, message) in REFUSED {
        lab.cgfw()
            .args(STRICT)
            .args(user)
            .sh(script)
            .status(status)
            .stdout("")
            .stderr_has(message)
            .within(Duration::from_secs(20))
            .run();
    }
    lab.sh("sudo id -u").user(&DEV).stdout("0\n").run();
    // CAP_NET_RAW as a file has it, permitted and effective (linux/capability.h).
    let capability = "import os, struct; os.setxattr('/mnt/work/capable', \
                      'security.capability', struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0))";
    lab.sh(&format!(
        "cp /bin/true /mnt/work/capable; python3 -c \"{capability}\"; /mnt/work/capable"
    ))
    .run();
    lab.cgfw()
        .args(STRICT)
        .child(["/mnt/work/capable"])
        .status(126)
        .stderr_has("/mnt/work/capable: cannot execute: Operation not permitted")
        .run();
    lab.cgroup().kill();
    daemons.finish();
    lab.sh("rm -r /run/systemd /run/dbus /run/docker.sock")
        .run();
}

#[test]
fn orphans_are_reaped() {
    let Some(lab) = Lab::new() else { return };
    let zombies = "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & exec setsid true' & done; wait; \
                   sleep 0.5; cat /proc/[0-9]*/status | grep -c '^State:.Z'";
    lab.cgfw()
        .args(STRICT)
        .sh(zombies)
        .stdout("0\n")
        .status(1)
        .run();
    // One that outlives the command has the init for a parent.
    lab.cgfw()
        .args(STRICT)
        .args(["--survivors", "wait"])
        .sh("sh -c 'sleep 0.5; exec grep PPid /proc/self/status' & exit 3")
        .stdout("PPid:\t1\n")
        .status(3)
        .run();
}
