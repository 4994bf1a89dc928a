//! Machines that cannot do what cgfw needs: one clear message, 125, and nothing was run.

use crate::support::Lab;
use crate::support::bpf;
use crate::support::lab::DEV;

/// Run cgfw by `wrapper` and expect it to refuse, naming all of `words`.
#[track_caller]
fn check(lab: &Lab, wrapper: &[&str], words: &[&str]) {
    let mut test = lab
        .command(wrapper[0])
        .args(&wrapper[1..])
        .args(["cgfw", "run", "--block", "github.com"])
        .sh("touch was-run")
        .status(125);
    for word in words {
        test = test.stderr_has(*word);
    }
    test.run();
    assert!(!lab.exists("was-run"), "the command ran");
}

#[test]
fn without_root() {
    let Some(lab) = Lab::new() else { return };
    lab.cgfw()
        .args(["--block", "github.com"])
        .user(&DEV)
        .sh("touch was-run")
        .status(125)
        .stderr_has("sudo")
        .run();
    assert!(!lab.exists("was-run"), "the command ran");
}

#[test]
fn without_a_capability() {
    let Some(lab) = Lab::new() else { return };
    let without = |caps: &'static str| ["setpriv", "--bounding-set", caps];
    check(&lab, &without("-bpf,-sys_admin"), &["CAP_"]);
    check(&lab, &without("-net_admin,-sys_admin"), &["CAP_"]);
}

#[test]
fn without_cgroup2() {
    let Some(lab) = Lab::new() else { return };
    let unmount = "for mount in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do \
                   umount --lazy $mount; done; exec \"$@\"";
    check(
        &lab,
        &["unshare", "--mount", "sh", "-c", unmount, "sh"],
        &["cgroup2"],
    );
}

#[test]
fn with_an_ancestor_that_forbids_further_programs() {
    let Some(lab) = Lab::new() else { return };
    bpf::attach_exclusively(lab.cgroup().path());
    check(&lab, &["env"], &["cgroup", "attach"]);
}

#[test]
fn with_a_read_only_cgroup2() {
    let Some(lab) = Lab::new() else { return };
    let remount = "mount=$(awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts); \
                   mount --bind $mount $mount && mount -o remount,bind,ro $mount; exec \"$@\"";
    check(
        &lab,
        &["unshare", "--mount", "sh", "-c", remount, "sh"],
        &["Read-only file system"],
    );
}
