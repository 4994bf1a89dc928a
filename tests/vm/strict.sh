# --strict does all it promises on every kernel.
status=0
cgfw run -v --strict --block 192.0.2.1 -- sh -uc '
    echo "pid $(cut -d " " -f 4 /proc/self/stat) of $(ls -d /proc/[0-9]* | wc -l)"
    grep -E "^(NoNewPrivs|Seccomp|CapBnd):" /proc/self/status
    ls /sys/fs/cgroup
    for file in /proc/sys/kernel/core_pattern /sys/kernel/profiling; do
        echo 1 2>&1 >$file
    done
    mount -t cgroup2 none /tmp 2>&1
    unshare -n true 2>&1
    nc 192.0.2.1 80 </dev/null 2>&1
    kill -9 1
    sh -c "sleep 1000 &"
    exit 7' >/tmp/stdout 2>/tmp/stderr || status=$?
cat /tmp/stdout /tmp/stderr
test $status = 7
grep -q '^NoNewPrivs:.1$' /tmp/stdout
grep -q '^Seccomp:.2$' /tmp/stdout
grep -q '^CapBnd:.00000000b184c7fb$' /tmp/stdout
grep -q 'mount: .*Operation not permitted\|mount: permission denied' /tmp/stdout
grep -q 'unshare: .*Operation not permitted' /tmp/stdout
grep -q 'nc: .*Connection refused' /tmp/stdout
grep -q 'sleep 1000' /tmp/stderr
if grep -q 'cgroup.procs' /tmp/stdout || pidof sleep; then
    exit 1
fi
# By default the small filter is there, on every kernel, too.
cgfw run --block 192.0.2.1 -- grep '^Seccomp:.2$' /proc/self/status
