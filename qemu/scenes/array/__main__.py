# SPDX-License-Identifier: GPL-2.0
"""What reservations of nvmet and LIO do, fact by fact: what the device gate relies on.

Two controllers without the module use an array that exports three members by NVMe/TCP (nvmet) or
iSCSI (LIO). Both targets are those of the kernel under test. The name of each step is the fact that
it shows. The store below the array is the arbiter: every write says its controller and epoch, and a
write of an older epoch that lands after one of a newer epoch is late.

The first controller registers first and makes the reservation: WEAR on nvmet, WERO on LIO. With
WERO it is the holder, and the second controller, the victim, is not. All files of a run are in
.build/run/array-<model>/.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rig import WEAR, WERO, Job, Lab, Nexus, Rule, Vm, expect, run_steps, stamp, until
from rig.array import APTPL, IQN, MODELS, forget, link_script
from rig.history import BLOCK
from rig.host import arguments_of

MEMBERS = ("m0", "m1", "m2")
# The kernel of a paused guest may report RCU stalls and soft lockups when it continues.
ALLOW = r"rcu.* stall|soft lockup"
PAUSE_US = 2000
STRANGER = 0xDEAD


class Scene:
    """The lab, and both controllers as they are registered at m0."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.kind = WEAR if lab.model == "nvmet" else WERO
        a, b = lab.vms
        self.winner, self.victim = Nexus(a, "m0", 0xA1), Nexus(b, "m0", 0xB2)
        self.epoch = 1

    def at(self, member: str) -> tuple[Nexus, Nexus]:
        """Both controllers at another member, with the same keys."""
        return Nexus(self.winner.vm, member, 0xA1), Nexus(self.victim.vm, member, 0xB2)

    def number(self, nexus: Nexus) -> int:
        """The number of a controller."""
        return self.lab.vms.index(nexus.vm) + 1

    def stamp(self, nexus: Nexus, count: int = 1, pause_us: int = 0) -> str:
        """The command that writes stamped blocks of a controller, in the present epoch."""
        number = self.number(nexus)
        first = 100 * number
        return f"stamp {nexus.device} {number} {self.epoch} {first} 16 {count} {pause_us}"

    def write(self, nexus: Nexus) -> int:
        """Writes one stamped block; the errno."""
        return stamp.told(nexus.vm.run(self.stamp(nexus)).out)[0].errno

    def landed(self, nexus: Nexus) -> int:
        """How many blocks of a controller are on the medium."""
        history = self.lab.store.history()
        who = (self.number(nexus), f"c{self.number(nexus)}")
        return sum(
            (it.controller, it.request.controller) == who
            for it in stamp.landed(history, nexus.member)
        )

    def late(self, nexus: Nexus) -> list[int]:
        """The epochs of writes that landed at a member after one of a newer epoch."""
        return [it.epoch for it in stamp.strays(self.lab.store.history(), nexus.member)]

    def join(self) -> None:
        """Both are registered, and the first controller holds the reservation."""
        if self.victim.key not in self.winner.registered():
            expect(self.victim.register() == "good", "the victim registers")
        keys = [self.winner.key, self.victim.key]
        expect(self.winner.registered() == keys, "the first host registered first")
        expect(self.winner.held() == (self.winner.key, self.kind), "the first host is the holder")

    def make_victim_holder(self) -> None:
        """On LIO only the holder can be aborted: the victim gets the reservation. With WEAR every
        registrant holds it."""
        if self.kind == WERO:
            expect(self.victim.preempt(self.winner.key, WERO) == "good", "the victim preempts")
            expect(self.winner.register() == "good", "the first host registers again")
            expect(self.winner.held() == (self.victim.key, WERO), "the victim is the holder")

    @contextmanager
    def held_write(self) -> Iterator[tuple[Job, Rule]]:
        """A write of the victim has passed the reservation and hangs in the array's own disk."""
        with self.lab.store.hold("c2", "m0", ops="W") as rule:
            stuck = self.victim.vm.spawn(self.stamp(self.victim))
            rule.wait_held(1)
            yield stuck, rule

    def evict_and_write(self, abort: bool = True) -> Job:
        """Starts PREEMPT AND ABORT of the victim, or PREEMPT; after GOOD, and at once, the same job
        writes a block of the next epoch. So the order on the medium shows what landed after GOOD.
        """
        self.epoch += 1
        command = self.winner.evict_command(self.victim.key, self.kind, abort)
        return self.winner.vm.spawn(f"{command} && {self.stamp(self.winner)}")

    def let_a_write_be_late(self, abort: bool) -> None:
        """Evicts the victim, which does not hold the reservation on LIO, by a command that does not
        abort its write: GOOD comes while the write hangs, and the write lands later."""
        self.join()
        late, epoch = self.late(self.winner), self.epoch
        with self.held_write() as (stuck, rule):
            expect(is_good_and_written(self.evict_and_write(abort)), "GOOD, and the winner writes")
            expect(self.winner.registered() == [self.winner.key], "the victim's key is gone")
            expect(rule.held == 1 and not stuck.done, "the victim's write hangs still")
        expect(stamp.told(stuck.wait().out)[0].errno == 0, "the victim is told that it succeeded")
        expect(self.late(self.winner) == [*late, epoch], "the victim's write landed after GOOD")
        expect(self.write(self.victim) == errno.EBADE, "the victim's next write conflicts")


