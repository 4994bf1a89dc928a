#!/usr/bin/env python3
"""
Ask SERVER for every NAME on standard input, AT_ONCE of them at a time: each line is a name and
what must come of it, an address, `nxdomain`, or `failure` (SERVFAIL, or a truncated answer).

asks udp|tcp SERVER AT_ONCE

Prints what came of a name otherwise, and a last line: how many were asked, how many of them
in vain, and how long the slowest and all of them took, in milliseconds.
"""
import collections, random, resource, select, socket, struct, sys, time

# A proxy that gives up does so after 4.5 s, as resolv.conf(5) makes clients wait for 5 s; the
# rest is for a machine that is busy.
PATIENCE = 15
transport, server, at_once = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in server else socket.AF_INET


def encode(name, query_id):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", query_id, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def outcome(reply, query):
    """What a client would make of the reply."""
    if reply[:2] != query[:2] or not reply[2] & 0x80 or reply[12:len(query)] != query[12:]:
        return "a reply to something else"
    code = reply[3] & 0xF
    if code == 2 or reply[2] & 2:
        return "failure"
    if code == 3:
        return "nxdomain"
    if code:
        return "rcode %d" % code
    at, found = len(query), []
    for _ in range(struct.unpack("!H", reply[6:8])[0]):
        while reply[at] and reply[at] < 0xC0:
            at += 1 + reply[at]
        at += 2 if reply[at] else 1
        kind, _, _, length = struct.unpack("!HHIH", reply[at : at + 10])
        at += 10
        if kind == 1:
            found.append(socket.inet_ntoa(reply[at : at + 4]))
        at += length
    return " ".join(found) or "nothing"


class Question:
    def __init__(self, line):
        self.name, self.expected = line.split()
        self.query = encode(self.name, random.randrange(65536))
        self.started = time.monotonic()
        self.received = b""
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self.socket = socket.socket(family, kind)
        self.socket.connect((server, 53))
        if transport == "tcp":
            self.socket.send(struct.pack("!H", len(self.query)) + self.query)
        else:
            self.socket.send(self.query)

    def read(self):
        """What came, or None while there is more to come."""
        try:
            octets = self.socket.recv(65536)
        except OSError as error:
            return str(error)
        if transport == "udp":
            return outcome(octets, self.query)
        if not octets:
            return "the connection was closed"
        self.received += octets
        if len(self.received) < 2 + struct.unpack("!H", self.received[:2].rjust(2, b"\xff"))[0]:
            return None
        return outcome(self.received[2:], self.query)


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
waiting = collections.deque(sys.stdin)
running, asked, wrong, slowest = {}, len(waiting), 0, 0.0
began = time.monotonic()
poll = select.epoll()


def settle(question, found):
    global wrong, slowest
    took = time.monotonic() - question.started
    slowest = max(slowest, took)
    poll.unregister(question.socket)
    del running[question.socket.fileno()]
    question.socket.close()
    if found != question.expected:
        wrong += 1
        print(f"{question.name}: {found} and not {question.expected} after {took:.1f} s")


while waiting or running:
    while waiting and len(running) < at_once:
        question = Question(waiting.popleft())
        running[question.socket.fileno()] = question
        poll.register(question.socket, select.EPOLLIN)
    for fd, _ in poll.poll(0.1):
        found = running[fd].read()
        if found is not None:
            settle(running[fd], found)
    overdue = time.monotonic() - PATIENCE
    for question in [q for q in running.values() if q.started < overdue]:
        settle(question, "no answer")
print(asked, wrong, *(round(took * 1000) for took in (slowest, time.monotonic() - began)))
