# SPDX-License-Identifier: GPL-2.0
"""Strays destroy data on purpose, as much as the batch limit allows, and it is repaired.

Two controllers, one portion, md over the mapped devices. The owner writes, and the array holds some
of its writes back, one member in each row, which is what the limit admits; so all its permits are
open when it stalls. The other controller takes over, lists the suspect rows, assembles the array,
writes, and only then do the held writes land: old content over acknowledged new content. The repair
is given nothing but the disks.

Vocabulary: a *row* is a chunk of every member; a *stray* is a held write that landed after the
takeover; the *truth* is, for every block, the tag of the write that was acknowledged last. The
truth is kept here, by what the writers were told, and never told to the tool.

Wrong recipes are played on the same disks, and must lose data; so must one stray more than the
limit. Then the verdict is about something.
"""

from __future__ import annotations

import functools
import json
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from rig import Job, Lab, LabPortion, RigError, Rule, Vm, expect
from rig.history import BLOCK
from rig.host import arguments_of
from rig.mailbox import DATA
from rig.raid import Geometry, p_of, q_of, xor
from rig.steps import run_steps

MIB = 1 << 20
CHUNK = 64 << 10
# Where the data area of a member starts, and md's data in it.
AREA, MD_DATA = DATA, 1 * MIB
SIZE = 8 * MIB
# Generous for a loaded machine under emulation: the lease is 3.1 s, the window a little longer.
TIMING = (
    "--controllers 1,2 --home 1 --device-delay-ms 200 --heartbeat-ms 500 --lost-heartbeats 2 "
    "--write-ms 200 --read-ms 200"
)
EXTERNAL = "--redundancy external"
ARRAY = "/dev/md0"
LIST = "/run/suspects.json"
QUEUES = 16
# How long the files of a file system are, in bytes.
FILE = 2 * MIB

# Tags of the writes: the first owner's that were acknowledged, those that were open when it
# stalled, the second owner's, and those of a writer who does not wait for the repair.
FIRST, OPEN, SECOND, HASTY = 1, 2, 3, 4


