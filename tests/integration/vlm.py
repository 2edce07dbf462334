# SPDX-License-Identifier: MIT
# Copyright vlmd contributors
"""What the integration tests share: a private bus, a daemon on it, and a client that speaks D-Bus without a loop.

The programs come from the environment that meson sets: VLMD, VLMD_FAKE, VLMD_INGEST, VLMD_SOURCE_ROOT.
"""
import ctypes
import json
import math
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

try:
    from jeepney import DBusAddress, HeaderFields, MatchRule, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection
    from jeepney.wrappers import DBusErrorResponse, unwrap_msg
except ImportError:
    print("python3-jeepney is not installed: skipped")
    sys.exit(77)

ROOT = pathlib.Path(os.environ.get("VLMD_SOURCE_ROOT", pathlib.Path(__file__).resolve().parents[2]))
NAME = "org.vlmd.Vision1"
PATH = "/org/vlmd/Vision1"
ERROR = NAME + ".Error."
PROPS = "org.freedesktop.DBus.Properties"
TIMEOUT = 60.0  # until what must happen has hung: nothing waits for it that goes well
LIBC = ctypes.CDLL(None)

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={dir}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""


def until(what, cond, timeout=TIMEOUT, step=0.02):
    """Waits for cond() to be true and returns it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        got = cond()
        if got:
            return got
        time.sleep(step)
    raise AssertionError(f"not within {timeout} s: {what}")


def quickest(call, n=5):
    """Seconds that call() takes: the least of n, for others use this machine, too."""
    best = math.inf
    for _ in range(n):
        t0 = time.monotonic()
        call()
        best = min(best, time.monotonic() - t0)
    return best


def until_exec(child):
    """Until a child of the daemon runs its own program: before that it looks like the daemon."""
    until("its program", lambda: pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/vlmd-ingest"))


def dies_with_us():
    """Between fork and exec: a test that is killed leaves nothing behind (PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


class Bus:
    """A dbus-daemon of our own, in a folder of its own."""

    def __init__(self, config=BUS_CONFIG):
        self.dir = tempfile.mkdtemp(prefix="vlmd-test-")
        conf = pathlib.Path(self.dir, "bus.conf")
        conf.write_text(config.format(dir=self.dir, root=ROOT))
        self.address = f"unix:path={self.dir}/bus"
        self.proc = subprocess.Popen(["dbus-daemon", f"--config-file={conf}", "--nofork", "--nopidfile"],
                                     stderr=subprocess.DEVNULL, preexec_fn=dies_with_us)
        until("the bus", self.listens)

    def listens(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(f"{self.dir}/bus") == 0

    def close(self):
        self.proc.kill()
        self.proc.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class BusError(Exception):
    """A method answered with an error; name is without our prefix."""

    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")
        self.name = name.removeprefix(ERROR)
        self.text = text


class Client:
    """One connection. Calls block; signals that come meanwhile are kept by jeepney's filters."""

    def __init__(self, bus):
        self.conn = open_dbus_connection(bus=bus.address, enable_fds=True)
        self.name = self.conn.unique_name

    def close(self):
        self.conn.close()

    def call(self, path, interface, member, signature=None, *args, timeout=TIMEOUT, dest=NAME):
        msg = new_method_call(DBusAddress(path, dest, interface), member, signature, args)
        try:
            body = unwrap_msg(self.conn.send_and_get_reply(msg, timeout=timeout))
        except DBusErrorResponse as e:
            raise BusError(e.name, e.data[0] if e.data else "") from None
        return body[0] if len(body) == 1 else body

    def send(self, path, interface, member, signature=None, *args):
        """A call whose reply is not waited for; returns its serial."""
        msg = new_method_call(DBusAddress(path, NAME, interface), member, signature, args)
        serial = next(self.conn.outgoing_serial)
        self.conn.send(msg, serial=serial)
        return serial

    def reply_to(self, serial, timeout=TIMEOUT):
        end = time.monotonic() + timeout
        while True:
            msg = self.conn.receive(timeout=max(0.0, end - time.monotonic()))
            if msg.header.fields.get(HeaderFields.reply_serial) == serial:
                if msg.header.message_type == MessageType.error:
                    raise BusError(msg.header.fields[HeaderFields.error_name], msg.body[0])
                return msg.body

    def manager(self, member, signature=None, *args, **kw):
        return self.call(PATH, NAME + ".Manager", member, signature, *args, **kw)

    def get(self, path, interface, prop):
        return self.call(path, PROPS, "Get", "ss", f"{NAME}.{interface}", prop)[1]

    def get_all(self, path, interface):
        got = self.call(path, PROPS, "GetAll", "s", f"{NAME}.{interface}")
        return {k: v[1] for k, v in got.items()}

    def objects(self):
        return self.call(PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")

    def add(self, name, uri=None, fd=None, **spec):
        d = {"Name": ("s", name), **spec}
        if uri is not None:
            d["Uri"] = ("s", uri)
        if fd is not None:
            d["Fd"] = ("h", fd)
        return self.manager("AddStream", "a{sv}", d)

    def add_file(self, name, path, **spec):
        with open(path, "rb") as f:
            return self.add(name, fd=f, **spec)

    def remove(self, path):
        self.call(path, NAME + ".Stream", "Remove")

    def state(self, path):
        return self.get(path, "Stream", "State"), self.get(path, "Stream", "StateReason")

    def ask(self, stream, question, **options):
        """→ query path, file of the pipe's read end."""
        query, fd = self.manager("Ask", "aosa{sv}", [stream], question, options)
        return query, os.fdopen(fd.to_raw_fd(), "rb", buffering=0)

    def ask_text(self, stream, question, timeout=TIMEOUT + 5, **options):
        answer, details = self.manager("AskText", "aosa{sv}", [stream], question, options, timeout=timeout)
        return answer, {k: v[1] for k, v in details.items()}

    def ask_image(self, images, question, **options):
        """images: files or descriptors. → query path, file of the pipe's read end."""
        query, fd = self.manager("AskImage", "ahsa{sv}", images, question, options)
        return query, os.fdopen(fd.to_raw_fd(), "rb", buffering=0)

    def ask_image_text(self, images, question, timeout=TIMEOUT + 5, **options):
        answer, details = self.manager("AskImageText", "ahsa{sv}", images, question, options, timeout=timeout)
        return answer, {k: v[1] for k, v in details.items()}

    def open_captions(self, stream, fmt, **options):
        fd = self.call(stream, NAME + ".Captions", "Open", "sa{sv}", fmt, options)
        return os.fdopen(fd.to_raw_fd(), "rb", buffering=0)

    def recent(self, stream, since=0):
        return self.call(stream, NAME + ".Captions", "GetRecent", "t", since)

    def signals(self, path, interface, member):
        """A queue of matching signals; unicast ones need no match on the bus."""
        rule = MatchRule(type="signal", path=path, interface=interface, member=member)
        return self.conn.filter(rule, bufsize=256)

    def next_signal(self, queue, timeout=TIMEOUT):
        return self.conn.recv_until_filtered(queue, timeout=timeout).body


def read_all(f, timeout=TIMEOUT):
    """The rest of a pipe, to its end; closes it."""
    data, end = b"", time.monotonic() + timeout
    with f:
        while True:
            if not select.select([f], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"the pipe did not end within {timeout} s; so far {data[-200:]!r}")
            piece = f.read(65536)
            if not piece:
                return data
            data += piece


def read_line(f, timeout=TIMEOUT):
    data, end = b"", time.monotonic() + timeout
    while not data.endswith(b"\n"):
        if not select.select([f], [], [], max(0.0, end - time.monotonic()))[0]:
            raise AssertionError(f"no line within {timeout} s; so far {data!r}")
        piece = f.read(1)
        if not piece:
            return data
        data += piece
    return data


def records(data):
    return [json.loads(line) for line in data.decode().splitlines()]


class Daemon:
    """One vlmd on a bus. fake: the engine of fake_engine.c, with `model` as its script; it has eyes unless mmproj is ""."""

    def __init__(self, bus, *args, fake=False, model=None, mmproj=None, env=None, wait=True, run_as=()):
        cmd = [*run_as, os.environ["VLMD_FAKE" if fake else "VLMD"], f"--bus-address={bus.address}",
               f"--ingest={os.environ['VLMD_INGEST']}", f"--config={bus.dir}", *args]
        if fake and model is None:
            model = "ok"
        if fake and model and mmproj is None:
            mmproj = "ok"
        if model:
            cmd.append(f"--model={model}")
        if mmproj:
            cmd.append(f"--mmproj={mmproj}")
        self.log = open(os.path.join(bus.dir, "log"), "a+", encoding="utf-8")
        self.proc = subprocess.Popen(cmd, stderr=self.log, stdout=self.log, env={**os.environ, **(env or {})},
                                     preexec_fn=dies_with_us)
        self.pid = self.proc.pid
        if wait:
            probe = Client(bus)
            until("the bus name", lambda: self.gone() or probe.call(
                "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s", NAME, dest="org.freedesktop.DBus"))
            probe.close()

    def gone(self):
        return self.proc.poll() is not None

    def logged(self):
        self.log.seek(0)
        return self.log.read()

    def children(self):
        return [int(p) for p in pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1])
        return 0

    def stop(self, sig=signal.SIGTERM, timeout=60.0):
        """→ exit code, seconds it took."""
        t0 = time.monotonic()
        if not self.gone():
            self.proc.send_signal(sig)
        rc = self.proc.wait(timeout)
        return rc, time.monotonic() - t0

    def close(self):
        if not self.gone():
            self.proc.kill()
        self.proc.wait()
        self.log.close()  # a second time has no effect, and so with all of these


class Case(unittest.TestCase):
    """A bus, a daemon as `make` says, and a client, for each class; the same pid at the end of each test."""

    @classmethod
    def make(cls, bus):
        return Daemon(bus, fake=True)

    @classmethod
    def setUpClass(cls):
        cls.bus = Bus()
        cls.addClassCleanup(cls.bus.close)
        cls.daemon = cls.make(cls.bus)
        cls.addClassCleanup(cls.daemon.close)
        cls.client = Client(cls.bus)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        rc = None
        if not cls.daemon.gone():
            rc, _ = cls.daemon.stop()
        log = cls.daemon.logged()
        if rc != 0 or "ERROR: " in log or "runtime error" in log:
            print(log)
            raise AssertionError(f"the daemon ended with {rc}")

    def tearDown(self):
        if self.daemon.gone():
            self.fail(f"the daemon ended with {self.daemon.proc.returncode}:\n{self.daemon.logged()}")
        for path, interfaces in self.client.objects().items():
            if NAME + ".Stream" in interfaces:
                self.client.remove(path)

    def raises(self, name, call, *args, **kw):
        """call raises a BusError of that name; returns its text."""
        with self.assertRaises(BusError) as c:
            call(*args, **kw)
        self.assertEqual(c.exception.name, name, c.exception.text)
        return c.exception.text
