# The command runs in a cgroup of its own, and the run leaves none behind.
cgfw run --block 192.0.2.1 -- cat /proc/self/cgroup >/tmp/inside
cat /tmp/inside
grep -q '^0::/.' /tmp/inside
find /sys/fs/cgroup -mindepth 1 -type d >/tmp/left
cat /tmp/left
test ! -s /tmp/left
# What outlives the command is ended with it, and its cgroup too.
cgfw run --block 192.0.2.1 -- sh -c 'setsid sleep 1000 & cd /sys/fs/cgroup/cgfw-* && mkdir below'
if pidof sleep; then
    echo "sleep was left"
    exit 1
fi
find /sys/fs/cgroup -mindepth 1 -type d >/tmp/left
cat /tmp/left
test ! -s /tmp/left
