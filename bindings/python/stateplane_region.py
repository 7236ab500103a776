"""Reads Stateplane's regions: shared memory with one writer, of which a reader sees
whole versions only.

The layout is that of crates/region/src/layout.rs, the protocol that of
crates/region/src/protocol.rs, the broker's messages those of
crates/region/src/broker/message.rs. Nothing here ever writes.
"""

import array
import fcntl
import json
import mmap
import os
import platform
import socket
import struct
import sys
import time

__all__ = ["Region", "RegionError", "Snapshot", "regions"]

LINE = 64
PAGE = 4096
MAGIC = int.from_bytes(b"SPregion", "little")
BOARD_MAGIC = int.from_bytes(b"SPboard1", "little")
LAYOUT = 1
MAX_LEN = 1 << 32
MAX_IMAGES = 8
IMAGE_BITS = 3
MAX_VERSION = (1 << (63 - IMAGE_BITS)) - 1

# Words of the head, as numbers of words.
_MAGIC, _LAYOUT, _LEN, _IMAGES, _SCHEMA, _EPOCH, _NAME_LEN = range(7)
_CONTROL, _CHECKED, _CLOSED = 8, 16, 17
_IMAGE_LINES = 24
_NAME_AT, _NAME_MAX = 1024, 256

_HOW = ("count", "level", "largest")

_F_GET_SEALS = 1034
# Shrink, grow, future write: what makes memory of somebody else safe to read.
_SEALS = 0x2 | 0x4 | 0x10

_BOARD_SLOT = LINE + _NAME_MAX
_BOARD_REGIONS = 4096
_MESSAGE_MAX = 32 << 10
_ATTEMPTS = 1000


class RegionError(Exception):
    """Why a region cannot be read."""


def _schema(meaning):
    """The number that stands for a schema's name (FNV-1a); "" stands for any."""
    if not meaning:
        return 0
    number = 0xCBF29CE484222325
    for byte in meaning.encode():
        number = (number ^ byte) * 0x100000001B3 % (1 << 64)
    return number


class Snapshot:
    """A copy of a region at one version.

    data: the bytes. version, epoch: of which writer. published_ns: on the clock that all
    processes of this machine share; published_day_ns: time of day. current_ns: when it was
    known to be all there is.
    """

    __slots__ = ("data", "version", "epoch", "published_ns", "published_day_ns", "current_ns")

    def __init__(self, data, version, epoch, published_ns, published_day_ns, current_ns):
        self.data = data
        self.version = version
        self.epoch = epoch
        self.published_ns = published_ns
        self.published_day_ns = published_day_ns
        self.current_ns = current_ns

    def age(self):
        """Seconds since this was known to be all there is."""
        return max(0, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self.current_ns) / 1e9

    def unpack_from(self, form, at=0):
        """Values at a place, as `struct.unpack_from`."""
        return struct.unpack_from(form, self.data, at)

    def array(self, typecode, at=0, count=None):
        """Values of one type from a place on, as `array.array`."""
        values = array.array(typecode)
        size = values.itemsize
        end = at + (len(self.data) - at) // size * size if count is None else at + count * size
        if at < 0 or end > len(self.data):
            raise IndexError(f"bytes {at}..{end} are not within the region's {len(self.data)}")
        values.frombytes(self.data[at:end])
        return values

    def text(self, at=0):
        """A text whose length lies before it (crates/region/src/inside/text.rs), such as what
        nodes write about their steering and configuration: JSON."""
        (length,) = struct.unpack_from("=Q", self.data, at)
        start = at + 8
        if length > len(self.data) - start:
            raise RegionError("there is no text in it")
        return self.data[start : start + length].decode()

    def counters(self, at=0):
        """Counters with names (crates/region/src/inside/counters.rs): a dictionary of
        (value, unit, how), where how is "count", "level" or "largest"."""
        layout, count, room, _ = struct.unpack_from("=IIII", self.data, at)
        values_at = at + LINE + room * 2 * LINE
        if layout != 1 or values_at + room * 8 > len(self.data):
            raise RegionError("there are no counters of this release in it")
        counters = {}
        for index in range(min(count, room)):
            entry = at + LINE + index * 2 * LINE
            how, name_len, unit_len = struct.unpack_from("=BBB", self.data, entry)
            if how >= len(_HOW) or name_len > 88 or unit_len > 32:
                continue
            name = self.data[entry + 8 :][:name_len].decode(errors="replace")
            unit = self.data[entry + 96 :][:unit_len].decode(errors="replace")
            form = "=q" if _HOW[how] == "level" else "=Q"
            (value,) = struct.unpack_from(form, self.data, values_at + index * 8)
            counters[name] = (value, unit, _HOW[how])
        return counters


