// SPDX-License-Identifier: GPL-2.0
//! Finds signatures on a device that formatting would destroy.
//!
//! libblkid knows most signatures, and `wipefs` of util-linux prints all that it finds, not only
//! the first one. This file looks for the signatures of two more programs on shared disks, which
//! libblkid does not know.

use crate::disk::device::Device;
use crate::program::program;
use anyhow::{bail, Context, Result};
use serde::Deserialize;

/// Signatures that libblkid does not know: the name, and the bytes at the start of the device.
const UNKNOWN_TO_LIBBLKID: &[(&str, &[u8])] = &[
    ("a sanlock lockspace", &[0x10, 0x20, 0x21, 0x12]),
    ("a sanlock lease", &[0x10, 0x20, 0x15, 0x06]),
    ("an SBD header", b"SBD_SBD_"),
];

/// The output of `wipefs --json`.
#[derive(Deserialize)]
struct Report {
    signatures: Vec<Signature>,
}

/// One signature; a partition table or a file system may have several.
#[derive(Deserialize)]
struct Signature {
    #[serde(rename = "type")]
    kind: String,
    label: Option<String>,
}

/// The signatures on a device, each one once.
pub fn find(device: &Device) -> Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    for Signature { kind, label } in known_to_libblkid(device)? {
        let label = label.filter(|label| !label.is_empty());
        let text = match label {
            Some(label) => format!("the signature of {kind} \"{label}\""),
            None => format!("the signature of {kind}"),
        };
        if !found.contains(&text) {
            found.push(text);
        }
    }
    let start = device.read_block(0)?;
    for (what, bytes) in UNKNOWN_TO_LIBBLKID {
        if start.starts_with(bytes) {
            found.push(String::from(*what));
        }
    }
    Ok(found)
}

/// Runs `wipefs`, which erases nothing without an option; `--no-act` makes sure of it.
fn known_to_libblkid(device: &Device) -> Result<Vec<Signature>> {
    let shown = device.path.display();
    let output = program("wipefs")
        .args(["--no-act", "--json", "--"])
        .arg(&device.path)
        .output()
        .context("cannot look for signatures: wipefs (package util-linux) does not run")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("cannot look for signatures on {shown}: {}", reason.trim());
    }
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let report: Report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cannot read the output of wipefs for {shown}"))?;
    Ok(report.signatures)
}
