# A run leaves no cgroup behind.
cgfw run --block 192.0.2.1 -- true
find /sys/fs/cgroup -mindepth 1 -type d >/tmp/left
cat /tmp/left
test ! -s /tmp/left
