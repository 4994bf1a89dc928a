# The machine is what the other cases take for granted: pure cgroup v2, and types in BTF.
grep -q '^cgroup2 /sys/fs/cgroup cgroup2 ' /proc/mounts
test -s /sys/kernel/btf/vmlinux
