# SPDX-License-Identifier: GPL-2.0
"""The client: native multipath over two paths, and users that know what they were promised.

    Stamper   writes numbered blocks one after the other, and says which were acknowledged
    Database  transactions of sqlite on ext4; each commit is said when it is durable
    Verifier  fio: writes and reads with checksums and sequence numbers

Each of them notices an error, and how long it had to wait.
"""

from __future__ import annotations

import json
import re
import signal
from itertools import pairwise
from typing import Any

from rig import Job, RigError, Vm, expect, patience, stamp, until

from . import manual
from .appliance import ALPHA, BETA, PORTIONS, READS, ExportedPortion

# The settings of a connection that decide how long a pause can be.
SETTINGS = "kato reconnect_delay ctrl_loss_tmo fast_io_fail_tmo".split()

# Stampers go round in so many blocks: a block is written again only after a minute.
RING = 1024
PAUSE_US = 40000

# What the kernel says when somebody's data was in danger.
ERRORS = re.compile(
    r"I/O error|critical \w+ error|EXT4-fs (?:error|warning)|JBD2: .*[Ee]rror|Aborting journal|"
    r"lost (?:async |sync )?page write|Removing after",
)

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)
    INSERT INTO account SELECT i, 1000 FROM n;
CREATE TABLE transfer (number INTEGER PRIMARY KEY, note TEXT NOT NULL);
"""

# One transfer after the other: sqlite says the number of each when it is durable.
TRANSFERS = """
number=0
while :; do
    number=$((number + 1))
    echo "BEGIN IMMEDIATE;
        UPDATE account SET balance = balance - 1 WHERE id = $((number % 100));
        UPDATE account SET balance = balance + 1 WHERE id = $((number * 7 % 100));
        INSERT INTO transfer VALUES ($number, hex(randomblob(300)));
        COMMIT;
        SELECT $number, CAST(unixepoch('subsec') * 1000 AS INTEGER);"
    sleep 0.1
done | sqlite3 -batch -bail -separator ' ' \
    -cmd '.timeout 1000' -cmd 'PRAGMA synchronous = FULL' /mnt/database/bank.db
"""


class Feed:
    """The lines of a job, each handed out once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.seen = 0

    def lines(self) -> list[str]:
        """Those that were completed since the last call."""
        end = self.job.data.rfind(b"\n") + 1
        new, self.seen = self.job.data[self.seen : end], max(self.seen, end)
        return new.decode(errors="replace").splitlines()


class Stamper:
    """Writes numbered blocks to a namespace."""

    def __init__(self, client: Client, portion: ExportedPortion, number: int) -> None:
        self.name = f"writer of {portion.name}"
        self.member = portion.disks[number - 1]
        self.vm = client.vm
        self.device = client.device(portion, number)
        self.job = self.vm.spawn(f"exec stamp {self.device} 9 1 0 {RING} 0 {PAUSE_US}")
        self.feed = Feed(self.job)
        self.times: list[float] = []
        self.refused: list[stamp.Told] = []

    def times_ms(self) -> list[float]:
        """When each acknowledged write was acknowledged."""
        for line in self.feed.lines():
            (told,) = stamp.told(line + "\n")
            if told.errno:
                self.refused.append(told)
            else:
                self.times.append(told.after_ns / 1e6)
        return self.times

    def errors(self) -> list[str]:
        """What it was refused."""
        self.times_ms()
        wrong = [f"{self.name}: {told}" for told in self.refused]
        return wrong + ([f"{self.name} ended: {self.job.out[-200:]}"] if self.job.done else [])

    def stop(self) -> None:
        """Ends it between two writes."""
        self.job.kill(signal.SIGTERM)
        self.job.wait()

    def check(self, device: str | None = None) -> list[str]:
        """Reads everything back through the client: nothing older than what was acknowledged."""
        acknowledged = {t.block: t.sequence for t in stamp.told(self.job.out) if not t.errno}
        reader = self.vm.spawn(
            f"dd if={device or self.device} bs=64k count={RING // 16} iflag=direct status=none"
        )
        if reader.wait().rc:
            return [f"{self.name}: cannot be read: {reader.out[-200:]}"]
        found = stamp.on_medium(reader.data)
        wrong = []
        for block, sequence in acknowledged.items():
            there = found[block]
            if there is None or there[2] < sequence:
                wrong.append(f"{self.name}: block {block} has {there}, not {sequence}")
        return wrong


