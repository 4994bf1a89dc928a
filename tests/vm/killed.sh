# A cgfw that is killed takes its command along, with everything that the command started.
cgfw run --block 192.0.2.1 -- sh -c 'setsid sleep 1000 & sleep 1000' &
pid=$!
while ! test "$(pidof sleep | wc -w)" = 2; do sleep 0.1; done
find /sys/fs/cgroup -mindepth 1 -type d | grep -q .
kill -9 "$pid"
tries=0
while pidof sleep || find /sys/fs/cgroup -mindepth 1 -type d | grep .; do
    tries=$((tries + 1))
    test "$tries" -lt 50
    usleep 100000
done
