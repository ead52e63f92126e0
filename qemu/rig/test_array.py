# SPDX-License-Identifier: GPL-2.0
"""What an array with reservations is told to do, and how the store tells its writers apart."""

from __future__ import annotations

import re
import struct
import tempfile
import unittest
from pathlib import Path

import nbd

from . import array, mailbox, stamp
from .history import BLOCK, Request
from .host import RigError
from .store import Store

MEMBERS = ("m0", "m1")
MIB = 1 << 20


def block(number: int) -> bytes:
    """A stamped block of a controller."""
    return stamp.HEADER.pack(b"RIGSTAMP", number, 0, 7, 1, 2, 3).ljust(BLOCK, b"\x5a")


def record(number: int) -> bytes:
    """A record of a ledger, of a controller."""
    return struct.pack("<8sII", b"LEDGER 1", number, 0xC4C).ljust(BLOCK, b"\0")


def mail(number: int, is_ballot: bool) -> bytes:
    """A mailbox record of a controller."""
    request = Request(1, 0, "", "", "W", False, 0, BLOCK)
    it = mailbox.Mail(request, "p", number, is_ballot, 9, b"i" * 16, 3, 1, b"o" * 16)
    return mailbox.encode(it, 1000).ljust(BLOCK, b"\0")


class Scripts(unittest.TestCase):
    """The commands of array and controllers."""

    def test_reservations_are_enabled_before_their_namespace(self) -> None:
        lines = array.export_script("nvmet", MEMBERS, 2).split("\n")
        for member in MEMBERS:
            space = [line for line in lines if f":{member}/namespaces/1/" in line]
            self.assertRegex(space[-2], r"echo 1 >.*/resv_enable$")
            self.assertRegex(space[-1], r"echo 1 >.*/enable$")

    def test_hosts_differ_and_have_a_keep_alive(self) -> None:
        found = set()
        for number in (1, 2, 3):
            script = array.connect_script("nvmet", MEMBERS, number, 0)
            found.add((*re.findall(r"--hostnqn=(\S+) --hostid=(\S+)", script)[0],))
            self.assertEqual(script.count("nvme connect"), len(MEMBERS))
            for time in re.findall(r"--keep-alive-tmo=(\d+)", script):
                self.assertGreater(int(time), 0)
        self.assertEqual([len({*column}) for column in zip(*found, strict=True)], [3, 3])

    def test_every_initiator_has_an_entry_and_a_name_of_its_own(self) -> None:
        export = array.export_script("lio", MEMBERS, 2)
        for number in (1, 2):
            connect = array.connect_script("lio", MEMBERS, number, 0)
            (name,) = re.findall(r"InitiatorName=(\S+)", connect)
            entries = re.findall(rf"mkdir \S*/acls/{name}$", export, re.MULTILINE)
            self.assertEqual(len(entries), len(MEMBERS))

    def test_an_array_and_its_controllers_are_in_one_network_each(self) -> None:
        for model in array.MODELS:
            export = array.export_script(model, MEMBERS, 2)
            for number in (1, 2):
                connect = array.connect_script(model, MEMBERS, number, index=3)
                self.assertIn(f"ip addr add 10.8.{number}.1/24 dev eth{number - 1}", export)
                self.assertIn(f"ip addr add 10.8.{number}.2/24 dev eth3", connect)
                self.assertIn(f"10.8.{number}.1", connect)

    def test_a_preempt_names_its_own_key_first(self) -> None:
        nexus = array.Nexus(None, "m0", 0xA1)  # type: ignore[arg-type]
        command = nexus.evict_command(0xB2, array.WEAR, abort=True)
        self.assertEqual(command, "reserve /dev/lease/m0 preempt-abort 0xa1 0xb2 5")


class Authors(unittest.TestCase):
    """A store with one machine before it."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.store = Store(Path(directory.name), {"m0": MIB}, array.NAME, array.authors(2))
        self.addCleanup(self.store.close)
        self.disk = self.connect(array.NAME)

    def connect(self, machine: str) -> nbd.NBD:
        """A connection of a machine to the member."""
        disk = nbd.NBD()
        disk.set_export_name(f"{machine}/m0")
        disk.connect_unix(str(self.store.socket))
        self.addCleanup(disk.shutdown)
        return disk

    def controllers(self) -> list[str]:
        """Whose the writes are, for the log."""
        return [it.controller for it in self.store.history().select(ops="W")]

    def test_a_write_counts_as_one_of_the_controller_that_made_its_block(self) -> None:
        for number in (1, 2):
            for it in (block(number), record(number), mail(number, True), mail(number, False)):
                self.disk.pwrite(bytes(BLOCK) + it, 8 * BLOCK)
        self.assertEqual(self.controllers(), ["c1"] * 4 + ["c2"] * 4)

    def test_a_record_of_the_module_is_told_apart(self) -> None:
        # As the module wrote them: version 2, of members 0 and 2, by controllers 1 and 2.
        for head in ("646d4c734245415402000200 01", "646d4c7342414c5402000102 02"):
            self.disk.pwrite(bytes.fromhex(head).ljust(BLOCK, b"\0"), 0)
        self.assertEqual(self.controllers(), ["c1", "c2"])

    def test_everything_else_is_of_the_array(self) -> None:
        shifted = bytes(512) + block(1)[:-512]
        for it in (bytes(BLOCK), shifted, block(3), block(1)[:8].ljust(BLOCK, b"\0")):
            self.disk.pwrite(it, 0)
        self.disk.pwrite(block(1), 512)
        self.disk.pread(BLOCK, 0)
        self.disk.flush()
        self.assertEqual(self.controllers(), [array.NAME] * 5)
        self.assertEqual({it.controller for it in self.store.history().select(ops="RF")}, {"array"})

    def test_a_block_on_another_connection_is_of_that(self) -> None:
        self.connect("c2").pwrite(block(1), 0)
        self.assertEqual(self.controllers(), ["c2"])

    def test_a_rule_for_a_controller_acts_on_its_writes_alone(self) -> None:
        with self.store.fail("c2", "m0", ops="W"):
            self.disk.pwrite(block(1), 0)
            with self.assertRaises(nbd.Error):
                self.disk.pwrite(block(2), 0)
        self.disk.pwrite(block(2), 0)

    def test_a_rule_for_reads_of_one_controller_is_refused(self) -> None:
        for ops in ("*", "R", "WF", "T"):
            with self.assertRaises(RigError):
                self.store.hold("c1", "m0", ops=ops)
        with self.store.delay("*", "m0", 1), self.store.delay(array.NAME, "m0", 1, ops="R"):
            self.disk.pread(BLOCK, 0)