class Region:
    """One reader of a region. `attach`, `open_fd` or `open_path` make one."""

    def __init__(self, fd, schema="", seat=None):
        """Takes the file descriptor over."""
        self._map = None
        try:
            self._open(fd, schema)
        finally:
            os.close(fd)
        self._seat = seat

    @classmethod
    def attach(cls, directory, name, schema=""):
        """Asks the broker that serves `directory` for a region by its name."""
        reply, fd = _ask(directory, b"\x04" + _string(name))
        if reply[0] != 3 or len(reply) != 5 or fd is None:
            if fd is not None:
                os.close(fd)
            raise RegionError(f"{name}: {_refusal(reply)}")
        (slot,) = struct.unpack(">I", reply[1:])
        try:
            seat = _Seat(directory, name, schema, slot)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, schema, seat)

    @classmethod
    def open_fd(cls, fd, schema=""):
        """Reads the memory behind a file descriptor, which stays the caller's."""
        return cls(os.dup(fd), schema)

    @classmethod
    def open_path(cls, path, schema=""):
        """Reads the memory behind a path, such as /proc/PID/fd/NUMBER."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), schema)

    def _open(self, fd, schema):
        if platform.machine() not in ("x86_64", "AMD64"):
            raise RegionError("this reader depends on the order of loads of x86-64")
        try:
            seals = fcntl.fcntl(fd, _F_GET_SEALS)
        except OSError:
            raise RegionError("not a sealed region: no memory file") from None
        if seals & _SEALS != _SEALS:
            raise RegionError("not a sealed region: it could shrink, or somebody could write to it")
        size = os.fstat(fd).st_size
        if size < 3 * PAGE:
            raise RegionError("not a sealed region: too short")
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._bytes = memoryview(self._map)
        # A load of an item is one load of the processor, never byte by byte.
        self._words = words = self._bytes.cast("Q")
        if words[_MAGIC] != MAGIC:
            raise RegionError("not a sealed region: its first word is another")
        if words[_LAYOUT] != LAYOUT:
            raise RegionError(f"layout {words[_LAYOUT]} of another release; this reads {LAYOUT}")
        self._len, self._images = words[_LEN], words[_IMAGES]
        self._stride = -(-self._len // PAGE) * PAGE
        possible = 1 <= self._len <= MAX_LEN and 2 <= self._images <= MAX_IMAGES
        if not possible or PAGE + self._images * self._stride > size:
            raise RegionError("not a sealed region: its lengths contradict each other")
        expected = _schema(schema)
        if expected and words[_SCHEMA] != expected:
            raise RegionError(f"schema {words[_SCHEMA]:016x}, expected {expected:016x}")
        self.epoch = words[_EPOCH]
        name_len = min(words[_NAME_LEN], _NAME_MAX)
        self.name = bytes(self._bytes[_NAME_AT : _NAME_AT + name_len]).decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __len__(self):
        return self._len

    def close(self):
        """Gives the memory back. Snapshots stay."""
        if self._map is not None:
            self._words.release()
            self._bytes.release()
            self._map.close()
            self._map = None
        if self._seat is not None:
            self._seat.close()
            self._seat = None

    @property
    def version(self):
        """The version in force; 0 before the first."""
        return self._words[_CONTROL] >> IMAGE_BITS

    @property
    def closed_by_writer(self):
        """Whether the writer has ended, or given the region up, in an orderly way."""
        return self._words[_CLOSED] != 0

    @property
    def superseded(self):
        """Whether a later writer has the region, whose memory is another. Known of regions
        that were attached by name."""
        return self._seat is not None and self._seat.epoch() != self.epoch

    def snapshot(self):
        """The whole region at one version; None before the first."""
        words = self._words
        for _ in range(_ATTEMPTS):
            checked = words[_CHECKED]
            control = words[_CONTROL]
            if control == 0:
                return None
            version, image = control >> IMAGE_BITS, control & (MAX_IMAGES - 1)
            if image >= self._images or version > MAX_VERSION:
                raise RegionError("its control word is not one")
            stamp = _IMAGE_LINES + image * 8
            if words[stamp] != 2 * version:
                continue
            at = PAGE + image * self._stride
            data = bytes(self._bytes[at : at + self._len])
            published, day = words[stamp + 1], words[stamp + 2]
            # Still the same image: nothing of the copy is of another version.
            if words[stamp] == 2 * version:
                return Snapshot(data, version, self.epoch, published, day, max(published, checked))
        raise RegionError("the writer publishes faster than this region can be copied")

    def watch(self, interval=0.01, timeout=None):
        """Snapshots of the versions that come, beginning with the present one: the newest
        at each look, a look every `interval` seconds. Goes on with the next writer of a
        region that was attached by name; ends after `timeout` seconds without a newer
        version, or when the region was deleted."""
        seen, since = (0, 0), time.monotonic()
        while True:
            if self.superseded and not self._attach_again():
                return
            if (self.epoch, self.version) != seen:
                snapshot = self.snapshot()
                if snapshot is not None:
                    seen, since = (snapshot.epoch, snapshot.version), time.monotonic()
                    yield snapshot
                    continue
            if timeout is not None and time.monotonic() - since > timeout:
                return
            time.sleep(interval)

    def _attach_again(self):
        """Whether there still is such a region; its new memory may take a moment more."""
        seat = self._seat
        if seat.epoch() == 0:
            return False
        try:
            new = Region.attach(seat.directory, seat.name, seat.schema)
        except (RegionError, OSError):
            return True
        self.close()
        self.__dict__ = new.__dict__
        return True


class _Seat:
    """A region's place on the board: which writer's memory readers should have."""

    def __init__(self, directory, name, schema, slot):
        if slot >= _BOARD_REGIONS:
            raise RegionError("the broker named a place that the board does not have")
        self.directory, self.name, self.schema = directory, name, schema
        with open(os.path.join(directory, "board"), "rb") as board:
            size = LINE + _BOARD_REGIONS * _BOARD_SLOT
            if os.fstat(board.fileno()).st_size < size:
                raise RegionError("not a board of this release")
            self._map = mmap.mmap(board.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._words = memoryview(self._map).cast("Q")
        if self._words[0] != BOARD_MAGIC:
            raise RegionError("not a board of this release")
        self._at = (LINE + slot * _BOARD_SLOT + 8) // 8

    def epoch(self):
        return self._words[self._at]

    def close(self):
        self._words.release()
        self._map.close()


def regions(directory, prefix=""):
    """The names of the regions below a prefix, as the broker of `directory` lists them."""
    names, after, more = [], "", True
    while more:
        reply, fd = _ask(directory, b"\x07" + _string(prefix) + _string(after))
        if fd is not None:
            os.close(fd)
        if reply[0] != 4:
            raise RegionError(_refusal(reply))
        more, count = struct.unpack_from(">BI", reply, 1)
        at = 6
        for _ in range(count):
            (length,) = struct.unpack_from(">I", reply, at)
            names.append(reply[at + 4 : at + 4 + length].decode())
            # Epoch, owner, access, bytes, writer, whether it is readable.
            at += 4 + length + 8 + 4 + 1 + 8 + 1 + 4 + 1
        more = more and count > 0
        after = names[-1] if names else ""
    return names


def _string(text):
    raw = text.encode()
    return struct.pack(">I", len(raw)) + raw


def _ask(directory, request):
    """The broker's reply, and the file descriptor beside it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(5)
        try:
            link.connect(os.path.join(directory, "broker.sock"))
            link.send(request)
            reply, fds, _, _ = socket.recv_fds(link, _MESSAGE_MAX, 1)
        except OSError as error:
            raise RegionError(f"no broker answers in {directory}: {error}") from error
    if not reply:
        raise RegionError(f"the broker of {directory} has hung up")
    return reply, fds[0] if fds else None


def _refusal(reply):
    reasons = {
        1: "there is no such region",
        2: "its writer has not offered it yet",
        5: "it belongs to another user",
    }
    if reply[0] == 5 and len(reply) == 10:
        return reasons.get(reply[1], f"the broker refuses (reason {reply[1]})")
    return "its answer is no answer to that"


def main():
    """Prints a line for each version."""
    if len(sys.argv) != 3:
        sys.exit("usage: python3 -m stateplane_region DIRECTORY NAME")
    try:
        with Region.attach(sys.argv[1], sys.argv[2]) as region:
            for snapshot in region.watch():
                line = {
                    "version": snapshot.version,
                    "epoch": snapshot.epoch,
                    "age_us": round(snapshot.age() * 1e6, 1),
                    "bytes": snapshot.data[:LINE].hex(),
                }
                print(json.dumps(line), flush=True)
    except RegionError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
