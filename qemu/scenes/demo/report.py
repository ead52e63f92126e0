# SPDX-License-Identifier: GPL-2.0
"""What the checker found, scene by scene, in words."""

from __future__ import annotations

from typing import Any

from rig.evidence import Evidence

from .checker import MS, Findings, Takeover


def report(evidence: Evidence, found: Findings) -> list[str]:
    """The whole report, without the verdict."""
    lines = ["what the disks, the store's log and the writers say:"]
    for scene in (fact for fact in evidence.run["facts"] if fact["kind"] == "scene"):
        lines += scene_lines(evidence, found, scene)
    lines.append("")
    lines += [f"  {note}" for note in found.notes]
    judged = ", ".join(f"{number} {what}" for what, number in found.counts.items())
    lines.append(f"  judged: {judged}")
    return lines


def scene_lines(evidence: Evidence, found: Findings, scene: dict[str, Any]) -> list[str]:
    """One scene."""
    begin, end = scene["at"], scene["until"]
    refused = [r for r in evidence.refusals if begin <= r.at < end]
    strays = [s for s in found.strays if begin <= (s.request.applied or 0) < end]
    acked = [a for a in evidence.acks if a.errno == 0 and begin <= a.after < end]
    failed = [a for a in evidence.acks if a.errno and begin <= a.after < end]
    lines = [f"  scene {scene['letter']}: {scene['title']}"]
    for takeover in found.takeovers:
        if begin <= takeover.leased < end:
            lines += takeover_lines(evidence, takeover)
    by = {number: sum(r.controller == number and not r.late for r in refused) for number in (1, 2)}
    late = sum(r.late for r in refused)
    lines.append(
        f"    writes: {len(acked)} acknowledged, {len(failed)} reported as failed; refused by "
        f"the gate: {by[1]} of controller 1, {by[2]} of controller 2; {late} completed too late"
    )
    lines.append(f"    old epoch's writes that landed after a takeover: {len(strays)}")
    for stray in strays:
        permit = stray.permit
        what = "no permit"
        if permit:
            before = (permit.expiry_ns - permit.guest_ns) / MS
            what = f"permit given {before:.1f} ms before the lease's end"
        request = stray.request
        lines.append(
            f"      {stray.portion} epoch {stray.epoch} in epoch {stray.later}: {request.op} of "
            f"{request.length} bytes on {request.member} by {request.controller}: {what}"
        )
    missing = [text for after, text in found.missing if begin <= after < end]
    lines.append(f"    acknowledged writes missing: {len(missing)}")
    return lines


def takeover_lines(evidence: Evidence, takeover: Takeover) -> list[str]:
    """How an epoch began, next to W."""
    window = evidence.window(takeover.portion) / MS
    head = f"    {takeover.portion} epoch {takeover.epoch}: controller {takeover.new}"
    if takeover.how == "first":
        return [f"{head}, its home, was the first owner"]

    def since(at: int | None) -> str:
        return f"{(at - takeover.last_sign) / MS:.0f} ms" if at else "none"

    how = {
        "silence": f"after the silence of controller {takeover.old}",
        "own lapse": "after its own lapse",
        "handoff": f"by handoff from controller {takeover.old}",
    }[takeover.how]
    origin = "the release" if takeover.how == "handoff" else "the last sign of life"
    lines = [
        f"{head} {how}; since {origin}:",
        f"      lease {since(takeover.leased)}, first write {since(takeover.first_write)}, first "
        f"record acknowledged {since(takeover.first_ack)}; W {window:.0f} ms",
    ]
    if takeover.how == "silence":
        lines.append(
            f"      claim to lease in {takeover.ios} mailbox I/Os of {takeover.io_ns / MS:.1f} ms; "
            f"the lease must come within W + 2 P + 16 I/Os = {takeover.bound / MS:.0f} ms"
        )
    return lines
