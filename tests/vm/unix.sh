# That the command turns to unix sockets of others is seen on every kernel. It passes.
sockets stream serve /tmp/watched &
sockets dgram serve @out >/tmp/heard &
until grep -qs '/tmp/watched$' /proc/net/unix && grep -q '@out$' /proc/net/unix; do usleep 100000; done
cat >/tmp/inside <<'END'
sockets stream call /tmp/watched
sockets dgram call @out
sockets dgram call @out
END
cgfw run -v --block 192.0.2.1 -- sh /tmp/inside >/tmp/stdout 2>/tmp/stderr
cat /tmp/stderr
grep -qx hello /tmp/stdout
test "$(grep -c '^hello$' /tmp/heard)" = 2
grep '^cgfw: filter: ' /tmp/stderr | grep -q '; seen: unix sockets,'
for call in 'stream call /tmp/watched' 'dgram call @out'; do
    grep '^WARN DELEGATION ALLOWED ' /tmp/stderr | grep -F "cmd=\"sockets $call\"" |
        grep -qF "socket=\"${call##* }\""
done
case $(uname -r) in
    [56].[1-6].* | 5.10.*)
        # What is its own is no delegation, nor what others do among themselves.
        cat >/tmp/inside <<'END'
sockets stream serve /tmp/watched.own &
server=$!
until grep -q '/tmp/watched.own$' /proc/net/unix; do usleep 100000; done
sockets stream call /tmp/watched.own
kill "$server"
END
        { until grep -qs '/tmp/watched.own$' /proc/net/unix; do usleep 100000; done
            sockets stream call /tmp/watched; } &
        cgfw run -v --block 192.0.2.1 -- sh /tmp/inside >/tmp/stdout 2>/tmp/stderr
        cat /tmp/stderr
        grep -qx hello /tmp/stdout
        if grep -q DELEGATION /tmp/stderr; then exit 1; fi
        ;;
esac
