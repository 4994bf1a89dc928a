# A kernel that takes LSM programs and does not run them is found out. Then, and before 6.0,
# which does not take them, --strict has no unix sockets at all.
#: boot lsm=landlock,lockdown,yama
sockets stream serve /tmp/out &
until grep -qs '/tmp/out$' /proc/net/unix; do usleep 100000; done
test "$(sockets stream call /tmp/out)" = hello
status=0
cgfw run --strict -v --block 192.0.2.1 -- sockets stream call /tmp/out 2>/tmp/stderr || status=$?
cat /tmp/stderr
test "$status" = 1
grep -qx 'socket: Permission denied' /tmp/stderr
grep '^cgfw: filter: ' /tmp/stderr >/tmp/start
case $(uname -r) in
    5.*) reason='(the kernel does not take them: Invalid argument (os error 22))' ;;
    *) reason='(a process inside can connect to a unix socket outside; ' ;;
esac
grep -qF "no unix sockets, because no LSM program can judge them here $reason" /tmp/start
# What does not run is not said to be there.
if grep -q unix_stream_connect /tmp/start; then exit 1; fi