class Database:
    """A bank on a filesystem on a namespace."""

    name = "database"

    def __init__(self, client: Client, portion: ExportedPortion, number: int) -> None:
        self.vm = client.vm
        self.device = client.device(portion, number)
        self.vm.sh(
            f"mkfs.ext4 -q {self.device}\nmkdir -p /mnt/database\n"
            f"modprobe ext4\nmount -t ext4 {self.device} /mnt/database\n"
            "sqlite3 -batch -bail /mnt/database/bank.db",
            stdin=SCHEMA.encode(),
        )
        self.job = self.vm.spawn(TRANSFERS)
        self.feed = Feed(self.job)
        self.last = 0
        self.times: list[float] = []
        self.said: list[str] = []

    def times_ms(self) -> list[float]:
        """When each transfer was known to be durable."""
        for line in self.feed.lines():
            if re.fullmatch(r"\d+ \d+", line):
                number, when = line.split()
                self.last = int(number)
                self.times.append(float(when))
            else:
                self.said.append(line)
        return self.times

    def errors(self) -> list[str]:
        """Whatever it says that is no commit."""
        self.times_ms()
        wrong = [f"database: {line}" for line in self.said]
        return wrong + (["database ended"] if self.job.done else [])

    def stop(self) -> None:
        """Ends it; a transfer that was under way counts or does not."""
        self.job.kill(signal.SIGTERM)
        self.job.wait()

    def check(self) -> list[str]:
        """No transfer that was durable is missing, no money either; the filesystem is sound."""
        answers = self.vm.sh(
            "sqlite3 -batch -bail /mnt/database/bank.db",
            stdin=b"PRAGMA integrity_check; SELECT sum(balance) FROM account;"
            b" SELECT count(*) FROM transfer; SELECT max(number) FROM transfer;",
        ).split("\n")
        self.times_ms()
        wrong = []
        if answers[:2] != ["ok", "100000"]:
            wrong.append(f"database: {answers}")
        elif not int(answers[2]) == int(answers[3]) >= self.last:
            wrong.append(f"database: transfers {answers[2:]}, {self.last} were durable")
        self.vm.sh("umount /mnt/database")
        result = self.vm.run(f"e2fsck -fn {self.device}", check=False)
        return wrong + ([f"filesystem: {result.out}"] if result.rc else [])


class Verifier:
    """fio with verification: what it reads must be what it wrote last."""

    name = "fio"
    SIZE = 8 << 20
    BACKLOG = 64
    """So many blocks are written before they are read and verified."""

    def __init__(self, client: Client, portion: ExportedPortion, number: int) -> None:
        device = client.device(portion, number)
        self.job: Job = client.vm.spawn(
            f"exec fio --name=client --filename={device} --direct=1 --ioengine=libaio --iodepth=4"
            f" --rw=randrw --bs=4k --size={self.SIZE} --rate_iops=25 --verify=crc32c"
            f" --verify_fatal=1 --verify_backlog={self.BACKLOG} --time_based --runtime=86400"
            " --output-format=json"
        )
        self.result: dict[str, Any] = {}

    def errors(self) -> list[str]:
        """It ends at the first error."""
        return [f"fio ended: {self.job.out[-2000:]}"] if self.job.done else []

    def stop(self) -> None:
        """Ends it; what it has written is verified, and it says what it did."""
        self.job.kill(signal.SIGINT)
        self.job.wait()

    def check(self) -> list[str]:
        """Its own verdict."""
        text = self.job.out
        try:
            self.result = json.loads(text[text.index("{\n") :])["jobs"][0]
        except (ValueError, KeyError, IndexError):
            return [f"fio: {text[-2000:]}"]
        said = text[: text.index("{\n")].strip()
        wrong = [f"fio: error {self.result['error']}: {said}"] if self.result["error"] else []
        return wrong + ([f"fio: {said}"] if "verify" in said else [])

    def summary(self) -> str:
        """How much it did."""
        read, write = self.result["read"], self.result["write"]
        return f"{write['total_ios']} blocks written, {read['total_ios']} read and verified"


Successes = dict[str, int]
"""How often each user had succeeded at a moment."""


