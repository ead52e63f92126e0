# SPDX-License-Identifier: GPL-2.0
"""What the rig needs to know of the machine it runs on: paths, patience, acceleration."""

from __future__ import annotations

import argparse
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
BUILD = SOURCE / ".build"
CACHE = Path("/cache")

# DM_LEASE_KERNEL names another unpacked kernel, such as the one of scripts/debug-kernel.
KERNEL = Path(os.environ.get("DM_LEASE_KERNEL", str(CACHE / "kernel")))


def _watches_itself() -> bool:
    config = KERNEL / "config"
    return config.exists() and "CONFIG_KASAN=y\n" in config.read_text()


# A kernel that watches itself needs a module of its own, more memory and more time; what a run with
# it leaves behind is kept apart by a suffix.
DEBUG = _watches_itself()
SUFFIX = "-debug" if DEBUG else ""
SLOWNESS = 4 if DEBUG else 1
EXTRA_MEMORY = 768 if DEBUG else 0
MODULE = BUILD / f"module{SUFFIX}"


class RigError(Exception):
    """The rig, the guest or the store did not do what was asked of it."""


def patience(seconds: float) -> float:
    """How long to wait for something that takes `seconds` at most on an idle machine.

    Under emulation a loaded machine is easily several times slower; a limit is there to end a
    hang, not to measure. DM_LEASE_PATIENCE multiplies all of them.
    """
    return seconds * float(os.environ.get("DM_LEASE_PATIENCE", "3")) * SLOWNESS


def require_root() -> None:
    """Ends the program unless it runs inside the toolchain root."""
    if not Path("/etc/dm-lease-root").exists():
        sys.exit(f"{sys.argv[0]}: run this as: scripts/enter {sys.argv[0]}")


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """A parser for the arguments of a scene, whose help shows the docstring as it is written."""
    return argparse.ArgumentParser(
        prog=sys.argv[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def kernel_modules() -> Path:
    """The modules of the kernel under test; the directory is named as its release."""
    found = [path for path in (KERNEL / "usr/lib/modules").glob("*") if path.is_dir()]
    if len(found) != 1:
        raise RigError(f"{KERNEL}/usr/lib/modules holds {len(found)} kernels, not one")
    return found[0]


def kernel_image() -> Path:
    """The bootable image of the kernel under test."""
    modules = kernel_modules()
    for path in (modules / "vmlinuz", KERNEL / "boot" / f"vmlinuz-{modules.name}"):
        if path.exists():
            return path
    raise RigError(f"no kernel image in {KERNEL}")


def accelerator() -> list[str]:
    """QEMU arguments for the fastest way to run a guest that is known to work here."""
    probe = SOURCE / "scripts/kvm-probe"
    answer = subprocess.run([probe], stdout=subprocess.PIPE, text=True, check=False).stdout
    if answer.strip() == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def build(profile: str) -> Path:
    """The initramfs of a profile, built now if anything in it changed."""
    output = BUILD / f"initramfs-{profile}{SUFFIX}.cpio"
    subprocess.run([SOURCE / "qemu/initramfs", profile, output], check=True)
    return output


@functools.cache
def leasectl() -> Path:
    """The administration tool of this checkout, built now if it is not up to date.

    Whoever needs it asks here: an older one that lies around would test yesterday's code.
    """
    manifest = str(SOURCE / "scripts/leasectl/Cargo.toml")
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", manifest]
    built = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        raise RigError(f"leasectl does not build:\n{built.stderr}")
    return Path(os.environ["CARGO_TARGET_DIR"]) / "release/leasectl"


def qemu_version() -> str:
    """The version of QEMU."""
    command = ["qemu-system-x86_64", "--version"]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"version (\S+)", text)
    return found[1] if found else "?"


def output(*command: str | Path) -> str:
    """What a command says."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=SOURCE
    ).stdout.strip()


def environment() -> dict[str, str]:
    """What the figures depend on."""
    git = ["git", "-c", "safe.directory=*"]
    return {
        "commit": output(*git, "describe", "--always", "--dirty", "--abbrev=12"),
        "kernel": kernel_modules().name,
        "qemu": qemu_version(),
        "rustc": output("rustc", "--version"),
        "module": output("sha256sum", MODULE / "dm_lease.ko").split()[0],
    }
