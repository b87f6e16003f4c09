"""A session whose server dies re-attaches elsewhere with its ephemerals alive (REVALIDATE).

usage: moves.py DYING OTHERS     (OTHERS: comma separated)
Prints "attached" when the session is on DYING, waits for a line on stdin (the server is dead by
then), and ends with "ok".
"""
import sys
import threading

from kazoo.client import KazooClient, KazooState

dying, others = sys.argv[1], sys.argv[2]
states = []
reconnected = threading.Event()


def listener(state):
    states.append(state)
    if state == KazooState.CONNECTED and KazooState.SUSPENDED in states:
        reconnected.set()


zk = KazooClient(hosts=dying, timeout=10, randomize_hosts=False)
zk.add_listener(listener)
zk.start(timeout=10)
session = zk.client_id[0]
zk.create("/alive", b"here", ephemeral=True)
zk.set_hosts(dying + "," + others)
print("attached", flush=True)
sys.stdin.readline()
assert reconnected.wait(15), states
assert KazooState.LOST not in states, states
assert zk.client_id[0] == session, "the session changed"
zk.sync("/alive")
data, stat = zk.get("/alive")
assert data == b"here" and stat.ephemeralOwner == session, stat
# It is the same session: its next write and its end both work from here.
zk.set("/alive", b"still")
watcher = KazooClient(hosts=others, timeout=10)
watcher.start(timeout=10)
assert watcher.exists("/alive")
zk.stop()
zk.close()
watcher.sync("/alive")
assert watcher.exists("/alive") is None
watcher.stop()
watcher.close()
print("ok")
