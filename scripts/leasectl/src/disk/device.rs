// SPDX-License-Identifier: GPL-2.0
//! A block device or an image file, opened, read and written in whole blocks.
//!
//! Block devices are opened with O_DIRECT, because other hosts write the mailboxes, and the module
//! writes them below the page cache of this host. [`Device::claim`] opens a device exclusively
//! (O_EXCL). This fails while anything on this host uses the device: a mounted file system, md,
//! LVM, a mapped device of the target itself. [`Device::observe`] opens it for reading, also while
//! it is in use.

use anyhow::{bail, Context, Result};
use dm_lease_proto::proto::codec::block::{Block, BLOCK_SIZE, ZERO_BLOCK};
use rustix::fs::{flock, major, minor, FlockOperation, OFlags};
use rustix::ioctl::{ioctl, opcode, NoArg};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are read or written at once in longer ranges.
const STRETCH: usize = 64 * 1024;

/// Memory that O_DIRECT accepts.
#[repr(C, align(4096))]
struct Aligned<const N: usize>([u8; N]);

/// An opened device.
pub struct Device {
    /// The path that the user gave.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub size: u64,
    /// Its physical block size, in bytes; 4096 for an image file.
    pub physical_block: u64,
    /// `Some(directory)` of a block device in sysfs.
    sysfs: Option<PathBuf>,
    /// Its identity: device and inode of a file, device number of a block device.
    identity: (u64, u64),
    file: File,
}

impl Device {
    /// Opens a device for reading, also while it is in use.
    pub fn observe(path: &Path) -> Result<Device> {
        Device::open(path, false)
    }

    /// Opens a device for writing. Fails if it is in use on this host.
    pub fn claim(path: &Path) -> Result<Device> {
        let device = Device::open(path, true)?;
        device.refuse_read_only()?;
        device.refuse_partitions()?;
        device.refuse_zones()?;
        device.refuse_loop_backing()?;
        Ok(device)
    }

