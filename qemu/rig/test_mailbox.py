# SPDX-License-Identifier: GPL-2.0
"""Mailbox records are decoded as they were encoded, and only in the mailbox of their writer."""

from __future__ import annotations

import unittest

from .history import BLOCK, HEAD, Request
from .lease import Status
from .mailbox import OWNER, Mail, area, encode, heartbeat_area, is_heartbeat, mails


def write(offset: int, *heads: bytes) -> Request:
    """A write of blocks that begin like this."""
    request = Request(1, 0, "c2", "m0", "W", False, offset, len(heads) * BLOCK)
    request.heads = [head.ljust(HEAD, b"\0") for head in heads]
    return request


class Mails(unittest.TestCase):
    """Records in a write."""

    def test_records_are_decoded_as_they_were_encoded(self) -> None:
        start, _ = heartbeat_area(2)
        request = write(start)
        beat = Mail(request, "p", 2, False, 7, b"i" * 16, 3, 2, b"o" * 16, OWNER, 1, 9, 4)
        ballot = Mail(request, "p", 2, True, 8, b"i" * 16, 3, 2, b"o" * 16, round=5, accepted=6)
        request.heads = [encode(it, 1000).ljust(HEAD, b"\0") for it in (beat, ballot)]
        self.assertEqual(mails(request, "p"), [beat, ballot])
        self.assertTrue(is_heartbeat(request))
        self.assertFalse(is_heartbeat(write(area(2).start)))

    def test_a_record_in_the_mailbox_of_another_is_none(self) -> None:
        request = write(area(1).start)
        mail = Mail(request, "", 2, True, 1, bytes(16), 0, 0, bytes(16))
        request.heads = [encode(mail, 0).ljust(HEAD, b"\0"), bytes(HEAD)]
        self.assertEqual(mails(request), [])


class Lines(unittest.TestCase):
    """Status lines of the module."""

    def test_what_has_no_number_is_none(self) -> None:
        line = "0 8 lease p 0/3 owner 7 - 12 4 1/unlimited 0 2 0 3 none unlimited 1 0 more"
        status = Status.parse(line)
        self.assertEqual((status.known_epoch, status.owner, status.charged), (7, None, None))
        self.assertEqual((status.permits, status.refused, status.peak), ("1/unlimited", 2, 1))
