// SPDX-License-Identifier: GPL-2.0
//! What else may already be on a device: the signatures that formatting would destroy.
//!
//! Only signatures in the zones that formatting wipes are looked for. The table names the formats
//! that shared storage meets; it does not replace `wipefs`, it keeps a slip of the hand from
//! destroying a file system.

use crate::disk::device::Device;
use anyhow::Result;
use dm_lease_proto::proto::layout::BLOCK_SIZE;

/// Where a signature is.
#[derive(Clone, Copy)]
enum At {
    /// This many bytes from the start.
    Start(u64),
    /// This many bytes before the end.
    End(u64),
    /// This many bytes before the end, rounded down to a multiple of the second number.
    AlignedEnd(u64, u64),
}

use At::{AlignedEnd, End, Start};

const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

const SIGNATURES: &[(&str, At, &[u8])] = &[
    (
        "a boot sector or partition table",
        Start(510),
        &[0x55, 0xaa],
    ),
    ("a GPT partition table", Start(512), b"EFI PART"),
    ("a GPT partition table", Start(4096), b"EFI PART"),
    ("a backup GPT partition table", End(512), b"EFI PART"),
    ("a backup GPT partition table", End(4096), b"EFI PART"),
    ("an ext file system", Start(1080), &[0x53, 0xef]),
    ("an XFS file system", Start(0), b"XFSB"),
    ("a btrfs file system", Start(65_600), b"_BHRfS_M"),
    (
        "an F2FS file system",
        Start(1024),
        &[0x10, 0x20, 0xf5, 0xf2],
    ),
    (
        "a GFS2 file system",
        Start(65_536),
        &[0x01, 0x16, 0x19, 0x70],
    ),
    ("an OCFS2 file system", Start(8192), b"OCFSV2"),
    ("an ISO 9660 file system", Start(32_769), b"CD001"),
    ("an NTFS file system", Start(3), b"NTFS    "),
    ("an LVM physical volume", Start(0), b"LABELONE"),
    ("an LVM physical volume", Start(512), b"LABELONE"),
    ("an LVM physical volume", Start(1024), b"LABELONE"),
    ("an LVM physical volume", Start(1536), b"LABELONE"),
    ("an md member", Start(0), MD_MAGIC),
    ("an md member", Start(4096), MD_MAGIC),
    ("an md member", AlignedEnd(8192, 4096), MD_MAGIC),
    ("an md member", AlignedEnd(65_536, 65_536), MD_MAGIC),
    ("a LUKS volume", Start(0), b"LUKS\xba\xbe"),
    ("swap space", Start(4086), b"SWAPSPACE2"),
    (
        "a ZFS member",
        Start(131_072),
        &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0],
    ),
    ("a BlueStore volume", Start(0), b"bluestore block device"),
    (
        "a sanlock lockspace or lease",
        Start(0),
        &[0x10, 0x20, 0x21, 0x12],
    ),
];

/// What is on a device, once each.
pub fn find(device: &Device) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for &(what, at, signature) in SIGNATURES {
        let offset = match at {
            Start(offset) => Some(offset),
            End(distance) => device.size.checked_sub(distance),
            AlignedEnd(distance, unit) => (device.size - device.size % unit).checked_sub(distance),
        };
        let end = offset.map(|offset| offset + signature.len() as u64);
        let Some(offset) = offset.filter(|_| end <= Some(device.size)) else {
            continue;
        };
        if !found.contains(&what) && holds(device, offset, signature)? {
            found.push(what);
        }
    }
    Ok(found)
}

/// Whether `signature`, which never crosses a block's border, is at a byte offset.
fn holds(device: &Device, offset: u64, signature: &[u8]) -> Result<bool> {
    let inside = offset % BLOCK_SIZE as u64;
    // The last block of an image file may be short; a signature there is found by no one else.
    if offset - inside + BLOCK_SIZE as u64 > device.size {
        return Ok(false);
    }
    let block = device.read_block(offset - inside)?;
    Ok(block[inside as usize..].starts_with(signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signature_crosses_a_block() {
        for (what, at, signature) in SIGNATURES {
            let (Start(offset) | End(offset) | AlignedEnd(offset, _)) = *at;
            let inside = match at {
                Start(_) => offset % BLOCK_SIZE as u64,
                // Ends are multiples of a sector; whatever the size, a block does not cut one.
                End(_) | AlignedEnd(..) => 0,
            };
            assert!(inside as usize + signature.len() <= BLOCK_SIZE, "{what}");
        }
    }
}
