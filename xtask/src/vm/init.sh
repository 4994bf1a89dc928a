#!/bin/busybox sh
# The init of the virtual machine: runs every script in /cases and says what came of it in
# lines that the host waits for (xtask/src/vm/machine.rs).
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# A network that answers nobody: unfiltered, a connect to it waits for its timeout.
ip route add 192.0.2.0/24 dev lo
# Own addresses, which answer.
ip addr add 198.51.100.1/32 dev lo
ip addr add 2001:db8::1/128 dev lo
echo 'root:x:0:0:root:/:/bin/sh' >/etc/passwd
echo '127.0.0.1 localhost' >/etc/hosts
echo 'nameserver 192.0.2.53' >/etc/resolv.conf

echo "CGFW-VM up $(uname -r)"
for case in /cases/*; do
    if timeout 60 sh -eu "$case" >/verdict 2>&1; then
        echo "CGFW-VM pass ${case##*/}"
    else
        status=$?
        tail -n 50 /verdict
        echo "CGFW-VM fail ${case##*/} with status $status"
    fi
done
echo "CGFW-VM end"
poweroff -f
