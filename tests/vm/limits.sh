# Before 5.11 the kernel counts eBPF in RLIMIT_MEMLOCK. What cgfw raises for itself, the
# child does not get.
ulimit -Sl 64
ulimit -Hl 128
ulimit -Sn 100
cat /proc/self/limits >/tmp/before
cgfw run --block 192.0.2.1 -- cat /proc/self/limits >/tmp/inside
diff /tmp/before /tmp/inside
