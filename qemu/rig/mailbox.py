# SPDX-License-Identifier: GPL-2.0
"""What lies on a member, and the mailbox records in it, as the rig reads them from outside.

A member begins with its superblock, then come the mailboxes, one for each controller, then the data
area. A mailbox has a register of ballots and one of heartbeats, two blocks each. The layout is that
of src/proto/codec/record.rs and src/proto/codec/layout.rs; here it is written a second time, on
purpose, so that a mistake there is noticed here. This is the only place of the rig that knows it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from .history import BLOCK, Request

MAILBOXES = 1 << 20
MAILBOX = 4 * BLOCK
# Where the data area of a member begins.
DATA = 8 << 20

# Roles, as heartbeat records spell them.
OWNER, LAPSED, RELEASED, HANDING_OVER = 3, 4, 5, 6

# The two registers, as records spell them.
BALLOT_MAGIC, HEARTBEAT_MAGIC = b"dmLsBALT", b"dmLsBEAT"
BALLOT, HEARTBEAT = 1, 2
# Magic, version, register, member, number of the controller, checksum, and then (after generation
# and the portion's UUID) sequence number and incarnation of the writer.
HEADER = struct.Struct("<8sHBBB3xI4x16sQ16s")
DECIDED = struct.Struct("<QB7x16s")
BALLOT_AT, HEARTBEAT_AT = HEADER.size + 16, HEADER.size
PROMISE = struct.Struct("<Q24xQ")
PULSE = struct.Struct("<BBBxIQ")


@dataclass
class Mail:
    """A mailbox record in a write; `role`, `successor`, `hb` and `open` are those of a heartbeat
    record, `round` is the ballot that a ballot record promises, `accepted` is the ballot in which
    it puts a value forward (0 is none)."""

    request: Request
    portion: str
    controller: int
    is_ballot: bool
    seq: int
    inc: bytes
    epoch: int
    owner: int
    owner_inc: bytes
    role: int = 0
    successor: int = 0
    hb: int = 0
    open: int = 0
    round: int = 0
    accepted: int = 0

    @property
    def is_owner(self) -> bool:
        """Whether its writer owned the epoch."""
        return self.role in (OWNER, HANDING_OVER)


class Area(NamedTuple):
    """Bytes of a member."""

    start: int
    end: int


def area(controller: int) -> Area:
    """The mailbox of a controller."""
    start = MAILBOXES + (controller - 1) * MAILBOX
    return Area(start, start + MAILBOX)


def heartbeat_area(controller: int) -> Area:
    """The second half of a controller's mailbox, which is for heartbeats."""
    start, end = area(controller)
    return Area(start + MAILBOX // 2, end)


def is_heartbeat(request: Request) -> bool:
    """Whether a request begins in the half of a mailbox that is for heartbeats."""
    within = MAILBOXES <= request.offset < DATA
    return within and (request.offset - MAILBOXES) % MAILBOX >= MAILBOX // 2


def decode(request: Request, portion: str, offset: int, head: bytes) -> Mail | None:
    """A mailbox block from its head; None if it is none."""
    magic, _, register, _, controller, _, _, seq, inc = HEADER.unpack_from(head)
    if magic not in (BALLOT_MAGIC, HEARTBEAT_MAGIC):
        return None
    is_ballot = register == BALLOT
    at = BALLOT_AT if is_ballot else HEARTBEAT_AT
    epoch, owner, owner_inc = DECIDED.unpack_from(head, at)
    mail = Mail(request, portion, controller, is_ballot, seq, inc, epoch, owner, owner_inc)
    if is_ballot:
        mail.round, mail.accepted = PROMISE.unpack_from(head, at + DECIDED.size)
    else:
        found = PULSE.unpack_from(head, at + DECIDED.size)
        mail.role, mail.successor, _, mail.open, mail.hb = found
    start, end = area(controller)
    return mail if start <= offset < end else None


def mails(request: Request, portion: str = "") -> list[Mail]:
    """The mailbox records in a write."""
    found = [decode(request, portion, at, head) for at, head in request.blocks()]
    return [mail for mail in found if mail is not None]


def beginnings(controller: int) -> list[str]:
    """How the blocks of a controller's mailbox begin, for the store: in any version and register,
    of any member."""
    return [f"{magic.hex()}{'..' * 4}{controller:02x}" for magic in (BALLOT_MAGIC, HEARTBEAT_MAGIC)]


def encode(mail: Mail, period_ns: int) -> bytes:
    """The head of a mailbox block, for tests of those who read it."""
    magic, register = (BALLOT_MAGIC, BALLOT) if mail.is_ballot else (HEARTBEAT_MAGIC, HEARTBEAT)
    head = HEADER.pack(magic, 1, register, 0, mail.controller, 0, bytes(16), mail.seq, mail.inc)
    decided = DECIDED.pack(mail.epoch, mail.owner, mail.owner_inc)
    if mail.is_ballot:
        return head + bytes(16) + decided + PROMISE.pack(mail.round, mail.accepted)
    pulse = PULSE.pack(mail.role, mail.successor, 0, mail.open, mail.hb)
    return head + decided + pulse + period_ns.to_bytes(8, "little")