class Client:
    """The client machine and its users."""

    def __init__(self, vm: Vm, addresses: list[str]) -> None:
        self.vm = vm
        self.addresses = addresses
        self.paused: list[Stamper | Database] = []
        self.users: list[Stamper | Database | Verifier] = []
        self.provoked: set[str] = set()

    def connect(self) -> None:
        """Both paths of both portions, as the page on exports says."""
        lines = ["modprobe virtio_net", "mkdir -p /etc/nvme"]
        lines.append("cat /proc/sys/kernel/random/uuid >/etc/nvme/hostid")
        lines.append("echo nqn.2014-08.org.nvmexpress:uuid:$(cat /etc/nvme/hostid)"
                     " >/etc/nvme/hostnqn")  # fmt: skip
        for index, address in enumerate(self.addresses):
            own = address.rsplit(".", 1)[0] + ".2"
            lines += [f"ip addr add {own}/24 dev eth{index}", f"ip link set eth{index} up"]
        self.vm.sh("\n".join(lines))
        for portion in PORTIONS:
            settings = f"portion={portion.name} trsvcid={portion.service}"
            self.vm.sh(manual.connect(settings, self.addresses))
        self.wait_disks({p.uuid(n + 1) for p in PORTIONS for n in range(len(p.disks))})

    def connect_reads(self) -> None:
        """Both paths of the exports for reading, used in turn."""
        for portion in PORTIONS:
            settings = f"portion={portion.name}-read trsvcid={portion.service + READS}"
            self.vm.sh(manual.connect(settings, self.addresses))
        self.wait_disks({portion.read_uuid(2) for portion in PORTIONS})
        self.vm.sh(
            "for s in /sys/class/nvme-subsystem/*; do"
            " grep -q read $s/subsysnqn && echo round-robin >$s/iopolicy; done; true"
        )

    def disconnect_reads(self) -> None:
        """Gives the exports for reading up."""
        for portion in PORTIONS:
            self.vm.sh(f"nvme disconnect --nqn nqn.2026-11.com.example:{portion.name}-read")

    def wait_disks(self, uuids: set[str]) -> None:
        """Waits for namespaces to be disks."""
        until(lambda: uuids <= set(self.disks()), "all namespaces are disks of the client")

    def settings(self) -> dict[str, str]:
        """What the connections were told, and the kernel's own defaults."""
        paths = {name: f"/sys/class/nvme/nvme0/{name}" for name in SETTINGS}
        for name in ("max_retries", "io_timeout"):
            paths[name] = f"/sys/module/nvme_core/parameters/{name}"
        values = self.vm.sh(f"cat {' '.join(paths.values())}").split("\n")
        return dict(zip(paths, values, strict=True))

    def disks(self) -> dict[str, str]:
        """The disks of the client, by the uuid of the namespace."""
        lines = self.vm.sh(
            "for d in /sys/block/nvme*n*; do [ -e $d/uuid ] && echo $(cat $d/uuid) ${d##*/}; done;"
            " true"
        ).splitlines()
        found = (line.split() for line in lines)
        return {uuid: name for uuid, name in found if re.fullmatch(r"nvme\d+n\d+", name)}

    def device(self, portion: ExportedPortion, number: int) -> str:
        """The disk that is a portion's namespace."""
        return f"/dev/{self.disks()[portion.uuid(number)]}"

    def read_device(self, portion: ExportedPortion, number: int) -> str:
        """The disk that is the export of a member for reading."""
        return f"/dev/{self.disks()[portion.read_uuid(number)]}"

    def paths(self) -> dict[str, str]:
        """State of every controller connection, by address, best first."""
        lines = self.vm.sh(
            "for c in /sys/class/nvme/nvme*; do"
            " echo $(sed 's/.*traddr=\\([^,]*\\).*/\\1/' $c/address) $(cat $c/state); done"
        ).splitlines()
        states: dict[str, str] = {}
        for address, state in (line.split() for line in lines):
            # Two connections lead to one controller: the worse one counts.
            states[address] = state if states.get(address) in (None, "live") else states[address]
        return states

    def start_users(self) -> None:
        """A database and a writer on alpha, fio and a writer on beta."""
        database = Database(self, ALPHA, 1)
        writers = [Stamper(self, ALPHA, 2), Stamper(self, BETA, 2)]
        self.paused = [database, *writers]
        self.users = [database, *writers, Verifier(self, BETA, 1)]

    def successes(self) -> Successes:
        """The successes of all users until now."""
        return {user.name: len(user.times_ms()) for user in self.paused}

    def wait_more(self, before: Successes, count: int = 5, timeout: float = 60) -> None:
        """Waits until every user has succeeded `count` times since `before`."""

        def enough() -> bool:
            done = all(len(u.times_ms()) >= before[u.name] + count for u in self.paused)
            return done or bool(self.errors())

        self.vm.agent.wait(enough, patience(timeout))
        expect(not self.errors(), f"users of the client see no error: {self.errors()[:3]}")
        behind = {u.name: len(u.times_ms()) - before[u.name] for u in self.paused}
        expect(min(behind.values()) >= count, f"users of the client go on: {behind}")

    def pauses_ms(self, before: Successes) -> dict[str, float]:
        """The longest time without a success of each user, since `before`."""
        found = {}
        for user in self.paused:
            times = user.times_ms()[max(before[user.name] - 1, 0) :]
            gaps = [b - a for a, b in pairwise(times)]
            found[user.name] = max(gaps, default=0.0)
        return found

    def errors(self) -> list[str]:
        """What any user was refused."""
        return [error for user in self.users for error in user.errors()]

    def kernel_errors(self) -> list[str]:
        """What the kernel of the client complained about and nobody provoked."""
        lines = [line for line in self.vm.console.text().splitlines() if ERRORS.search(line)]
        return [line for line in lines if line not in self.provoked]

    def finish(self) -> list[str]:
        """Ends all users and lets each check what it was promised; what is wrong."""
        wrong = self.errors() + self.kernel_errors()
        for user in self.users:
            if not user.job.done:
                user.stop()
        for user in self.users:
            try:
                wrong += user.check()
            except RigError as error:
                wrong.append(f"{user.name}: {error}")
        return wrong