def is_good_and_written(job: Job) -> bool:
    """Whether the eviction answered GOOD and the write after it succeeded."""
    answer, written = job.wait().out.split("\n", 1)
    return answer == "good" and stamp.told(written)[0].errno == 0


def is_unregistered(nexus: Nexus) -> bool:
    """Whether a controller finds its own key gone. LIO may abort this READ KEYS together with the
    victim's other commands."""
    found = nexus.vm.run(nexus.command("keys"), check=False)
    return found.rc == 0 and hex(nexus.key) not in found.out.split()


def read_command(device: str, block: int) -> str:
    """The command that reads a block of a disk."""
    return f"dd if={device} of=/dev/null bs={BLOCK} skip={block} count=1 iflag=direct status=none"


def read(vm: Vm, device: str, block: int = 0) -> bool:
    """Whether a read of a disk succeeds."""
    return vm.run(read_command(device, block), check=False).rc == 0


# Both models.


def members_have_the_same_names_everywhere(scene: Scene) -> None:
    """Each controller has all members; the log tells the controllers apart."""
    for member in MEMBERS:
        for vm in scene.lab.vms:
            one = Nexus(vm, member, 0)
            expect(scene.write(one) == 0, f"{vm.name} writes to {member}")
            expect(scene.landed(one) == 1, f"the log shows that {vm.name} did")
            other = next(it for it in scene.lab.vms if it is not vm)
            number = scene.number(one)
            copy = other.spawn(
                f"dd if={one.device} bs={BLOCK} skip={100 * number} count=1 iflag=direct "
                "status=none"
            )
            expect(copy.wait().rc == 0, f"{other.name} reads {member}")
            expect(stamp.on_medium(copy.data) == [(number, 1, 0, 100 * number)], "the same block")


def a_host_without_key_reads_and_cannot_write(scene: Scene) -> None:
    """A write of the host that has no key ends with EBADE."""
    expect(scene.winner.register() == "good", "the first host registers")
    expect(scene.winner.reserve(scene.kind) == "good", "the first host reserves")
    before = scene.landed(scene.victim)
    expect(scene.write(scene.victim) == errno.EBADE, "a write without a key conflicts")
    expect(read(scene.victim.vm, scene.victim.device), "the host without a key can read")
    expect(scene.landed(scene.victim) == before, "no write without a key has landed")
    expect(scene.write(scene.winner) == 0, "the first host writes")


def both_register_and_write(scene: Scene) -> None:
    """The second RESERVE is a conflict, although the reservation lets both hosts write."""
    expect(scene.victim.register() == "good", "the second host registers")
    # nvmet accepts RESERVE from one host only, and a WERO reservation has one holder.
    expect(scene.victim.reserve(scene.kind) == "conflict", "RESERVE of the second host conflicts")
    scene.join()
    before = scene.landed(scene.winner), scene.landed(scene.victim)
    expect(scene.write(scene.winner) == scene.write(scene.victim) == 0, "both hosts write")
    after = scene.landed(scene.winner), scene.landed(scene.victim)
    expect(after == (before[0] + 1, before[1] + 1), "both writes are on the medium")


