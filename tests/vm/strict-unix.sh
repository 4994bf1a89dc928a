# Under --strict unix sockets lead to the run's own processes only, and no socket is passed in.
#: since 6.1
ready() { until grep -qs "$1\$" /proc/net/unix; do usleep 100000; done; }
for kind in stream seqpacket dgram; do
    sockets "$kind" serve "/tmp/$kind" >>"/tmp/$kind.heard" &
    sockets "$kind" serve "@$kind" >>"/tmp/$kind.heard" &
    ready "/tmp/$kind"
    ready "@$kind"
done

# Bare, all of it works.
for kind in stream seqpacket dgram; do
    sockets "$kind" call "/tmp/$kind"
    sockets "$kind" call "@$kind"
done >/tmp/said
test "$(grep -c '^hello$' /tmp/said)" = 4
test "$(grep -c '^hello$' /tmp/dgram.heard)" = 2
sockets stream take /tmp/taker >/tmp/taken &
taker=$!
ready /tmp/taker
sockets stream pass /tmp/taker
wait "$taker"
grep -qx 'socket taken' /tmp/taken
grep -qx 'file taken' /tmp/taken
rm /tmp/taker

cat >/tmp/inside <<'END'
for kind in stream seqpacket dgram; do
    sockets "$kind" call "/tmp/$kind"
    sockets "$kind" call "@$kind"
done
sockets stream serve /tmp/own &
servers=$!
sockets dgram serve @own &
servers="$servers $!"
until grep -q /tmp/own /proc/net/unix && grep -q @own /proc/net/unix; do usleep 100000; done
sockets stream call /tmp/own
sockets dgram call @own
sockets stream take /tmp/taker
kill $servers
END
{ ready /tmp/taker && sockets stream pass /tmp/taker; } &
cgfw run --strict -v --block 192.0.2.1 -- sh /tmp/inside >/tmp/stdout 2>/tmp/stderr
cat /tmp/stdout /tmp/stderr

# What is outside was refused and did not hear of it; what is its own worked.
test "$(grep -c '^connect: Operation not permitted$' /tmp/stderr)" = 6
test "$(grep -c '^hello$' /tmp/dgram.heard)" = 2
test "$(grep -c '^hello$' /tmp/stdout)" = 2
grep -qx 'socket refused' /tmp/stdout
grep -qx 'file taken' /tmp/stdout

# The start line says so, and each refusal is reported once. (Who listens there is not known
# on a machine without unix_diag.)
grep '^cgfw: filter: ' /tmp/stderr | grep 'unix sockets to its own processes only' |
    grep -q 'file_receive .*unix_may_send unix_stream_connect on'
for kind in stream seqpacket dgram; do
    for socket in "/tmp/$kind" "@$kind"; do
        grep '^WARN DELEGATION BLOCKED ' /tmp/stderr | grep "cmd=\"sockets $kind call $socket\"" |
            grep -q "socket=\"$socket\""
    done
done
test "$(grep -c '^WARN DELEGATION BLOCKED ' /tmp/stderr)" = 6
grep '^WARN CONNECT BLOCKED ' /tmp/stderr | grep 'proto=udp' | grep -q 'cmd="sockets stream take'
test "$(grep -c ' BLOCKED ' /tmp/stderr)" = 7