    fn open(path: &Path, exclusive: bool) -> Result<Device> {
        let shown = path.display();
        let metadata = fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
        let is_block = metadata.file_type().is_block_device();
        if !is_block && !metadata.is_file() {
            bail!("{shown} is neither a block device nor an image file");
        }
        let mut flags = OFlags::CLOEXEC;
        if is_block {
            flags |= OFlags::DIRECT;
            if exclusive {
                flags |= OFlags::EXCL;
            }
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(exclusive)
            .custom_flags(flags.bits() as i32)
            .open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                bail!("{shown} is in use: something on this host holds it (mount, md, dm, swap)")
            }
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                bail!("{shown} is read-only")
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open {shown}")),
        };
        if exclusive && !is_block {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            locked.with_context(|| format!("{shown} is in use: another process locks it"))?;
        }
        let size = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("size of {shown}"))?;
        let identity = identity(&metadata);
        let sysfs = is_block.then(|| {
            let number = metadata.rdev();
            PathBuf::from(format!(
                "/sys/dev/block/{}:{}",
                major(number),
                minor(number)
            ))
        });
        let mut device = Device {
            path: path.to_owned(),
            size,
            physical_block: 4096,
            sysfs,
            identity,
            file,
        };
        if is_block {
            device.physical_block = device.block_sizes()?;
        }
        Ok(device)
    }

    /// The physical block size. Refuses logical blocks that are too large.
    fn block_sizes(&self) -> Result<u64> {
        let shown = self.path.display();
        let logical = self.queue("logical_block_size");
        if logical.is_some_and(|logical| logical > BLOCK_SIZE as u64) {
            bail!("{shown} has logical blocks of more than {BLOCK_SIZE} bytes");
        }
        let physical = self.queue("physical_block_size").unwrap_or(4096).max(4096);
        if physical % 4096 != 0 {
            bail!("{shown} has physical blocks of {physical} bytes, not a multiple of 4096");
        }
        Ok(physical)
    }

    /// A number below `queue/` of the device, or of its disk if it is a partition.
    fn queue(&self, attribute: &str) -> Option<u64> {
        self.queue_text(attribute)?.parse().ok()
    }

    fn queue_text(&self, attribute: &str) -> Option<String> {
        let sysfs = self.sysfs.as_ref()?;
        let own = fs::read_to_string(sysfs.join("queue").join(attribute));
        // The directory is a link, so the disk of a partition is found behind it.
        let disk = || fs::read_to_string(sysfs.join("..").join("queue").join(attribute));
        own.or_else(|_| disk())
            .ok()
            .map(|text| text.trim().to_owned())
    }

    /// The kernel's timeout for one command, in milliseconds; `None` if no layer of the host states
    /// it (md, device-mapper, loop, image files).
    pub fn command_timeout_ms(&self) -> Option<u64> {
        self.queue("io_timeout")
    }

    /// The scheduler of its queue; `None` if it has no queue of its own, as an image file.
    pub fn scheduler(&self) -> Option<String> {
        let choices = self.queue_text("scheduler")?;
        let (_, chosen) = choices.split_once('[')?;
        let (chosen, _) = chosen.split_once(']')?;
        Some(chosen.to_owned())
    }

    /// A read-only device can be opened for writing; only its writes fail.
    fn refuse_read_only(&self) -> Result<()> {
        let attribute = self.sysfs.as_ref().map(|sysfs| sysfs.join("ro"));
        match attribute.and_then(|attribute| fs::read_to_string(attribute).ok()) {
            Some(flag) if flag.trim() != "0" => bail!("{} is read-only", self.path.display()),
            _ => Ok(()),
        }
    }

    fn refuse_partitions(&self) -> Result<()> {
        let Some(entries) = self
            .sysfs
            .as_ref()
            .and_then(|sysfs| fs::read_dir(sysfs).ok())
        else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if entry.path().join("partition").exists() {
                let partition = entry.file_name();
                bail!(
                    "{} is partitioned ({}): remove its partitions first, or use one of them",
                    self.path.display(),
                    partition.to_string_lossy()
                );
            }
        }
        Ok(())
    }

    fn refuse_zones(&self) -> Result<()> {
        match self.queue_text("zoned") {
            Some(model) if model != "none" => {
                bail!("{} is a zoned device ({model})", self.path.display())
            }
            _ => Ok(()),
        }
    }

    /// An image file cannot be opened exclusively, so this looks for a loop device over it.
    fn refuse_loop_backing(&self) -> Result<()> {
        let Some(loops) = fs::read_dir("/sys/block")
            .ok()
            .filter(|_| self.sysfs.is_none())
        else {
            return Ok(());
        };
        for entry in loops.flatten() {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file"));
            let Some(metadata) = backing
                .ok()
                .and_then(|file| fs::metadata(file.trim_end()).ok())
            else {
                continue;
            };
            if (metadata.dev(), metadata.ino()) == self.identity {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                bail!(
                    "{} is in use: /dev/{name} is a loop device over it",
                    self.path.display()
                );
            }
        }
        Ok(())
    }

    /// Reads the block at a byte offset.
    pub fn read_block(&self, offset: u64) -> Result<Block> {
        let mut memory = Box::new(Aligned(ZERO_BLOCK));
        self.read(offset, &mut memory.0)?;
        Ok(memory.0)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.file.read_exact_at(bytes, offset);
        read.with_context(|| format!("cannot read {} at byte {offset}", self.path.display()))
    }

    /// Reads any number of whole blocks from a byte offset on.
    pub fn read_blocks(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        let mut memory = Box::new(Aligned([0; STRETCH]));
        for (at, length) in stretches(offset, length as u64) {
            let stretch = &mut memory.0[..length];
            self.read(at, stretch)?;
            bytes.extend_from_slice(stretch);
        }
        Ok(bytes)
    }

    /// Writes the block at a byte offset.
    pub fn write_block(&self, offset: u64, block: &Block) -> Result<()> {
        let memory = Box::new(Aligned(*block));
        self.write(offset, &memory.0)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.with_context(|| format!("cannot write {} at byte {offset}", self.path.display()))
    }

    /// Overwrites `length` bytes from `offset` on with zeros; both are multiples of a block.
    pub fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let memory = Box::new(Aligned([0; STRETCH]));
        for (at, length) in stretches(offset, length) {
            self.write(at, &memory.0[..length])?;
        }
        Ok(())
    }

    /// The offsets of the blocks between `offset` and `offset + length` that are not all zeros.
    pub fn used_blocks(&self, offset: u64, length: u64) -> Result<Vec<u64>> {
        let mut used = Vec::new();
        let mut memory = Box::new(Aligned([0; STRETCH]));
        for (at, length) in stretches(offset, length) {
            let stretch = &mut memory.0[..length];
            self.read(at, stretch)?;
            for (block, offset) in stretch.chunks(BLOCK_SIZE).zip((at..).step_by(BLOCK_SIZE)) {
                if block.iter().any(|&byte| byte != 0) {
                    used.push(offset);
                }
            }
        }
        Ok(used)
    }

    /// Waits until everything written is on the medium.
    pub fn flush(&self) -> Result<()> {
        self.file
            .sync_all()
            .with_context(|| format!("cannot flush {}", self.path.display()))
    }
}

/// The identity of a file or device, independent of its name.
fn identity(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        (0, metadata.rdev())
    } else {
        (metadata.dev(), metadata.ino())
    }
}

/// Refuses a list that contains one device twice, also under different names.
pub fn refuse_twice(paths: &[PathBuf]) -> Result<()> {
    let mut seen: Vec<((u64, u64), &PathBuf)> = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path);
        let metadata = metadata.with_context(|| format!("cannot open {}", path.display()))?;
        let identity = identity(&metadata);
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == identity) {
            bail!(
                "{} and {} are the same device",
                first.display(),
                path.display()
            );
        }
        seen.push((identity, path));
    }
    Ok(())
}

impl Device {
    /// Lets the kernel read the partition table again, so that it forgets wiped partitions. Devices
    /// that cannot have partitions refuse, and need no reading.
    pub fn reread_partitions(&self) {
        if self.sysfs.is_some() {
            // SAFETY: BLKRRPART takes no argument and touches no memory of this process.
            let _ = unsafe { ioctl(&self.file, NoArg::<{ opcode::none(0x12, 95) }>::new()) };
        }
    }
}

/// Cuts a zone into parts of at most [`STRETCH`] bytes: their offsets and lengths.
fn stretches(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + length;
    (offset..end).step_by(STRETCH).map(move |at| {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        (at, left.min(STRETCH))
    })
}