@dataclass(frozen=True)
class Plan:
    """What array on what portion, and which members are held back in which rows."""

    name: str
    level: int
    members: int
    redundancy: str
    targets: int
    """In how many rows something is held back."""
    strays: int
    """In one row, which is the limit."""
    features: str = ""
    stall: str = "cut"
    pairs: bool = False
    """Two blocks of each row are written, and both data shards held back."""

    @property
    def geometry(self) -> Geometry:
        """Where everything is in the members' images."""
        return Geometry(self.level, self.members, CHUNK, AREA + MD_DATA)

    @property
    def rows(self) -> list[int]:
        """In which rows. Operations of several rows may wait in one queue of the gate, and what is
        stuck at its head holds up the others: no two of these do."""
        rows: dict[int, int] = {}
        for row in range(SIZE // CHUNK):
            lane = ((row + MD_DATA // CHUNK) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 54
            rows.setdefault(lane % QUEUES, row)
        return sorted(rows.values())[: self.targets]


@dataclass
class Target:
    """A block that the first owner writes, and the members of its row that are held back."""

    row: int
    shard: int
    at: int
    block: int
    held: set[int]


@dataclass
class Trial:
    """One array, from its creation to the moment when the strays have landed."""

    lab: Lab
    plan: Plan
    random: random.Random
    truth: dict[int, int] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    suspects: set[int] = field(default_factory=set)
    rows: int = 0

    def __post_init__(self) -> None:
        self.geometry = self.plan.geometry
        self.names = [f"m{m}" for m in range(self.plan.members)]
        self.portion = LabPortion.on(self.lab, "alpha", self.names)
        self.old, self.new = self.lab.vms

    # The steps, in order.

    def create(self) -> None:
        """A portion owned by controller 1, an array over it, and acknowledged content."""
        for name in self.names:
            self._rewrite(name, bytes(MD_DATA + SIZE))
        self.portion.format(self.old, f"--force=member,signature {TIMING} {self.plan.redundancy}")
        self.portion.bring_up(self.old, self.plan.features)
        self.portion.wait(self.old, role="owner", owner=1, epoch=1)
        self.portion.bring_up(self.new, self.plan.features)
        self.portion.wait(self.new, role="secondary", epoch=1)
        chunk = "" if self.plan.level == 1 else f"--chunk={CHUNK >> 10}"
        # What is not written is zero, which is consistent: nothing has to be computed first.
        self.old.sh(
            f"mdadm --create {ARRAY} --run --assume-clean --metadata=1.2 --homehost=any "
            f"--level={self.plan.level} --raid-devices={self.plan.members} {chunk} "
            f"--size={SIZE >> 10} --data-offset={MD_DATA >> 10} "
            f"--bitmap=internal --bitmap-chunk=64K --delay=1 {self._mapped()}"
        )
        # One row more than those in which something is held back.
        self.rows = self.plan.rows[-1] + 2
        count = self.rows * self.geometry.blocks_per_row
        self.old.sh(f"blocks fill {ARRAY} {FIRST} 0 {count}", timeout=120)
        self.truth = dict.fromkeys(range(count), FIRST)
        expect(self._stale() == {}, "the array is consistent")

    def stall(self) -> Job:
        """The owner writes until each row has as many members open as may be, and stalls."""
        self._choose()
        clean = f"until leasectl suspects {self._raw()} | grep -q '^0 of '; do sleep 0.2; done"
        self.old.sh(clean)
        for target in self.targets:
            start, end = self.geometry.extent(target.row)
            self.rules += [
                self.lab.store.hold("c1", self.names[member], ops="WTZ", start=start, end=end)
                for member in target.held
            ]
        blocks = " ".join(str(target.block) for target in self.targets)
        job = self.old.spawn(f"blocks write {ARRAY} {OPEN} {blocks}")
        for rule in self.rules:
            rule.wait_held(1)
        open_, limit = self.portion.status(self.old).permits.split("/")
        expect(open_ == limit == str(self.plan.strays), f"all permits are open: {open_}/{limit}")
        expect(job.out == "", "and none of these writes is acknowledged")
        if self.plan.stall == "cut":
            self.old.power_cut()
        else:
            self.old.provokes("alpha controller 1: owner -> secondary")
            self.old.freeze()
        return job

    def take_over(self) -> None:
        """The other controller owns, lists the suspects, assembles, and writes."""
        self.portion.wait(self.new, timeout=60, role="owner", owner=2, epoch=2)
        if self.portion.status(self.new).permits.endswith("/0"):
            # The old owner's budget is charged, and nothing is left: a matter for an operator.
            self.portion.message(self.new, "accept_risk 2")
        report = json.loads(self.new.sh(f"leasectl suspects --json {self._raw()} | tee {LIST}"))
        self.suspects = {
            row
            for rows in report["suspects"]
            for row in range(rows["first"], rows["first"] + rows["count"])
        }
        rows = {target.row for target in self.targets}
        expect(not report["everything"], "md's bitmap tells where the old owner was writing")
        expect(rows <= self.suspects, f"every row with a held write is suspect: {rows}")
        expect(len(self.suspects) <= len(rows) + 1, f"and hardly another: {self.suspects}")
        old = next(c for c in report["controllers"] if c["controller"] == 1)
        expect(old["epoch"] == 1 and old["role"] == "owner", f"its last words: {old}")
        self.assemble()
        for block, found in self.read().items():
            allowed = {self.truth[block]} | {OPEN for t in self.targets if t.block == block}
            expect(found in allowed, f"block {block} is one of {allowed}, not {found}")
            self.truth[block] = found
        self.write(SECOND, self._overwritten())
        expect(self._stale() == {}, "what the second owner leaves is consistent")

    def land(self) -> None:
        """The held writes reach the members."""
        held = {id_ for id_, r in self.lab.store.history().requests.items()
                if r.controller == "c1" and r.changes and r.waited and r.order is None}  # fmt: skip
        for rule in self.rules:
            rule.release()
        self.lab.store.wait_history(
            lambda history: all(history.requests[id_].order is not None for id_ in held)
        )
        self.stop()
        stale = self._stale()
        expected: dict[int, set[int]] = {}
        for target in self.targets:
            expected[target.row] = expected.get(target.row, set()) | target.held
        for row, members in stale.items():
            expect(members <= expected.get(row, set()), f"row {row}: {members} are stale")
        overwritten = {self.geometry.row(block) for block in self._overwritten()}
        for row in overwritten & set(expected):
            expect(stale.get(row) == expected[row], f"row {row}: {expected[row]} are stale")
        self.images = [self._image(name) for name in self.names]
        print(f"# {self.plan.name}: {len(held)} strays in {len(stale)} rows, "
              f"suspect {len(self.suspects)} rows of {SIZE // CHUNK}")  # fmt: skip

    def wake(self, job: Job) -> None:
        """A stalled owner finds out. Its machine is switched off then: clocks and timers of a guest
        that was stopped for long are not what they were."""
        if self.plan.stall == "freeze":
            self.old.thaw()
            self.portion.wait(self.old, role="secondary", epoch=2, owner=2)
            expect(" ok" not in job.wait().out, "nothing is acknowledged to the old owner")
            self.old.power_cut()

    def leave(self) -> None:
        """The old owner comes back, which is its drain; both give everything back."""
        self.old.start().wait_up()
        self.portion.bring_up(self.old, self.plan.features)
        self.portion.wait(self.old, role="secondary", epoch=2, owner=2)
        if self.plan.redundancy != EXTERNAL:
            charged = self.portion.status(self.new).charged
            expect(charged == self.plan.strays, f"the old owner was charged [R21]: {charged}")
            # Refused until the drain is known.
            self.new.sh("until dmsetup message m0 0 repaired 1; do sleep 0.2; done")
            self.portion.wait(self.new, charged=0, permits=f"0/{self.plan.strays}")
        self.portion.take_down(self.old)
        self.portion.take_down(self.new)

    # What can be done with the strays on the disks.

    def restore(self) -> None:
        """The members' content at the moment when the strays had landed."""
        for name, image in zip(self.names, self.images, strict=True):
            self._rewrite(name, image)

    def assemble(self) -> None:
        """The array on the new owner, after md has made it consistent."""
        self.new.sh(f"mdadm --assemble --run {ARRAY} {self._mapped()}")
        self._settle()

    def stop(self) -> None:
        """No array, and nothing of it in memory."""
        self.new.sh(f"mdadm --stop {ARRAY}")

    def sync(self, action: str) -> int:
        """One of md's own passes over the array; how many sectors it found inconsistent."""
        self.new.sh(f"echo {action} >/sys/block/md0/md/sync_action")
        self._settle()
        return int(self.new.sh("cat /sys/block/md0/md/mismatch_cnt"))

    def write(self, tag: int, blocks: list[int]) -> None:
        """Acknowledged writes of the new owner."""
        words = " ".join(map(str, blocks))
        out = self.new.sh(f"blocks write {ARRAY} {tag} {words}", timeout=120)
        expect(out.count(" ok") == len(blocks), f"all writes are acknowledged:\n{out}")
        self.truth |= dict.fromkeys(blocks, tag)

    def read(self) -> dict[int, int]:
        """The tag of every block; -1 for a block that is not what anybody wrote."""
        found: dict[int, int] = {}
        out = self.new.sh(f"blocks read {ARRAY} {len(self.truth)}", timeout=120)
        for line in out.splitlines():
            first, count, what = line.split()
            tag = int(what) if what.isdigit() else -1
            found |= dict.fromkeys(range(int(first), int(first) + int(count)), tag)
        return found

    def lost(self) -> list[int]:
        """The blocks that are not what was acknowledged, as the array shows them; stops it."""
        self.assemble()
        wrong = [block for block, tag in self.read().items() if tag != self.truth[block]]
        self.stop()
        return wrong

    def repair(self, options: str = "") -> dict[str, int]:
        """The tool's repair of the suspect rows; what it counts."""
        rc, out = self.new.run(
            f"leasectl rows --json --repair --within {LIST} {options} {self._mapped()}",
            check=False,
        )
        if not out.startswith("{"):
            raise RigError(f"leasectl rows: {out}")
        rows = json.loads(out)["rows"]
        outcomes = [row["outcome"] for row in rows]
        expect(rc == (0 if set(outcomes) <= {"repaired"} else 1), f"exit status {rc}: {out}")
        return {what: outcomes.count(what) for what in ("repaired", "undecided")}

    # Details.

    def _choose(self) -> None:
        """One block in each of the plan's rows, and which of the members that its write changes are
        held back: data and parity in turn."""
        for turn, row in enumerate(self.plan.rows):
            roles = self.geometry.roles(row)
            shard = row % self.geometry.data
            # Not at the ends of a chunk: there the disk's queue may join writes of two rows.
            at = self.random.randrange(1, CHUNK // BLOCK - 1)
            if self.plan.level == 1:
                changed = roles["data"]
            else:
                changed = [roles["data"][shard], *roles["p"], *roles.get("q", [])]
            held = {changed[(turn + n) % len(changed)] for n in range(self.plan.strays)}
            if self.plan.pairs:
                held = {changed[0]}
            block = self.geometry.block(row, shard, at)
            self.targets.append(Target(row, shard, at, block, held))
            if self.plan.pairs:
                block = self.neighbour(self.targets[-1])
                shard = (shard + 1) % self.geometry.data
                self.targets.append(Target(row, shard, at, block, {roles["data"][shard]}))

    def _overwritten(self) -> list[int]:
        """What the second owner writes: the same blocks but every fifth, their neighbours in every
        second row, and a block of the row that nothing was held in."""
        blocks = [t.block for turn, t in enumerate(self.targets) if turn % 5 != 4]
        if self.geometry.data > 1:
            blocks += [self.neighbour(target) for target in self.targets[::2]]
        return sorted({*blocks, self.geometry.block(self.rows - 1, 0, 0)})

    def _mapped(self) -> str:
        return " ".join(f"/dev/mapper/{name}" for name in self.names)

    def _raw(self) -> str:
        return " ".join(f"/dev/lease/{name}" for name in self.names)

    def _settle(self) -> None:
        """Waits until md is at rest, and the array in sync."""
        attribute = "/sys/block/md0/md"
        self.new.sh(
            f"until [ $(cat {attribute}/resync_start) = none ] && "
            f"[ $(cat {attribute}/sync_action) = idle ]; do "
            f"mdadm --wait {ARRAY} || sleep 0.1; done",
            timeout=120,
        )

    def _image(self, name: str) -> bytes:
        return self.lab.store.read(name, AREA, MD_DATA + SIZE)

    def _rewrite(self, name: str, content: bytes) -> None:
        with self.lab.store.image(name).open("r+b") as image:
            image.seek(AREA)
            image.write(content)

    def _stale(self) -> dict[int, set[int]]:
        """The members that do not have what they should, by row: compared with the truth."""
        images = [self._image(name) for name in self.names]
        stale: dict[int, set[int]] = {}
        for row in range(self.rows):
            start = self.geometry.extent(row)[0] - AREA
            for at in range(CHUNK // BLOCK):
                shards = self.geometry.shards(row, at, self.truth)
                place = start + at * BLOCK
                for member, right in enumerate(shards):
                    if images[member][place : place + BLOCK] != right:
                        stale.setdefault(row, set()).add(member)
        return stale

    def neighbour(self, target: Target) -> int:
        """Another block of the same row: of the next data shard, if there is one."""
        if self.geometry.data == 1:
            return self.geometry.block(target.row, 0, (target.at + 1) % (CHUNK // BLOCK))
        shard = (target.shard + 1) % self.geometry.data
        return self.geometry.block(target.row, shard, target.at)

    def data_strays(self) -> set[int]:
        """Blocks whose own shard was held back."""
        return {
            target.block
            for target in self.targets
            if self.geometry.roles(target.row)["data"][target.shard] in target.held
        }


def play(lab: Lab, plan: Plan, seed: int, then: Callable[[Trial], None]) -> None:
    """A trial up to the landing of the strays, and what follows."""
    trial = Trial(lab, plan, random.Random(seed))
    trial.create()
    job = trial.stall()
    trial.take_over()
    trial.land()
    trial.wake(job)
    then(trial)
    trial.leave()


def repaired(trial: Trial, options: str = "") -> None:
    """The documented recipe: every acknowledged byte is right, and the array is consistent."""
    counts = trial.repair(options)
    expect(counts["undecided"] == 0, f"every row is decided: {counts}")
    expect(counts["repaired"] > 0, "there was something to repair")
    trial.assemble()
    inconsistent = trial.sync("check")
    trial.stop()
    expect(inconsistent == 0, f"md finds nothing ({inconsistent} sectors)")
    lost = trial.lost()
    expect(not lost, f"every acknowledged write is right, but not {lost}")
    print(f"# {trial.plan.name}: {counts['repaired']} rows repaired, nothing lost")


def resync_believes_strays(trial: Trial) -> None:
    """The wrong recipe: md's repair takes data as it is, and parity or the first copy from it."""
    trial.assemble()
    inconsistent = trial.sync("repair")
    trial.stop()
    lost = trial.lost()
    acknowledged = [block for block in lost if trial.truth[block] == SECOND]
    expect(acknowledged, "md's repair makes strays permanent, and acknowledged writes undone")
    expect(set(lost) <= trial.data_strays(), f"namely those among the data: {lost}")
    print(f"# {trial.plan.name}: md's own repair ({inconsistent} sectors) loses "
          f"{len(acknowledged)} acknowledged blocks")  # fmt: skip
    trial.restore()


def write_before_repair(trial: Trial) -> list[int]:
    """A row that carries a stray is written elsewhere before it is repaired; what that loses.

    md reads a row of parity to compute it, also the stray, and then nothing tells the stray from
    what is right. Copies are not read.
    """
    truth = dict(trial.truth)
    neighbours = [trial.neighbour(t) for t in trial.targets if t.block in trial.data_strays()]
    expect(neighbours, "there are strays among the data")
    trial.assemble()
    trial.write(HASTY, neighbours)
    trial.stop()
    trial.repair()
    lost = trial.lost()
    expect(set(lost) <= trial.data_strays(), f"nothing else is lost: {lost}")
    print(f"# {trial.plan.name}: {len(neighbours)} writes before the repair lose {len(lost)}")
    trial.truth = truth
    trial.restore()
    return lost


def raid6(lab: Lab, seed: int) -> None:
    """RAID-6 without detection, M = 1 in each row: strays are found by P and Q [R20]."""
    plan = Plan("raid6", 6, 5, "--redundancy parity:2 --detect no --count stripe:64", 12, 1,
                stall="freeze")  # fmt: skip

    def then(trial: Trial) -> None:
        resync_believes_strays(trial)
        expect(write_before_repair(trial), "a write before the repair hides strays from it")
        repaired(trial)

    play(lab, plan, seed, then)


def mirror3(lab: Lab, seed: int) -> None:
    """Three copies without detection, M = 1: strays are outvoted [R20]."""
    plan = Plan("mirror:3", 1, 3, "--redundancy mirror:3 --detect no --count stripe:64", 9, 1)

    def then(trial: Trial) -> None:
        resync_believes_strays(trial)
        expect(not write_before_repair(trial), "copies do not depend on each other's blocks")
        repaired(trial)

    play(lab, plan, seed, then)


def old_blocks(trial: Trial) -> str:
    """What a layer that detects says: the blocks that are not what it wrote last."""
    sectors = [str(block * BLOCK // 512) for block in trial.lost()]
    return ",".join(sectors) or "none"


def raid5(lab: Lab, seed: int) -> None:
    """RAID-5 with detection, M = 1 = m: the layer above names the old blocks [R20]."""
    plan = Plan("raid5", 5, 4, "--redundancy parity:1 --detect yes --count stripe:64", 12, 1)

    def then(trial: Trial) -> None:
        resync_believes_strays(trial)
        counts = trial.repair()
        expect(counts["repaired"] == 0, "by content alone one parity says nothing")
        repaired(trial, f"--old {old_blocks(trial)}")

    play(lab, plan, seed, then)


def raid6_detected(lab: Lab, seed: int) -> None:
    """RAID-6 with detection, M = 2 = m: two old data blocks of a row, named by the layer above."""
    redundancy = "--redundancy parity:2 --detect yes --batch 2 --count stripe:64"
    plan = Plan("raid6, detected", 6, 5, redundancy, 8, 2, pairs=True)

    def then(trial: Trial) -> None:
        counts = trial.repair()
        expect(counts["undecided"] == plan.targets, f"two are too many if unknown: {counts}")
        repaired(trial, f"--old {old_blocks(trial)}")

    play(lab, plan, seed, then)


def one_more6(lab: Lab, seed: int) -> None:
    """RAID-6 with a limit of 2 where the bound is 1: no suspicion of one shard leads back."""
    plan = Plan("raid6, one stray more", 6, 5, EXTERNAL, 1, 2,
                features="2 batch 2")  # fmt: skip

    def then(trial: Trial) -> None:
        target = trial.targets[0]
        data = trial.geometry.roles(target.row)["data"]
        expect(data[target.shard] in target.held, "a data shard is among the strays")
        expect(no_suspect_helps(trial, target), "every suspicion leads to something wrong")
        counts = trial.repair()
        expect(counts["repaired"] == 0 or trial.lost(), f"the tool cannot know either: {counts}")
        trial.restore()
        resync_believes_strays(trial)
        print(f"# {plan.name}: not repaired, whichever shard is suspected ({counts})")

    play(lab, plan, seed, then)


def no_suspect_helps(trial: Trial, target: Target) -> bool:
    """Whether no single suspected shard of a row leads to what was acknowledged."""
    place = trial.geometry.extent(target.row)[0] - AREA + target.at * BLOCK
    shards = [image[place : place + BLOCK] for image in trial.images]
    right = trial.geometry.shards(target.row, target.at, trial.truth)
    roles = trial.geometry.roles(target.row)
    results = []
    for suspect, member in enumerate(roles["data"]):
        data = [shards[m] for m in roles["data"]]
        others = p_of([d for z, d in enumerate(data) if z != suspect])
        data[suspect] = xor(others, shards[roles["p"][0]])
        results.append((member, data))
    # A suspected P or Q, or nobody: the data is believed as it is.
    results.append((-1, [shards[m] for m in roles["data"]]))
    truth = [right[m] for m in roles["data"]]
    fits = [data for _, data in results if q_of(data) == shards[roles["q"][0]]]
    expect(truth not in fits, "the acknowledged data is no explanation with one wrong shard")
    return all(data != truth for _, data in results)


def one_more1(lab: Lab, seed: int) -> None:
    """Three copies with a limit of 2 where the bound is 1: the strays are the majority."""
    plan = Plan("mirror:3, one stray more", 1, 3, EXTERNAL, 1, 2,
                features="2 batch 2")  # fmt: skip

    def then(trial: Trial) -> None:
        counts = trial.repair()
        lost = trial.lost()
        expect(lost, f"the majority is wrong: {counts}")
        print(f"# {plan.name}: {len(lost)} blocks lost by the vote")

    play(lab, plan, seed, then)


def btrfs(lab: Lab, _: int) -> None:
    """A layer that detects and keeps two copies: M = 1 = m, its scrub repairs from checksums."""
    corrected, uncorrectable = scrub_after_strays(lab, "--redundancy mirror:2 --detect yes", "", 1)
    expect(corrected > 0 and uncorrectable == 0, f"{corrected} corrected, {uncorrectable} not")
    print(f"# btrfs: {corrected} blocks corrected, nothing lost")
    features = "2 batch 2"
    corrected, uncorrectable = scrub_after_strays(lab, EXTERNAL, features, 2)
    expect(uncorrectable > 0, "one stray more is one on each copy")
    print(f"# btrfs, one stray more: {uncorrectable} blocks lost")


def scrub_after_strays(lab: Lab, redundancy: str, features: str, strays: int) -> tuple[int, int]:
    """Strays over what the second owner has acknowledged; how many blocks btrfs then corrects, and
    how many it cannot."""
    old, new = lab.vms
    portion = LabPortion.on(lab, "beta", ["m0", "m1"])
    portion.format(old, f"--force=member,signature {TIMING} {redundancy}")
    for vm, wanted in ((old, {"role": "owner", "epoch": 1}), (new, {"role": "secondary"})):
        portion.bring_up(vm, features)
        portion.wait(vm, **wanted)
    old.sh("mkfs.btrfs -q -f -d raid1 -m raid1 /dev/mapper/m0 /dev/mapper/m1", timeout=120)
    mount_btrfs(old)
    write_file(old, "a", FIRST)
    rules = [lab.store.hold("c1", f"m{copy}", ops="WTZ", start=AREA) for copy in range(strays)]
    old.spawn(f"truncate -s {FILE} /mnt/b; blocks fill /mnt/b {OPEN} 0 {FILE // BLOCK}")
    for rule in rules:
        rule.wait_held(1)
    old.power_cut()
    portion.wait(new, timeout=60, role="owner", owner=2, epoch=2)
    if portion.status(new).permits.endswith("/0"):
        portion.message(new, "accept_risk 2")
    mount_btrfs(new)
    write_file(new, "c", SECOND)
    requests = lab.store.history().requests.values()
    held = [r for r in requests if r.controller == "c1" and r.waited and r.order is None]
    reused = [r for r in requests if r.controller == "c2" and r.op == "W" and r.order is not None
              and any(h.member == r.member and h.overlaps(r.offset, r.offset + r.length)
                      for h in held)]  # fmt: skip
    expect(reused, "the second owner has put acknowledged data where strays will land")
    for rule in rules:
        rule.release()
    ids = {r.id for r in held}
    lab.store.wait_history(lambda h: all(h.requests[i].order is not None for i in ids))
    result = scrub(new)
    if result[1] == 0:
        expect(scrub(new) == (0, 0), "a second scrub finds nothing")
        for name, tag in (("a", FIRST), ("c", SECOND)):
            out = new.sh(f"blocks read /mnt/{name} {FILE // BLOCK}", timeout=120)
            expect(out == f"0 {FILE // BLOCK} {tag}", f"file {name} is as acknowledged:\n{out}")
    new.sh("umount /mnt")
    portion.take_down(new)
    old.start().wait_up()
    return result


def mount_btrfs(vm: Vm) -> None:
    """Mounts the file system on both mapped devices."""
    vm.sh("modprobe btrfs; mount -t btrfs -o device=/dev/mapper/m1 /dev/mapper/m0 /mnt")


def write_file(vm: Vm, name: str, tag: int) -> None:
    """A file that is acknowledged, with everything that leads to it."""
    vm.sh(
        f"set -e; truncate -s {FILE} /mnt/{name}\n"
        f"blocks fill /mnt/{name} {tag} 0 {FILE // BLOCK}\nsync",
        timeout=120,
    )


def scrub(vm: Vm) -> tuple[int, int]:
    """Errors that a scrub corrected, and those that it could not."""
    out = vm.run("btrfs scrub start -B -R /mnt", timeout=120, check=False).out
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip()
              for line in out.splitlines() if line.count(":") == 1}  # fmt: skip
    try:
        return int(fields["corrected_errors"]), int(fields["uncorrectable_errors"])
    except (KeyError, ValueError):
        raise RigError(f"btrfs scrub: {out}") from None


SCENES: list[Callable[[Lab, int], None]] = [
    raid6,
    mirror3,
    raid5,
    raid6_detected,
    one_more6,
    one_more1,
    btrfs,
]


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("scenes", nargs="*", help="only these: " + " ".join(names()))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = [s for s in SCENES if s.__name__ in (arguments.scenes or names())]
    if len(wanted) < len(arguments.scenes):
        parser.error(f"scenes are {' '.join(names())}")
    print(f"# seed {arguments.seed}", flush=True)
    # A guest that was stopped may blame RCU, and a task that waited for the disks meanwhile.
    allow = r"rcu.* stall|soft lockup|blocked for more than"

    def stage() -> Lab:
        return Lab("strays", members=5, size=256 * MIB, allow=allow, profile="strays")

    def seeded(scene: Callable[[Lab, int], None]) -> Callable[[Lab], None]:
        @functools.wraps(scene)
        def step(lab: Lab) -> None:
            scene(lab, arguments.seed)

        return step

    run_steps([seeded(scene) for scene in wanted], stage)


def names() -> list[str]:
    """The names of all scenes."""
    return [scene.__name__ for scene in SCENES]
