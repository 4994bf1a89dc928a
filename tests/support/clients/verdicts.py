#!/usr/bin/env python3
"""
Try each destination on standard input, a line of HOST, PORT and PROTOCOL, the last two of
which may be `-`: then every port that somebody listens at is tried, and a ping.

verdicts SERVER GO

SERVER is asked for the IPv6 addresses of names that /etc/hosts does not have. Waits for the
file GO first. Prints a line for each: `allowed` if one of its attempts was not refused,
`blocked` otherwise.
"""
import errno, os, socket, struct, sys, threading, time

PORTS = (7, 9, 80, 443, 8080)
# For how long the answer to a ping is waited for, in seconds.
ECHO = 0.25
server, go = sys.argv[1:]


def ask(name):
    """The addresses of a name, as a list."""
    with open("/etc/hosts") as hosts:
        lines = [line.split() for line in hosts]
    found = [line[0] for line in lines if name in line[1:]]
    if found:
        return found
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!HHHHHH", 4711, 0x100, 1, 0, 0, 0) + labels + b"\0\0\x1c\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((server, 53))
        client.send(query)
        reply = client.recv(4096)
    if reply[3] & 0xF not in (0, 3):
        raise SystemExit("%s: rcode %d" % (name, reply[3] & 0xF))
    at = len(query)
    for _ in range(struct.unpack("!H", reply[6:8])[0]):
        while reply[at] and reply[at] < 0xC0:
            at += 1 + reply[at]
        at += 2 if reply[at] else 1
        kind, _, _, length = struct.unpack("!HHIH", reply[at : at + 10])
        at += 10
        if kind == 28:
            found.append(socket.inet_ntop(socket.AF_INET6, reply[at : at + length]))
        at += length
    return found


def passes(address, port, protocol):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    echo = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind, echo if protocol == "ping" else 0) as client:
        client.settimeout(5)
        try:
            if protocol == "tcp":
                client.connect((address, port))
            elif protocol == "udp":
                client.sendto(b"hello", (address, port))
            else:
                kind = 128 if ":" in address else 8
                client.sendto(bytes([kind, 0, 0, 0, 0, 1, 0, 1]) + b"hello", (address, 0))
                # Linux does not say of an ICMPv6 message that it was refused.
                client.settimeout(ECHO)
                client.recv(64)
        except TimeoutError:
            if protocol != "ping":
                raise
            return False
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.EPERM):
                return False
            raise SystemExit("%s %s %s: %s" % (address, port, protocol, error))
    return True


def attempts(port, protocol):
    if port != "-":
        return [(int(port), protocol)]
    return [(port, protocol) for port in PORTS for protocol in ("tcp", "udp")] + [(0, "ping")]


def serve(listener):
    while True:
        listener.accept()[0].close()


# This host's own addresses have no other servers.
for port in PORTS:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
deadline = time.monotonic() + 20
while not os.path.exists(go):
    if time.monotonic() > deadline:
        raise SystemExit("there was no " + go)
    time.sleep(0.01)
for line in sys.stdin:
    host, port, protocol = line.split()
    addresses = [host] if ":" in host or host[-1].isdigit() else ask(host)
    allowed = any(
        passes(address, *attempt) for address in addresses for attempt in attempts(port, protocol)
    )
    print("allowed" if allowed else "blocked")