def a_key_that_is_not_there_conflicts(scene: Scene) -> None:
    """PREEMPT and PREEMPT AND ABORT of a key that is not registered change nothing."""
    expect(scene.winner.abort(STRANGER, scene.kind) == "conflict", "PREEMPT AND ABORT conflicts")
    expect(scene.winner.preempt(STRANGER, scene.kind) == "conflict", "PREEMPT conflicts")
    scene.join()


def a_preempt_without_a_reservation_lets_everybody_write(scene: Scene) -> None:
    """PREEMPT succeeds and removes the key, but it makes no reservation."""
    one, other = scene.at("m2")
    expect(one.register() == other.register() == "good", "both hosts register")
    expect(one.preempt(other.key, scene.kind) == "good", "PREEMPT is good")
    expect(one.registered() == [one.key], "the victim's key is gone")
    expect(one.held()[1] == 0, "nothing is reserved")
    expect(scene.write(other) == 0, "the host without a key writes")


def an_evicted_host_cannot_write(scene: Scene) -> None:
    """A victim that registered second cannot write after its eviction [R48]."""
    scene.join()
    expect(scene.winner.abort(scene.victim.key, scene.kind) == "good", "the victim is evicted")
    expect(scene.winner.registered() == [scene.winner.key], "the victim's key is gone")
    before = scene.landed(scene.victim)
    expect(scene.write(scene.victim) == errno.EBADE, "the victim's write conflicts")
    expect(read(scene.victim.vm, scene.victim.device), "the victim can read")
    expect(scene.landed(scene.victim) == before, "nothing of the victim has landed")
    expect(scene.write(scene.winner) == 0, "the winner writes")


def the_abort_waits_for_a_held_write(scene: Scene) -> None:
    """The abort answers GOOD after the held write has ended. The key is gone long before."""
    scene.join()
    scene.make_victim_holder()
    with scene.held_write() as (stuck, rule):
        abort = scene.evict_and_write()
        # Not asked on the winner's connection: LIO handles no other command there meanwhile.
        until(lambda: is_unregistered(scene.victim), "the victim's key is gone")
        expect(not abort.done, "the abort waits")
        expect(rule.held == 1 and not stuck.done, "the write hangs still")
    expect(is_good_and_written(abort), "GOOD, and the winner writes")
    expect(scene.late(scene.winner) == [], "nothing of the victim landed after GOOD")
    # nvmet lets the write succeed. LIO aborts it; the victim sends it again and gets a conflict.
    wanted = 0 if scene.kind == WEAR else errno.EBADE
    expect(stamp.told(stuck.wait().out)[0].errno == wanted, f"the victim is told {wanted}")
    expect(scene.write(scene.victim) == errno.EBADE, "the victim's next write conflicts")
    expect(scene.winner.held() == (scene.winner.key, scene.kind), "the winner is the holder")


def commands_wait_behind_a_waiting_abort(scene: Scene) -> None:
    """While an abort waits, commands wait behind it: on nvmet those behind a second reservation
    command, on LIO those of the same connection. Other connections of the winner go on."""
    scene.join()
    scene.make_victim_holder()
    vm, place = scene.winner.vm, 1000
    with scene.held_write() as (stuck, _):
        jobs = [scene.evict_and_write()]
        until(lambda: is_unregistered(scene.victim), "the victim's key is gone")
        if scene.kind == WEAR:
            expect(read(vm, scene.winner.device, place - 1), "the abort alone holds up no read")
            jobs.append(vm.spawn(scene.winner.command("reserve", hex(scene.winner.key), WEAR)))
            until(lambda: waiting(vm, "reserve") == 2, "both commands wait")
        reader = vm.spawn(read_command(scene.winner.device, place))
        until(lambda: reader.done or waiting(vm, "dd") == 1, "the read is sent")
        expect(read(vm, Nexus(vm, "m1", 0).device), "another connection of the host works")
        # Until the abort ends nvmet refuses all commands of the victim.
        is_read = read(scene.victim.vm, scene.victim.device)
        expect(is_read == (scene.kind == WERO), f"the victim's read succeeds: {is_read}")
        expect(not reader.done and reads(scene, place) == 0, "the read has not come to the disk")
    expect(is_good_and_written(jobs[0]), "GOOD, and the winner writes")
    expect(reader.wait().rc == 0 and reads(scene, place) == 1, "the read comes after the abort")
    expect(all(job.wait().rc == 0 for job in jobs), "all reservation commands succeed")
    stuck.wait()
    expect(scene.late(scene.winner) == [], "nothing of the victim landed after GOOD")


