# A datagram to a blocked address is refused where it is sent: by the hook on sendto() with
# an address, and by the one on packets.
if cgfw run --block 192.0.2.1 -- tftp -g -r file 192.0.2.1 2>/tmp/stderr; then
    echo "tftp was not refused"
    exit 1
fi
cat /tmp/stderr
grep -Eq '^tftp: sendto: (Connection refused|Operation not permitted)$' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=packet' | grep -q 'cmd="tftp -g -r file 192.0.2.1"'
if cgfw run --block 192.0.2.1 -- ping -c 1 -W 30 192.0.2.1 2>/tmp/stderr; then
    echo "ping was not refused"
    exit 1
fi
cat /tmp/stderr
grep -q '^ping: sendto: Operation not permitted$' /tmp/stderr
grep 'BLOCKED' /tmp/stderr | grep 'blockedAt=packet' | grep -q 'cmd="ping -c 1 -W 30 192.0.2.1"'
