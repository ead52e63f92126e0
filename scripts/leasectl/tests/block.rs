// SPDX-License-Identifier: GPL-2.0
//! The tool on block devices: loop devices over image files.
//!
//! They need root and the loop driver, which `scripts/enter` provides.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

const FORMAT: &str =
    "format --name vault --controllers 1,2 --redundancy mirror:3 --device-delay-ms 10 \
     --force=redundancy";

/// A loop device on a file of its own; both are removed at the end.
struct Loop {
    image: PathBuf,
    device: String,
}

impl Loop {
    fn new(name: &str, options: &[&str]) -> Loop {
        Loop::over(Loop::image(name), options)
    }

    fn image(name: &str) -> PathBuf {
        let name = format!("leasectl-{}-{name}", std::process::id());
        let image = std::env::temp_dir().join(name);
        File::create(&image).unwrap().set_len(64 * MIB).unwrap();
        image
    }

    fn over(image: PathBuf, options: &[&str]) -> Loop {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&image)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Loop { image, device }
    }

    /// Runs the tool on the device.
    fn tool(&self, line: &str) -> Output {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
        tool.args(line.split_ascii_whitespace())
            .arg(&self.device)
            .output()
            .unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let output = self.tool(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, line: &str) -> String {
        let output = self.tool(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.device])
            .status();
        let _ = fs::remove_file(&self.image);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn r39_a_block_device_is_formatted_checked_and_left_without_signatures() {
    let lab = Loop::new("plain", &[]);
    run("mkfs.ext4", &["-q", &lab.device]);
    assert!(lab.refused(FORMAT).contains("holds the signature of ext4"));
    assert!(lab
        .ok(&format!("{FORMAT} --force=member,signature"))
        .contains("formatted and verified"));
    assert!(lab.ok("check").contains("0 errors, 0 warnings"));
    assert!(lab
        .ok("table --controller 2")
        .starts_with("0 98296 lease /dev/loop"));
    let wipefs = Command::new("wipefs").arg(&lab.device).output().unwrap();
    assert!(
        wipefs.status.success() && wipefs.stdout.is_empty(),
        "{wipefs:?}"
    );
}

#[test]
fn r39_blocks_of_4096_bytes_are_as_good() {
    let lab = Loop::new("4kn", &["--sector-size", "4096"]);
    lab.ok(FORMAT);
    assert!(lab.ok("check").contains("0 errors, 0 warnings"));
}

#[test]
fn r39_a_device_in_use_is_refused() {
    let lab = Loop::new("busy", &[]);
    run("mkfs.ext4", &["-q", &lab.device]);
    let mount = lab.image.with_extension("mount");
    fs::create_dir(&mount).unwrap();
    run("mount", &[&lab.device, mount.to_str().unwrap()]);
    let refused = lab.tool(&format!("{FORMAT} --force=member,signature"));
    run("umount", &[mount.to_str().unwrap()]);
    fs::remove_dir(&mount).unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(
        text.contains("is in use: something on this host holds it"),
        "{text}"
    );
}

#[test]
fn r39_a_partitioned_device_is_refused_even_by_force() {
    let lab = Loop::new("parts", &["--partscan"]);
    // One Linux partition of 16 MiB at 1 MiB, and the signature of a partition table. A tool tells
    // the kernel of it, which may be built without knowing such tables.
    let mut entry = [0; 16];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entry[12..].copy_from_slice(&32_768_u32.to_le_bytes());
    let device = File::options().write(true).open(&lab.device).unwrap();
    device.write_all_at(&entry, 446).unwrap();
    device.write_all_at(&[0x55, 0xaa], 510).unwrap();
    drop(device);
    run("partx", &["--update", &lab.device]);
    let name = Path::new(&lab.device)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let refused = lab.refused(&format!("{FORMAT} --force=member,signature"));
    assert!(
        refused.contains(&format!("is partitioned ({name}p1)")),
        "{refused}"
    );
}

#[test]
fn r39_a_read_only_device_and_the_file_of_a_loop_device_are_refused() {
    let lab = Loop::new("read-only", &["--read-only"]);
    let refused = lab.refused(FORMAT);
    assert!(refused.contains("is read-only"), "{refused}");
    let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
    let tool = tool
        .args(FORMAT.split_ascii_whitespace())
        .arg(&lab.image)
        .output()
        .unwrap();
    let text = String::from_utf8(tool.stderr).unwrap();
    assert!(
        text.contains(&format!("{} is a loop device over it", lab.device)),
        "{text}"
    );
}

#[test]
fn r44_check_warns_of_a_scheduler_that_keeps_data_behind_mailboxes() {
    let member = Loop::new("scheduler", &[]);
    member.ok(FORMAT);
    let name = Path::new(&member.device).file_name().unwrap();
    let scheduler = Path::new("/sys/block").join(name).join("queue/scheduler");
    for (scheduler_name, warns) in [("mq-deadline", true), ("none", false)] {
        fs::write(&scheduler, scheduler_name).unwrap();
        let said = String::from_utf8(member.tool("check").stdout).unwrap();
        let warned = said.contains("its scheduler is mq-deadline");
        assert_eq!(warned, warns, "{scheduler_name}: {said}");
    }
}

#[test]
fn r10_advise_measures_and_leaves_everything_as_it_was() {
    let device = Loop::new("advise", &[]);
    let image = File::options().read(true).write(true).open(&device.image);
    image.unwrap().write_all_at(&[7; 4096], 4096 * 3).unwrap();
    let before = fs::read(&device.image).unwrap();
    let read_only = device.ok("advise --count 10 --device");
    assert!(
        read_only.contains("writes were not measured"),
        "{read_only}"
    );
    let refused = device.refused("advise --count 10 --write --device");
    assert!(refused.contains("is not formatted"), "{refused}");
    let wrong = device.tool("advise --write --scratch 12288 --device");
    assert_eq!(wrong.status.code(), Some(2), "needs --force");
    let refused = device.refused("advise --write --scratch 100 --force --device");
    assert!(refused.contains("multiple of 4096"), "{refused}");
    let said = device.ok("advise --count 10 --write --scratch 12288 --force --device");
    assert!(said.contains("writes of 4 KiB: median"), "{said}");
    assert!(fs::read(&device.image).unwrap() == before);

    device.ok(FORMAT);
    let before = fs::read(&device.image).unwrap();
    let said = device.ok("advise --count 10 --write --stall-ms 3000 --device");
    assert!(fs::read(&device.image).unwrap() == before);
    // `format` accepts the proposals, and they survive the requested stall.
    let proposed: Vec<&str> = said
        .lines()
        .filter(|line| line.trim_start().starts_with("--heartbeat-ms"))
        .collect();
    assert_eq!(proposed.len(), 3, "{said}");
    for options in proposed {
        let line = format!("{FORMAT} --force=member,signature --dry-run {options}");
        let line = line.replacen(" --device-delay-ms 10", "", 1);
        device.ok(&line);
    }
}