def waiting(vm: Vm, program: str) -> int:
    """How many processes of a program wait for the kernel and cannot be interrupted."""
    found = vm.run(f"cat /proc/[0-9]*/stat 2>/dev/null | grep -c '({program}) D'", check=False)
    return int(found.out)


def reads(scene: Scene, block: int) -> int:
    """How many reads of a block came to m0."""
    start = block * BLOCK
    history = scene.lab.store.history()
    return len(history.select(None, "m0", "R", start, start + BLOCK))


def a_paused_host_writes_nothing_when_it_goes_on(scene: Scene) -> None:
    """A paused host cannot notice the pause by a clock. The disk refuses its write [R52]."""
    scene.join()
    scene.make_victim_holder()
    writer = scene.victim.vm.spawn(scene.stamp(scene.victim, 0, PAUSE_US))
    writer.wait_for(" ok ")
    scene.victim.vm.pause()
    try:
        expect(is_good_and_written(scene.evict_and_write()), "GOOD, and the winner writes")
        before = scene.landed(scene.victim)
    finally:
        scene.victim.vm.unpause()
    writer.wait_for(f" {errno.EBADE} ")
    writer.kill(signal.SIGTERM)
    writer.wait()
    expect(scene.late(scene.winner) == [], "nothing of the victim landed after GOOD")
    expect(scene.landed(scene.victim) == before, "nothing of the victim lands after the pause")


def a_preempt_without_abort_lets_a_held_write_land(scene: Scene) -> None:
    """After a plain PREEMPT a held write lands late, and the log shows it. Device-mapper drops the
    abort flag, so a PREEMPT AND ABORT through dm-multipath is a plain PREEMPT."""
    scene.let_a_write_be_late(abort=False)


def a_host_is_still_registered_after_a_reboot(scene: Scene) -> None:
    """A host that boots again has the same nexus, so it can write before it registers."""
    scene.join()
    scene.victim.vm.power_cut()
    scene.victim.vm.start().wait_up()
    scene.join()
    expect(scene.write(scene.victim) == 0, "the host writes before it registers")
    expect(scene.victim.register(scene.victim.key) == "good", "the nexus still has its key")


# Only nvmet.


def connections_have_a_keep_alive_and_hosts_differ(scene: Scene) -> None:
    """Reservations of nvmet need a keep-alive time, and a host identifier for each host."""
    hosts = set()
    for vm in scene.lab.vms:
        times = vm.sh("cat /sys/class/nvme/nvme*/kato").split()
        expect(len(times) == len(MEMBERS), "a connection for each member")
        expect(all(int(time) > 0 for time in times), f"KATO of {vm.name} is not 0")
        hosts |= {*vm.sh("cat /sys/class/nvme/nvme*/hostid").split()}
    expect(len(hosts) == len(scene.lab.vms), f"each controller has one host identifier: {hosts}")


def a_key_replaced_by_zero_may_write(scene: Scene) -> None:
    """To unregister, the NVMe driver replaces the key by zero. nvmet keeps the registration."""
    one, other = scene.at("m2")
    expect(one.reserve(scene.kind) == "good", "the first host reserves")
    expect(other.register() == "good", "the other host registers")
    expect(other.ask("register", hex(other.key), 0) == "good", "the other host unregisters")
    expect(one.registered() == [one.key, 0], "key 0 is registered")
    expect(scene.write(other) == 0, "the host with the key 0 writes")


