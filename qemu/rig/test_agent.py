# SPDX-License-Identifier: GPL-2.0
"""The host's end of the control channel, with a socket in the place of a guest."""

from __future__ import annotations

import socket
import unittest

from .agent import Agent
from .host import RigError


class Talks(unittest.TestCase):
    """How far a talk is when a guest's memory is saved."""

    def setUp(self) -> None:
        ours, self.guest = socket.socketpair()
        self.addCleanup(self.guest.close)
        self.addCleanup(ours.close)
        self.agent = Agent("c1", ours)

    def test_everything_that_the_guest_has_sent_is_part_of_the_talk(self) -> None:
        job = self.agent.spawn("true")
        for count in range(1, 200):
            self.guest.sendall(f"0 hello {count}\n{job.number} out {count:04x}\n5".encode())
            talk = self.agent.talk()
            self.assertEqual((talk.boot_id, talk.rest), (str(count), b"5"))
            self.assertEqual(len(talk.jobs[job.number][1]), 2 * count)
            self.guest.sendall(b" kept -\n")

    def test_a_guest_that_is_gone_has_no_talk(self) -> None:
        self.guest.shutdown(socket.SHUT_RDWR)
        self.assertTrue(self.agent.wait(lambda: self.agent.lost, 10))
        with self.assertRaises(RigError):
            self.agent.talk()