def a_namespace_forgets_when_it_is_enabled_again(scene: Scene) -> None:
    """A namespace that was disabled and enabled again has no reservation: every host may write."""
    one, other = scene.at("m1")
    expect(one.register() == one.reserve(scene.kind) == "good", "the first host reserves")
    expect(scene.write(other) == errno.EBADE, "the other host cannot write")
    assert scene.lab.array
    forget(scene.lab.array, "m1")

    for nexus in (one, other):
        wait_forgotten(nexus)
        expect(nexus.held()[1] == 0, "nothing is reserved")
        expect(scene.write(nexus) == 0, f"{nexus.vm.name} writes without a key")


def wait_forgotten(nexus: Nexus) -> None:
    """Waits until a controller finds no key at a member. The disk may go meanwhile, and come back
    under another name."""
    command = nexus.command("keys")

    def is_forgotten() -> bool:
        found = nexus.vm.run(f"{link_script(MEMBERS)} && {command}", check=False)
        return found.rc == 0 and not found.out

    until(is_forgotten, f"{nexus.vm.name} finds no key")


# Only LIO.


def registrations_are_on_disk(scene: Scene) -> None:
    """LIO saves registrations (APTPL) if the array has a directory for them."""
    scene.join()
    assert scene.lab.array
    saved = scene.lab.array.sh(f"cat {APTPL}/aptpl_m0")
    for nexus in (scene.winner, scene.victim):
        expect(f"sa_res_key={nexus.key}" in saved, f"the key of {nexus.vm.name} is saved")


def evicting_a_stale_nexus_stops_the_new_one(scene: Scene) -> None:
    """LIO has one access bit for each initiator and LUN. The eviction of an old session clears it,
    also for the new session. A new registration sets it again."""
    one, old = scene.at("m1")
    expect(one.register() == one.reserve(WERO) == old.register() == "good", "both hosts register")
    node = f"iscsiadm -m node -T {IQN}:m1"
    old.vm.sh(f"{node} --logout && {node} --login && {link_script(MEMBERS)}")
    new = Nexus(old.vm, "m1", 0xC3)
    expect(new.register() == "good", "a new session is a new nexus")
    expect(one.registered() == [one.key, old.key, new.key], "the old key stays")
    expect(scene.write(new) == 0, "the new session writes")
    expect(one.preempt(old.key, WERO) == "good", "the old session is evicted")
    expect(one.registered() == [one.key, new.key], "the new key is registered")
    expect(scene.write(new) == errno.EBADE, "the new session cannot write")
    expect(new.ask("register", hex(new.key), 0) == new.register() == "good", "it registers anew")
    expect(scene.write(new) == 0, "the new session writes again")


def a_victim_that_is_not_the_holder_is_not_aborted(scene: Scene) -> None:
    """On LIO a write of a victim that is not the holder lands after PREEMPT AND ABORT. So an owner
    on LIO must be the holder."""
    scene.let_a_write_be_late(abort=True)


def steps(model: str) -> list[Callable[[Scene], None]]:
    """The steps of a model. The last ones leave late writes."""
    common = [
        a_host_without_key_reads_and_cannot_write,
        both_register_and_write,
        a_key_that_is_not_there_conflicts,
        a_preempt_without_a_reservation_lets_everybody_write,
        an_evicted_host_cannot_write,
        the_abort_waits_for_a_held_write,
        commands_wait_behind_a_waiting_abort,
        a_paused_host_writes_nothing_when_it_goes_on,
        a_host_is_still_registered_after_a_reboot,
    ]
    nvmet = [
        connections_have_a_keep_alive_and_hosts_differ,
        a_key_replaced_by_zero_may_write,
        a_namespace_forgets_when_it_is_enabled_again,
    ]
    lio = [
        registrations_are_on_disk,
        evicting_a_stale_nexus_stops_the_new_one,
        a_victim_that_is_not_the_holder_is_not_aborted,
    ]
    return [
        members_have_the_same_names_everywhere,
        *common,
        *(nvmet if model == "nvmet" else lio),
        a_preempt_without_abort_lets_a_held_write_land,
    ]


@contextmanager
def scene_of(model: str) -> Iterator[Scene]:
    """The lab, and the scene in it."""
    with Lab(f"array-{model}", model=model, members=len(MEMBERS), allow=ALLOW) as lab:
        yield Scene(lab)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--model", choices=[*MODELS], required=True, help="the array's software")
    model = parser.parse_args().model
    run_steps(steps(model), lambda: scene_of(model))
