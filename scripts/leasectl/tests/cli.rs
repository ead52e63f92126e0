// SPDX-License-Identifier: GPL-2.0
//! The tool as users run it, on image files: its output, its writes and its refusals.

mod scratch;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{seal, Block, BLOCK_SIZE, ZERO_BLOCK};
use dm_lease_proto::proto::codec::charge_list::Charges;
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{
    Ballot, Decided, Incarnation, Register, Side, Slot, Value,
};
use dm_lease_proto::proto::codec::layout::{
    copy_offset, register_offset, MAILBOX_OFFSET, SPARE_OFFSET, SUPERBLOCK_OFFSET,
};
use dm_lease_proto::proto::codec::record::{decode, encode, BlockId, Record};
use dm_lease_proto::proto::codec::superblock::{self, Superblock};
use scratch::Scratch;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{symlink, FileExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const MIB: u64 = 1 << 20;

/// A directory with image files, removed at the end.
struct Lab(Scratch);

impl Lab {
    fn new() -> Lab {
        Lab(Scratch::new())
    }

    /// A lab with `count` images of 24 MiB: `m0`, `m1` ...
    fn with(count: usize) -> Lab {
        let lab = Lab::new();
        for index in 0..count {
            lab.image(&format!("m{index}"), 24 * MIB);
        }
        lab
    }

    fn image(&self, name: &str, size: u64) -> File {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(name))
            .unwrap()
    }

    /// Runs the tool in the directory, with a command line.
    fn run(&self, line: &str) -> Output {
        let words = line.split_ascii_whitespace();
        let tool = Command::new(env!("CARGO_BIN_EXE_leasectl"))
            .current_dir(&*self.0)
            .args(words)
            .output();
        tool.unwrap()
    }

    /// The output of the tool when it succeeds.
    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The error of the tool when it refuses, with exit status 1.
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The output of `check` when it finds errors.
    fn faults(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(line)).unwrap()
    }

    fn superblock(&self, name: &str) -> Superblock {
        superblock::decode(&read(&self.open(name), SUPERBLOCK_OFFSET)).unwrap()
    }

    /// Writes a record as its controller would, to one block.
    fn write<T: Record>(&self, name: &str, slot: Slot, side: Side, record: &T) {
        let Superblock {
            uuid,
            member,
            generation,
            ..
        } = self.superblock(name);
        let mut block = ZERO_BLOCK;
        let id = BlockId {
            uuid,
            member,
            generation,
            slot,
        };
        encode(record, &id, &mut block);
        let offset = register_offset(slot, T::REGISTER, side);
        self.open(name).write_all_at(&block, offset).unwrap();
    }
}

fn read(file: &File, offset: u64) -> Block {
    let mut block = ZERO_BLOCK;
    file.read_exact_at(&mut block, offset).unwrap();
    block
}

fn slot(controller: u8) -> Slot {
    Slot::from_controller(controller).unwrap()
}

fn ballot(seq: u64, epoch: u64, owner: u8) -> BallotRecord {
    let value = Value {
        slot: slot(owner),
        inc: Incarnation(u128::from(owner)),
    };
    BallotRecord {
        seq,
        inc: Incarnation(7),
        boot_id: [9; 16],
        dec: Decided {
            epoch,
            value: Some(value),
        },
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
        limit: 1,
        charges: Charges::NONE,
        failed: 0,
        mark: 0,
        generations: Generations::NONE,
    }
}

fn heartbeat(seq: u64) -> HeartbeatRecord {
    let value = Value {
        slot: slot(1),
        inc: Incarnation(1),
    };
    HeartbeatRecord {
        seq,
        inc: Incarnation(7),
        dec: Decided {
            epoch: 4,
            value: Some(value),
        },
        role: RecordRole::Owner,
        hb: seq,
        open: 0,
        period_ns: 100_000_000,
        reason: 0,
        may_claim: true,
        mark: 0,
        generations: Generations::NONE,
    }
}

const FORMAT: &str =
    "format --name vault --controllers 1-3 --redundancy parity:3 --detect yes --device-delay-ms 10 \
     --force=redundancy";

const THREE: &str = "m0 m1 m2";

#[test]
fn r25_format_writes_what_was_asked_for_and_explains_it() {
    let lab = Lab::with(3);
    let more = "--home 2 --heartbeat-ms 200 --lost-heartbeats 2 --drift-ppm 500 --write-ms 20 \
                --read-ms 30 --jitter-ms 5 --error-report-ms 300 --lease-ms 2000 --window-ms 5000 \
                --batch 2 --count stripe:64 --exhausted window --drain-ms 60000 \
                --uuid 01234567-89ab-cdef-0123-456789abcdef";
    let text = lab.ok(&format!("{FORMAT} {more} {THREE}"));
    for line in [
        "portion vault 01234567-89ab-cdef-0123-456789abcdef",
        "controllers: 1, 2 and 3; home: 2",
        // Two of 200 ms, two lost ones of 300 + 30 + 5 ms and 20 + 30 + 5 ms, exceeded by a
        // nanosecond.
        "lease: 2000 ms, at least 1125.000001 ms for heartbeats every 200 ms",
        // 2 s * 1.0005 / 0.9995 and 10 ms * 1.0005, each rounded up.
        "window: 5000 ms, at least 2012.006001",
        "redundancy: parity 3 survives 3 failures",
        "limit: 2 members with open operations in one stripe row of 64 KiB (M allows 3)",
        "throughput ceiling: 2 / latency in each stripe row: 20000 operations per second at 0.1 ms",
        "formatted and verified",
    ] {
        assert!(text.contains(line), "{line:?} is missing from\n{text}");
    }
    let shown = lab.json("show --json m1");
    let member = &shown[0];
    assert_eq!(member["portion"], "vault");
    assert_eq!(
        (&member["member"], &member["members"]),
        (&1.into(), &3.into())
    );
    assert_eq!(member["controllers"], serde_json::json!([1, 2, 3]));
    assert_eq!(
        (&member["home"], &member["generation"]),
        (&2.into(), &1.into())
    );
    assert_eq!(member["timing"]["lease_ms"], 2000.0);
    assert_eq!(member["timing"]["window_ms"], 5000.0);
    assert_eq!(member["timing"]["error_report_ms"], 300.0);
    assert_eq!(member["timing"]["lost_heartbeats"], 2);
    assert_eq!(member["redundancy"]["kind"], "parity");
    assert_eq!(member["redundancy"]["batch"], 2);
    assert_eq!(member["redundancy"]["chunk_sectors"], 128);
    assert_eq!(member["redundancy"]["exhausted"], "window");
    assert_eq!(member["redundancy"]["drain_ms"], 60000.0);
    assert_eq!(member["mailboxes"].as_array().unwrap().len(), 3);
    assert_eq!(member["mailboxes"][0]["ballot"]["state"], "blank");
    assert!(lab
        .ok("check m0 m1 m2")
        .contains("3 of 3 members checked, never owned\n0 errors"));
}

#[test]
fn r10_the_defaults_are_the_smallest_safe_timings() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} m0"));
    let timing = lab.superblock("m0").timing;
    assert_eq!(timing.lease_ns, 1_901_000_000);
    assert!(timing.window_ns - timing.needed_window_ns() < 1_000_000);
    assert_eq!(timing.validate(), Ok(()));
}

/// A portion that the first version formatted with its defaults is safe, but loses its lease too
/// easily.
#[test]
fn r10_a_lease_of_the_first_rule_is_warned_about_with_the_numbers() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} m0"));
    let mut portion = lab.superblock("m0");
    portion.timing.lease_ns = 1_751_000_000;
    let mut block = ZERO_BLOCK;
    superblock::encode(&portion, &mut block);
    let copy = portion.member_sectors * 512 / 4096 * 4096 - 8 * MIB - 4096;
    for offset in [SUPERBLOCK_OFFSET, copy] {
        lab.open("m0").write_all_at(&block, offset).unwrap();
    }
    let said = lab.ok("check m0");
    let text =
        "the lease time is too short for what the portion was formatted to survive: 1751 ms \
                instead of 1900.000001 ms for 1 lost heartbeats in a row; it is long enough for a \
                heartbeat period of 425 ms";
    assert!(said.contains(text), "{said}");
}

#[test]
fn r39_every_member_gets_its_index_and_the_data_area_is_whole_chunks() {
    let lab = Lab::with(2);
    lab.image("m2", 40 * MIB + 12_345);
    lab.ok(&format!("{FORMAT} --count stripe:512 {THREE}"));
    for (name, index) in [("m0", 0), ("m1", 1), ("m2", 2)] {
        let superblock = lab.superblock(name);
        assert_eq!(superblock.member, index);
        assert_eq!(superblock.data_length_sectors % 1024, 0);
        assert!(superblock.data_length_sectors > 0);
        // The copy at the end is the same block.
        let end = superblock.member_sectors * 512 / 4096 * 4096;
        let copy = read(&lab.open(name), end - 8 * MIB - 4096);
        assert_eq!(superblock::decode(&copy), Ok(superblock));
    }
    assert_eq!(lab.superblock("m2").data_length_sectors, 24 * MIB / 512);
}

#[test]
fn r10_unsafe_or_impossible_settings_are_refused_with_their_reason() {
    let lab = Lab::with(1);
    let base = "format --name vault --controllers 1,2 --device-delay-ms 10";
    for (options, text) in [
        (
            "--redundancy parity:1 --lease-ms 100",
            "the lease time is too short: it must be at least 1900.000001 ms",
        ),
        (
            "--redundancy parity:1 --lease-ms 2000 --window-ms 2000",
            "the takeover window is too short",
        ),
        (
            "--redundancy parity:1 --drift-ppm 200000",
            "the clock drift bound is above 100000 ppm",
        ),
        (
            "--redundancy parity:1 --lease-ms 90000000",
            "the lease time is longer than one day",
        ),
        (
            "--redundancy parity:1 --lost-heartbeats 2000",
            "more than 1000 lost heartbeats",
        ),
        (
            "--redundancy parity:1 --read-ms 18446744073709551615",
            "the mailbox read time is longer than one day",
        ),
        ("--redundancy parity:0", "parity must be at least 1"),
        ("--redundancy mirror:1", "a mirror has at least 2 copies"),
        (
            "--redundancy external --detect yes",
            "external redundancy cannot repair strays",
        ),
        (
            "--redundancy external --batch 1",
            "external redundancy has no batch limit",
        ),
        (
            "--redundancy external --count stripe:64",
            "counting by stripe needs parity or mirror",
        ),
        (
            "--redundancy parity:1 --batch 1",
            "repairs no undetected stray",
        ),
        (
            "--redundancy mirror:2 --force=redundancy",
            "the portion could never be written: say --detect yes",
        ),
        (
            "--redundancy parity:1 --force=redundancy",
            "or --exhausted window to rely on time alone",
        ),
        (
            "--redundancy parity:2",
            "--redundancy parity:2 needs at least 3 members, and this portion has 1",
        ),
        (
            "--redundancy mirror:3 --detect yes",
            "--redundancy mirror:3 needs at least 3 members, and this portion has 1",
        ),
        (
            "--redundancy parity:2 --batch 0",
            "the batch limit must be at least 1",
        ),
        (
            "--redundancy parity:2 --batch 2",
            "the batch limit is above 1",
        ),
        (
            "--redundancy parity:2 --count stripe:3",
            "not a multiple of 4 KiB",
        ),
        (
            "--redundancy parity:2 --count stripe:2097152",
            "larger than 1 GiB",
        ),
        (
            "--redundancy parity:2 --count stripe:4294967295",
            "larger than 1 GiB",
        ),
        (
            "--redundancy parity:2 --drain-ms 0",
            "the drain time is zero",
        ),
        (
            "--redundancy parity:2 --home 3 --force=redundancy",
            "the home controller 3 is not among the controllers",
        ),
    ] {
        let refused = lab.refused(&format!("{base} {options} m0"));
        assert!(refused.contains(text), "{options}: {refused}");
    }
    assert!(is_untouched(&lab, "m0"));
}

#[test]
fn r14_there_is_no_silent_default_for_redundancy_and_device_delay() {
    let lab = Lab::with(1);
    for (line, text) in [
        (
            "format --name v --controllers 1 --device-delay-ms 1 m0",
            "--redundancy",
        ),
        (
            "format --name v --controllers 1 --redundancy external m0",
            "--device-delay-ms",
        ),
        (
            "format --name v --redundancy external --device-delay-ms 1 m0",
            "--controllers",
        ),
        (
            "format --controllers 1 --redundancy external --device-delay-ms 1 m0",
            "--name",
        ),
        ("format --replace 0 --name v m0", "cannot be used with"),
        ("format --replace 0 --lease-ms 9 m0", "cannot be used with"),
        ("format --name .v --controllers 1 m0", "--name"),
        ("table m0", "--controller"),
        ("format", "DEVICES"),
    ] {
        let output = lab.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(text), "{line}: {errors}");
    }
    assert!(is_untouched(&lab, "m0"));
}

/// Whether an image is still as [`Lab::image`] made it: nothing was ever written to it.
fn is_untouched(lab: &Lab, name: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(lab.path(name)).unwrap().blocks() == 0
}

#[test]
fn r39_nothing_is_written_before_every_device_has_passed() {
    let lab = Lab::with(2);
    lab.image("small", 16 * MIB);
    let refused = lab.refused(&format!("{FORMAT} m0 m1 small"));
    assert!(
        refused.contains("small is too small: 16777216 bytes, at least 16785408"),
        "{refused}"
    );
    let refused = lab.refused(&format!("{FORMAT} m0 m1 nowhere"));
    assert!(refused.contains("cannot open nowhere"), "{refused}");
    let refused = lab.refused(&format!("{FORMAT} m0 m1 ."));
    assert!(
        refused.contains(". is neither a block device nor an image file"),
        "{refused}"
    );
    symlink(lab.path("m0"), lab.path("link")).unwrap();
    let refused = lab.refused(&format!("{FORMAT} m0 m1 link"));
    assert!(
        refused.contains("m0 and link are the same device"),
        "{refused}"
    );
    let many = "m0 ".repeat(17);
    assert!(lab
        .refused(&format!("{FORMAT} {many}"))
        .contains("are the same device"));
    let text = lab.ok(&format!("{FORMAT} --dry-run m0 m1"));
    assert!(text.contains("dry run: nothing was written"));
    assert!(is_untouched(&lab, "m0") && is_untouched(&lab, "m1"));
}

#[test]
fn r39_at_most_sixteen_members() {
    let lab = Lab::with(17);
    let names: Vec<String> = (0..17).map(|index| format!("m{index}")).collect();
    let refused = lab.refused(&format!("{FORMAT} {}", names.join(" ")));
    assert!(
        refused.contains("a portion has at most 16 members, not 17"),
        "{refused}"
    );
    assert!(is_untouched(&lab, "m0"));
    lab.ok(&format!("{FORMAT} {}", names[..16].join(" ")));
}

#[test]
fn r39_what_is_on_a_device_is_overwritten_only_by_force() {
    let lab = Lab::with(2);
    let refused = |text: &str| {
        let refused = lab.refused(&format!("{FORMAT} m0 m1"));
        assert!(refused.contains(text), "{refused}");
    };
    let mut made = Command::new("mke2fs");
    made.args(["-q", "-F"]).arg(lab.path("m1"));
    assert!(made.status().unwrap().success());
    refused("m1 holds the signature of ext2: --force=signature destroys it");
    // --force with another kind does not help.
    let other = lab.refused(&format!("{FORMAT} --force=member,promises m0 m1"));
    assert!(other.contains("--force=signature"), "{other}");
    assert!(is_untouched(&lab, "m0"));
    let said = lab.ok(&format!("{FORMAT} --force=signature m0 m1"));
    assert!(
        said.contains("destroys: on m1: the signature of ext2"),
        "{said}"
    );
    refused("m0 holds member 0 of portion vault already: --force=member destroys it");
    // The superblock at the start is damaged, then wiped: the copy still shows the member.
    lab.open("m0")
        .write_all_at(&[1], SUPERBLOCK_OFFSET + 100)
        .unwrap();
    refused("m0 holds a damaged portion (superblock checksum mismatch)");
    lab.open("m0")
        .write_all_at(&ZERO_BLOCK, SUPERBLOCK_OFFSET)
        .unwrap();
    refused("m0 holds member 0 of portion vault already");
    lab.ok(&format!("{FORMAT} --force=member m1 m0"));
    assert_eq!(lab.superblock("m0").member, 1);
}

#[test]
fn r39_old_signatures_at_both_ends_are_wiped_and_none_is_left() {
    let lab = Lab::with(1);
    let file = lab.open("m0");
    let md = [0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0];
    for (bytes, offset) in [
        (&[0x55, 0xaa][..], 510),
        (b"XFSB", 0),
        (b"LABELONE", 512),
        (&md, 4096),
        (b"_BHRfS_M", 65_600),
        (b"SWAPSPACE2", 4086),
        (&md, 24 * MIB - 8192),
        (b"EFI PART", 24 * MIB - 512),
    ] {
        file.write_all_at(bytes, offset).unwrap();
    }
    // The data area is not touched.
    file.write_all_at(b"keep me", 8 * MIB).unwrap();
    file.write_all_at(b"and me", 16 * MIB - 4096 - 6).unwrap();
    lab.ok(&format!("{FORMAT} --force=member,signature m0"));
    assert!(read(&file, 8 * MIB).starts_with(b"keep me"));
    assert!(read(&file, 16 * MIB - 8192).ends_with(b"and me"));
    assert!(lab.ok("check m0").contains("0 errors, 0 warnings"));
    // wipefs knows hundreds of formats.
    let wipefs = Command::new("wipefs")
        .arg(lab.path("m0"))
        .output()
        .expect("wipefs runs");
    assert!(wipefs.status.success());
    assert_eq!(String::from_utf8(wipefs.stdout).unwrap(), "");
}

#[test]
fn r39_force_does_not_overwrite_what_a_controller_heartbeats_on() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} --heartbeat-ms 100 m0"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 1.. {
                let side = if seq % 2 == 0 { Side::A } else { Side::B };
                lab.write("m0", slot(3), side, &heartbeat(seq));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                thread::yield_now();
            }
        });
        let output = lab.run(&format!("{FORMAT} --force=member,signature m0"));
        stop.store(true, Ordering::Relaxed);
        let errors = String::from_utf8(output.stderr).unwrap();
        let wanted = "m0 is in use: controller 3 heartbeating on it for portion vault";
        assert!(errors.contains(wanted), "{errors}");
    });
    lab.ok(&format!("{FORMAT} --force=member,signature m0"));
}

/// Turns a member into one that an earlier version formatted and wrote: its superblock has no
/// features, its records are of version 1.
fn downgrade(lab: &Lab, name: &str) {
    let file = lab.open(name);
    let put = |offset: u64, block: &mut Block| {
        seal(block, 16);
        file.write_all_at(block, offset).unwrap();
    };
    let copy = copy_offset(file.metadata().unwrap().len()).unwrap();
    for offset in [SUPERBLOCK_OFFSET, copy] {
        let mut block = read(&file, offset);
        block[24..28].fill(0);
        put(offset, &mut block);
    }
    for at in (MAILBOX_OFFSET..SPARE_OFFSET).step_by(BLOCK_SIZE) {
        let mut block = read(&file, at);
        if block != ZERO_BLOCK {
            block[8..10].copy_from_slice(&1_u16.to_le_bytes());
            block[20..24].fill(0);
            let fields = if &block[..8] == b"dmLsBALT" { 528 } else { 120 };
            block[fields..].fill(0);
            put(at, &mut block);
        }
    }
}

fn valid<T: Record>(lab: &Lab, name: &str, controller: u8, side: Side) -> T {
    let it = lab.superblock(name);
    let id = BlockId {
        uuid: it.uuid,
        member: it.member,
        generation: it.generation,
        slot: slot(controller),
    };
    let block = read(&lab.open(name), register_offset(id.slot, T::REGISTER, side));
    decode(&block, &id).valid().unwrap()
}

/// A portion of format 1, on which controller 1 has written both registers of each member.
fn of_format_1() -> Lab {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} --heartbeat-ms 50 {THREE}"));
    for name in THREE.split(' ') {
        for (seq, side) in [(8, Side::A), (9, Side::B)] {
            lab.write(name, slot(1), side, &ballot(seq, 4, 1));
            lab.write(name, slot(1), side, &heartbeat(seq));
        }
        downgrade(&lab, name);
    }
    lab
}

fn is_upgraded(lab: &Lab) {
    lab.ok(&format!("check {THREE}"));
    for name in THREE.split(' ') {
        for side in Side::BOTH {
            let record: BallotRecord = valid(lab, name, 1, side);
            assert!(record.seq > 9 && record.dec == ballot(9, 4, 1).dec);
            assert!((0..3).all(|member| record.generations.of(member) == 1));
            let record: HeartbeatRecord = valid(lab, name, 1, side);
            assert!(record.seq > 9 && record.hb == 9);
        }
    }
}

#[test]
fn r39_an_upgrade_keeps_what_was_decided_and_promised() {
    let lab = of_format_1();
    for command in ["show", "table --controller 1"] {
        let error = lab.refused(&format!("{command} m0"));
        assert!(error.contains("on-disk format 1: stop all"), "{error}");
    }
    let faults = lab.faults("check m0");
    assert!(faults.contains("on-disk format 1: stop all"), "{faults}");
    let error = lab.refused("upgrade m0 m1");
    assert!(error.contains("has 3 members, and 2 are named"), "{error}");
    lab.ok(&format!("upgrade {THREE}"));
    is_upgraded(&lab);
    let said = lab.ok(&format!("upgrade {THREE}"));
    assert!(said.contains("nothing was written"), "{said}");
}

#[test]
fn r39_an_upgrade_that_was_cut_short_is_refused_and_goes_on() {
    let lab = of_format_1();
    lab.ok(&format!("upgrade {THREE}"));
    // The first member is converted; the second one has an old superblock and a torn register.
    let begun = |name: &str| {
        downgrade(&lab, name);
        let file = lab.open(name);
        let mut block = read(&file, SUPERBLOCK_OFFSET);
        block[24] = 2;
        seal(&mut block, 16);
        file.write_all_at(&block, SUPERBLOCK_OFFSET).unwrap();
        file
    };
    let file = begun("m1");
    let at = register_offset(slot(1), Register::Ballot, Side::A);
    file.write_all_at(&[0xff; 100], at + 512).unwrap();
    begun("m2");
    let error = lab.refused("show m1");
    assert!(error.contains("an upgrade was cut short"), "{error}");
    lab.ok(&format!("upgrade {THREE}"));
    is_upgraded(&lab);
}

#[test]
fn r39_every_flipped_bit_of_a_superblock_is_found() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} m0"));
    let good = read(&lab.open("m0"), SUPERBLOCK_OFFSET);
    // The tests of the core try every bit; this test tries the output of the tool.
    for bit in [0, 1, 70, 400, 8 * 90, 8 * 231, 8 * 3000, 8 * BLOCK_SIZE - 1] {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        lab.open("m0")
            .write_all_at(&bad, SUPERBLOCK_OFFSET)
            .unwrap();
        let text = lab.faults("check m0");
        assert!(
            text.contains("error: m0: superblock: "),
            "bit {bit}: {text}"
        );
        assert!(lab.ok("show m0").contains("superblock damaged"));
        assert!(lab.refused("table --controller 1 m0").contains("m0: "));
    }
    lab.open("m0")
        .write_all_at(&good, SUPERBLOCK_OFFSET)
        .unwrap();
    lab.ok("check m0");
}

#[test]
fn r26_check_judges_mailboxes_block_by_block() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} {THREE}"));
    for name in ["m0", "m1", "m2"] {
        lab.write(name, slot(2), Side::A, &ballot(1, 4, 1));
        lab.write(name, slot(2), Side::B, &ballot(2, 4, 1));
        lab.write(name, slot(2), Side::A, &heartbeat(1));
    }
    let text = lab.ok(&format!("check {THREE}"));
    assert!(
        text.contains("epoch 4 of controller 1\n0 errors, 0 warnings"),
        "{text}"
    );
    let shown = lab.json("show --json m0");
    let mailbox = &shown[0]["mailboxes"][1];
    assert_eq!(mailbox["ballot"]["newest"], "B");
    assert_eq!(mailbox["ballot"]["record"]["decided"]["epoch"], 4);
    assert_eq!(mailbox["heartbeat"]["record"]["role"], "owner");
    assert!(lab
        .ok("show m0")
        .contains("controller 2: owner, epoch 4 of controller 1, heartbeat 1"));

    // One torn block: the other one counts. Both: no information.
    let newest = register_offset(slot(2), BallotRecord::REGISTER, Side::B);
    lab.open("m1").write_all_at(&[1], newest + 100).unwrap();
    let text = lab.ok(&format!("check {THREE}"));
    let warning = "ballot block B of controller 2: checksum mismatch; the other block counts";
    assert!(text.contains(warning), "{text}");
    let other = register_offset(slot(2), BallotRecord::REGISTER, Side::A);
    lab.open("m1").write_all_at(&[1], other + 100).unwrap();
    let text = lab.faults(&format!("check {THREE}"));
    assert!(
        text.contains("error: m1: ballot register of controller 2: checksum mismatch"),
        "{text}"
    );
}

#[test]
fn r28_check_finds_two_owners_of_one_epoch() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} {THREE}"));
    lab.write("m0", slot(2), Side::A, &ballot(1, 4, 1));
    lab.write("m2", slot(3), Side::A, &ballot(1, 4, 3));
    let text = lab.faults(&format!("check {THREE}"));
    assert!(
        text.contains("epoch 4 has 2 owners: controller 1 (000"),
        "{text}"
    );
    let json =
        serde_json::from_str::<serde_json::Value>(&lab.faults(&format!("check --json {THREE}")));
    assert_eq!(json.unwrap()["ok"], false);
    lab.write("m2", slot(3), Side::A, &ballot(1, 5, 60));
    let text = lab.faults(&format!("check {THREE}"));
    assert!(
        text.contains("controller 3 says that 60, which is not formatted, owns"),
        "{text}"
    );
}

#[test]
fn r39_check_finds_what_does_not_belong_together() {
    let lab = Lab::with(5);
    lab.ok(&format!("{FORMAT} {THREE}"));
    lab.ok(&format!("{FORMAT} m3"));
    fs::copy(lab.path("m1"), lab.path("m4")).unwrap();
    let text = lab.faults("check m0 m1 m4");
    assert!(
        text.contains("error: m1 and m4: two members with the same index"),
        "{text}"
    );
    let text = lab.ok("check m0 m3");
    assert!(
        text.contains("warning: portion vault: 1 of 3 members are no majority"),
        "{text}"
    );
    let text = lab.ok("check m0 m1");
    assert!(
        text.contains("warning: portion vault: 2 of 3 members were given"),
        "{text}"
    );
    let text = lab.faults("check m0 nowhere");
    assert!(
        text.contains("error: nowhere: cannot open nowhere"),
        "{text}"
    );
    lab.image("blank", 24 * MIB);
    let text = lab.faults("check blank");
    assert!(
        text.contains("error: blank: blank: no superblock: the block is blank"),
        "{text}"
    );

    lab.open("m0").write_all_at(b"stray", 3 * MIB).unwrap();
    lab.open("m0")
        .write_all_at(b"stray", 24 * MIB - 512)
        .unwrap();
    lab.open("m1").write_all_at(b"stray", 0).unwrap();
    lab.write("m2", slot(9), Side::A, &ballot(1, 1, 1));
    let text = lab.ok(&format!("check {THREE}"));
    for warning in [
        "warning: m0: something else wrote 2 reserved blocks, the first at byte 3145728",
        "warning: m1: the protective first block was overwritten",
        "warning: m2: the mailbox of controller 9, which is not formatted, is used",
    ] {
        assert!(
            text.contains(warning),
            "{warning:?} is missing from\n{text}"
        );
    }
    lab.open("m0").set_len(20 * MIB).unwrap();
    let text = lab.faults("check m0");
    assert!(
        text.contains("error: m0: it has shrunk from 49152 to 40960 sectors"),
        "{text}"
    );
}

#[test]
fn r39_a_replacement_says_so_and_there_is_only_a_minority_of_them() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} {THREE}"));
    lab.image("new", 24 * MIB);
    lab.image("newer", 24 * MIB);
    let refused = lab.refused("format --replace 1 new");
    assert!(
        refused.contains("name the members that are left"),
        "{refused}"
    );
    let refused = lab.refused("format --replace 1 new m0 m1");
    assert!(
        refused.contains("member 1 is not lost: it is m1"),
        "{refused}"
    );
    let refused = lab.refused("format --replace 3 new m0 m1");
    assert!(
        refused.contains("portion vault has no member 3, only 0 to 2"),
        "{refused}"
    );
    let refused = lab.refused("format --replace 1 new m0");
    assert!(
        refused.contains("the promises of controllers 1, 2 and 3 are not known"),
        "{refused}"
    );
    assert!(is_untouched(&lab, "new"));

    lab.ok("format --replace 1 new m0 m2");
    let (old, new) = (lab.superblock("m1"), lab.superblock("new"));
    assert!(new.replacement && new.member == 1 && new.generation == 2);
    assert_eq!(
        (new.uuid, new.timing, new.redundancy),
        (old.uuid, old.timing, old.redundancy)
    );
    assert!(lab.ok("check m0 new m2").contains("0 errors, 0 warnings"));

    // The blank mailboxes of the first replacement contain no promises, so a second replacement
    // would leave no majority with all promises. Once every controller has written, it is allowed.
    let refused = lab.refused("format --replace 2 newer m0 new");
    assert!(
        refused.contains("the promises of controllers 1, 2 and 3 are not known"),
        "{refused}"
    );
    for controller in 1..=3 {
        lab.write("new", slot(controller), Side::A, &ballot(1, 4, 1));
    }
    // One register of two is not enough: no controller completes a round with it.
    let refused = lab.refused("format --replace 2 newer m0 new");
    assert!(
        refused.contains("are not known from a majority"),
        "{refused}"
    );
    for controller in 1..=3 {
        lab.write("new", slot(controller), Side::A, &heartbeat(1));
    }
    // A replacement does not count before a controller has found it settled [R56].
    let refused = lab.refused("format --replace 2 newer m0 new");
    assert!(
        refused.contains("member 1 is a replacement that no controller counts yet"),
        "{refused}"
    );
    let mut settled = ballot(2, 4, 1);
    settled.generations.note(1, 2);
    settled.generations.settle(1);
    lab.write("m0", slot(2), Side::A, &settled);
    lab.ok("format --replace 2 newer m0 new");
    assert_eq!(lab.superblock("newer").generation, 3);
    let text = lab.ok("check m0 new newer");
    assert!(text.contains("0 errors"), "{text}");
}

#[test]
fn r56_a_disk_that_was_replaced_is_no_member_any_more() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} {THREE}"));
    lab.image("new", 24 * MIB);
    lab.ok("format --replace 1 new m0 m2");
    // The former member together with its replacement.
    let text = lab.faults("check m0 m1 m2 new");
    let former =
        "error: m1: a former member 1 of portion vault: it is of generation 1, and member \
                  1 was replaced by one of generation 2";
    assert!(
        text.contains(former) && text.contains("1 errors, 0 warnings"),
        "{text}"
    );
    // The former member without its replacement, after a controller wrote of the replacement.
    assert!(lab.ok("check m0 m1 m2").contains("0 errors"));
    let mut record = ballot(1, 4, 1);
    for (member, generation) in [(0, 1), (1, 2), (2, 1)] {
        record.generations.note(member, generation);
    }
    lab.write("m0", slot(1), Side::A, &record);
    assert!(lab.faults("check m0 m1 m2").contains(former));

    lab.declare(&["m1", "new", "m0", "m2"], "");
    let output = lab.run("activate --dry-run alpha.toml");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("m1 is left out: it was member 1"),
        "{said}"
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed.lines().count(), 3);
    assert!(
        printed.contains("/new 1'") && !printed.contains("/m1 1'"),
        "{printed}"
    );
    // No link can lead to either of them.
    let uuid = superblock::DisplayUuid(&lab.superblock("new").uuid).to_string();
    let link = |member: &str| {
        let told = lab.ok(&format!("udev member {member}"));
        let line = told.lines().find(|line| line.starts_with("DM_LEASE_LINK="));
        line.unwrap().to_owned()
    };
    assert_eq!(link("m1"), format!("DM_LEASE_LINK=dm-lease-{uuid}-1"));
    assert_eq!(link("new"), format!("DM_LEASE_LINK=dm-lease-{uuid}-1-2"));
    // A second replacement has a higher generation than the first one, which is lost.
    lab.image("newer", 24 * MIB);
    lab.ok("format --replace 1 newer m0 m2");
    assert_eq!(lab.superblock("newer").generation, 3);
}

#[test]
fn r39_a_damaged_superblock_is_judged_alike_by_every_command() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} m0"));
    lab.open("m0")
        .write_all_at(&[1], SUPERBLOCK_OFFSET + 100)
        .unwrap();
    let help = "leasectl repair restores the superblock from it";
    let refused = lab.refused("table --controller 1 m0");
    assert!(
        refused.contains("m0: superblock checksum mismatch; the copy at the end"),
        "{refused}"
    );
    assert!(refused.contains(help));
    let shown = lab.ok("show m0");
    assert!(shown.contains("superblock damaged: superblock checksum mismatch"));
    assert!(shown.contains(help));
    assert!(lab
        .ok("udev member m0")
        .contains("DM_LEASE_DAMAGED=superblock\n"));
    assert!(lab
        .faults("check m0")
        .contains("superblock checksum mismatch"));
}

/// Damages both blocks of a register.
fn damage<T: Record>(lab: &Lab, name: &str, controller: u8) {
    for side in Side::BOTH {
        let offset = register_offset(slot(controller), T::REGISTER, side);
        lab.open(name)
            .write_all_at(&[0xee; 64], offset + 100)
            .unwrap();
    }
}

#[test]
fn r39_repair_restores_either_superblock_from_the_other() {
    let lab = Lab::with(2);
    lab.ok(&format!("{FORMAT} m0 m1"));
    assert_eq!(lab.ok("repair m0 m1"), "there is nothing to repair\n");
    let good = lab.superblock("m0");
    let damaged = |offset: u64| {
        lab.open("m0").write_all_at(&[1], offset + 100).unwrap();
        lab.faults("check m0 m1");
        lab.ok("repair --dry-run m0 m1");
        lab.faults("check m0 m1");
        let said = lab.ok("repair m0 m1");
        assert!(said.ends_with("repaired and verified\n"), "{said}");
        assert_eq!(lab.superblock("m0"), good);
        assert!(lab.ok("check m0 m1").contains("0 errors, 0 warnings"));
        said
    };
    let said = damaged(SUPERBLOCK_OFFSET);
    assert!(said.contains("m0: the superblock of member 0 of portion vault is restored from its"));
    damaged(24 * MIB - 8 * MIB - 4096);
    // Two valid superblocks differ, and nothing shows which one is right.
    lab.ok("format --replace 0 --force=member,promises m0 m1");
    let mut block = ZERO_BLOCK;
    superblock::encode(&good, &mut block);
    lab.open("m0")
        .write_all_at(&block, SUPERBLOCK_OFFSET)
        .unwrap();
    let refused = lab.refused("repair m0");
    assert!(
        refused.contains("differ (generations 1 and 2)"),
        "{refused}"
    );
    for offset in [SUPERBLOCK_OFFSET, 24 * MIB - 8 * MIB - 4096] {
        lab.open("m0").write_all_at(&ZERO_BLOCK, offset).unwrap();
    }
    assert!(lab
        .refused("repair m0")
        .contains("neither superblock can be read"));
}

#[test]
fn r41_repair_restores_a_register_from_the_other_members() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} --heartbeat-ms 100 {THREE}"));
    let old = ballot(5, 3, 1);
    let promised = BallotRecord {
        seq: 8,
        mbal: Ballot {
            round: 7,
            slot: slot(2),
            inc: Incarnation(7),
        },
        ..ballot(8, 4, 1)
    };
    for side in Side::BOTH {
        lab.write("m0", slot(2), side, &old);
        lab.write("m1", slot(2), side, &promised);
        lab.write("m2", slot(2), side, &old);
    }
    damage::<BallotRecord>(&lab, "m2", 2);
    assert!(lab
        .faults("check m0 m1 m2")
        .contains("ballot register of controller 2"));
    assert_eq!(lab.ok("repair m0 m1 m2"), "there is nothing to repair\n");
    let refused = lab.refused("repair --controller 9 m0 m1 m2");
    assert!(refused.contains("portion vault is not formatted for controller 9"));
    // Without m1 the promises are not known from a majority.
    let refused = lab.refused("repair --controller 2 m0 m2");
    assert!(
        refused.contains("known from 1 of 3 members, which is no majority"),
        "{refused}"
    );
    let said = lab.ok("repair --controller 2 m0 m1 m2");
    assert!(
        said.contains("m2: the ballot register of controller 2 is restored from"),
        "{said}"
    );
    assert!(lab.ok("check m0 m1 m2").contains("0 errors"));
    let json = lab.json("show --json m2");
    let restored = &json[0]["mailboxes"][1]["ballot"]["record"];
    assert_eq!(restored["decided"]["epoch"], 4, "{json}");
    assert_eq!(restored["promised"]["round"], 7, "{json}");
}

#[test]
fn r21_repair_of_a_register_that_nobody_can_read_charges_its_owner() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} --heartbeat-ms 100 {THREE}"));
    for name in ["m0", "m1", "m2"] {
        for side in Side::BOTH {
            lab.write(name, slot(1), side, &ballot(5, 3, 2));
            lab.write(name, slot(2), side, &ballot(5, 3, 2));
        }
        damage::<BallotRecord>(&lab, name, 2);
    }
    let refused = lab.refused("repair --controller 2 m0 m1 m2");
    assert!(refused.contains("known from 0 of 3 members") && refused.contains("--promises-lost"));
    let said = lab.ok("repair --controller 2 --promises-lost m0 m1 m2");
    assert_eq!(
        said.matches("is written without any promise").count(),
        3,
        "{said}"
    );
    assert!(lab.ok("check m0 m1 m2").contains("0 errors"));
    let text = lab.ok("show m1");
    assert!(
        text.contains("unlimited"),
        "the term of controller 2 is charged: {text}"
    );
}

#[test]
fn r39_check_finds_a_majority_of_amnesic_members() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} {THREE}"));
    lab.image("new", 24 * MIB);
    lab.image("newer", 24 * MIB);
    lab.ok("format --replace 1 new m0 m2");
    let text = lab.ok("format --force=promises --replace 2 newer m0 new");
    assert!(
        text.contains("note: the promises of controllers 1, 2 and 3 are not known"),
        "{text}"
    );
    let text = lab.faults("check m0 new newer");
    let error = "the promises of controller 1 are known from 1 of 3 members: nobody can claim";
    assert!(text.contains(error), "{text}");
}

#[test]
fn r19_check_refuses_rows_that_are_not_static() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} --count stripe:64 {THREE}"));
    let text = lab.ok(&format!("check {THREE}"));
    assert!(
        text.contains("warning: m0: rows are counted, but there is no md array"),
        "{text}"
    );
    let md = |name: &str, level: u32, layout: u32, data_offset: u64| {
        let file = lab.open(name);
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, 8 * MIB + 4096 + at).unwrap();
        put(0, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        put(72, &level.to_le_bytes());
        put(76, &layout.to_le_bytes());
        put(88, &128_u32.to_le_bytes());
        put(128, &data_offset.to_le_bytes());
    };
    for name in ["m0", "m1", "m2"] {
        md(name, 6, 2, 2048);
    }
    assert!(lab
        .ok(&format!("check {THREE}"))
        .contains("0 errors, 0 warnings"));
    md("m1", 6, 2, 4096);
    let text = lab.faults(&format!("check {THREE}"));
    assert!(
        text.contains("rows cannot be counted: the md data offsets differ"),
        "{text}"
    );
    md("m1", 10, 0x201, 2048);
    let text = lab.faults(&format!("check {THREE}"));
    assert!(
        text.contains("error: m1: rows cannot be counted: md RAID-10 with a far"),
        "{text}"
    );
}

#[test]
fn r25_table_prints_the_line_of_a_controller() {
    let lab = Lab::with(1);
    lab.ok(&format!("{FORMAT} m0"));
    let length = lab.superblock("m0").data_length_sectors;
    let line = lab.ok("table --controller 3 m0");
    assert_eq!(line, format!("0 {length} lease m0 3\n"));
    let line = lab.ok(
        "table --controller 2 --heartbeat-ms 250 --claim-manual --batch 1 --on-full-fail \
         --fail-with medium --lapse-hold-ms 100 --stateless m0",
    );
    let features = "12 heartbeat_ms 250 claim manual batch 1 on_full fail fail_with medium \
                    lapse_hold_ms 100 stateless";
    let features = features.replacen("12", "13", 1);
    assert_eq!(line, format!("0 {length} lease m0 2 {features}\n"));
    for (options, text) in [
        ("--controller 4", "not formatted"),
        ("--controller 1 --batch 2", "batch"),
        (
            "--controller 1 --heartbeat-ms 501",
            "does not fit the portion's timings: at most 500 ms",
        ),
    ] {
        let refused = lab.refused(&format!("table {options} m0"));
        assert!(refused.contains(text), "{options}: {refused}");
    }
    fs::rename(lab.path("m0"), lab.path("with blank")).unwrap();
    let tool = Command::new(env!("CARGO_BIN_EXE_leasectl"))
        .args(["table", "--controller", "1"])
        .arg(lab.path("with blank"))
        .output()
        .unwrap();
    assert!(String::from_utf8(tool.stderr)
        .unwrap()
        .contains("a table line cannot hold this path"));
}

#[test]
fn r47_status_reads_what_dmsetup_prints() {
    let lab = Lab::new();
    let line = "vault-0: 0 81920 lease vault 0/3 owner 7 1 412 9 1/2 3 4 5 2 lapse 1 2 3\n";
    fs::write(lab.path("status"), line).unwrap();
    let text = lab.ok("status --input status");
    let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    let wanted = "vault-0 vault 0/3 (2 ok) owner 7 1 412 1/2 1 3 4 5 lapse";
    assert_eq!(words.join(" "), wanted);
    let json = lab.json("status --json --input status");
    assert_eq!(json[0]["role"], "owner");
    assert_eq!(json[0]["lease_ms_left"], 412);
    assert_eq!(
        (&json[0]["charged"], &json[0]["peak"]),
        (&"1".into(), &2.into())
    );
    assert_eq!(json[0]["degraded"], 3);
    assert_eq!(json[0]["reason_text"], "the lease ended");
    fs::write(
        lab.path("status"),
        "vault-0: 0 81920 lease vault 0/3 king\n",
    )
    .unwrap();
    let refused = lab.refused("status --input status");
    assert!(
        refused.contains("vault-0: field role cannot be read"),
        "{refused}"
    );
    for garbage in ["hello\n", "hello: world\n", "\u{0}\u{1}\n"] {
        fs::write(lab.path("status"), garbage).unwrap();
        let refused = lab.refused("status --input status");
        assert!(
            refused.contains("is no line of dmsetup status"),
            "{refused}"
        );
    }
    fs::write(lab.path("status"), "No devices found\n").unwrap();
    assert_eq!(
        lab.ok("status --input status"),
        "no device of the target lease\n"
    );
    assert!(lab
        .refused("status --input nowhere")
        .contains("cannot read nowhere"));
}

/// The exit status of the tool when `stdout` is its standard output.
fn code_with(lab: &Lab, line: &str, stdout: impl Into<Stdio>) -> Option<i32> {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
    tool.current_dir(&*lab.0)
        .args(line.split_ascii_whitespace());
    tool.stdout(stdout).status().unwrap().code()
}

/// The writing end of a pipe whose reader is closed.
fn closed_pipe() -> ChildStdin {
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let writing_end = reader.stdin.take().unwrap();
    assert!(reader.wait().unwrap().success());
    writing_end
}

#[test]
fn r39_nothing_depends_on_a_reader_of_the_output() {
    let lab = Lab::with(3);
    let format = format!("{FORMAT} {THREE}");
    assert_eq!(code_with(&lab, &format, closed_pipe()), Some(0));
    assert_eq!(lab.superblock("m2").member, 2);
    assert_eq!(code_with(&lab, "check m0 m1 m2", closed_pipe()), Some(0));
    lab.open("m1")
        .write_all_at(&ZERO_BLOCK, SUPERBLOCK_OFFSET)
        .unwrap();
    assert_eq!(code_with(&lab, "check m0 m1 m2", closed_pipe()), Some(1));
    // A full device is an error of its own, after the work is done.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let format = format!("{FORMAT} --force=member {THREE}");
    assert_eq!(code_with(&lab, &format, full), Some(1));
    assert_eq!(lab.superblock("m1").member, 1);
    lab.ok("check m0 m1 m2");
}

/// A `dmsetup` with the output of a host with one device, if it is called with the right arguments.
const DMSETUP: &str = r#"#!/bin/sh
[ "$*" = "status --target lease" ] || exit 9
[ -e broken ] && { echo "no such driver" >&2; exit 1; }
echo "vault-0: 0 81920 lease vault 0/3 owner 7 1 412 9 1/2 3 4 5 2 lapse"
"#;

#[test]
fn r47_status_and_watch_ask_dmsetup() {
    let lab = Lab::new();
    lab.0.put("dmsetup", DMSETUP, 0o755);
    let path = format!("{}:{}", lab.0.display(), std::env::var("PATH").unwrap());
    let run = |words: &[&str]| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
        tool.current_dir(&*lab.0).env("PATH", &path).args(words);
        tool.output().unwrap()
    };
    let text = String::from_utf8(run(&["status"]).stdout).unwrap();
    assert!(
        text.contains("vault-0  vault    0/3 (2 ok)  owner"),
        "{text}"
    );
    let watched = run(&["watch", "--count", "2", "--interval-ms", "20"]);
    let text = String::from_utf8(watched.stdout).unwrap();
    assert_eq!(
        text.matches("[####################]    412 ms").count(),
        2,
        "{text}"
    );
    assert_eq!(run(&["owns", "vault"]).status.code(), Some(0));
    assert_eq!(run(&["owns", "other"]).status.code(), Some(1));
    fs::write(lab.path("broken"), "").unwrap();
    let owns = run(&["owns", "vault"]);
    assert_eq!(owns.status.code(), Some(3), "it cannot tell");
    assert!(
        owns.stdout.is_empty()
            && String::from_utf8(owns.stderr)
                .unwrap()
                .contains("cannot tell")
    );
    let refused = String::from_utf8(run(&["watch"]).stderr).unwrap();
    assert!(
        refused.contains("dmsetup status --target lease failed: no such driver"),
        "{refused}"
    );
}

/// A `dmsetup` whose one device has the role in the file `role`. For each message it records the
/// state that clients see at that moment.
const DMSETUP_ROLE: &str = r#"#!/bin/sh
case $* in
"status --target lease")
    echo "vault-0: 0 81920 lease vault 0/1 $(cat role) 1 7 $(cat left) 9 0/2 0 0 0 1 -" ;;
"message vault-0 0 drop")
    [ -e deaf ] && { echo "no such device" >&2; exit 1; }
    cat nvmet/ports/*/ana_groups/5/ana_state | tr '\n' ' ' >>drops
    [ ! -e lapse ] || echo - >left ;;
*)
    exit 9 ;;
esac
"#;

#[test]
fn r17_an_export_is_switched_before_what_was_kept_fails() {
    let lab = Lab::new();
    lab.0.put("dmsetup", DMSETUP_ROLE, 0o755);
    let state = |port: u32, group: u32| lab.path(&format!("nvmet/ports/{port}/ana_groups/{group}"));
    for (port, group) in [(1, 5), (1, 6), (2, 5), (3, 6)] {
        fs::create_dir_all(state(port, group)).unwrap();
        fs::write(state(port, group).join("ana_state"), "optimized\n").unwrap();
    }
    let told = |port, group| fs::read_to_string(state(port, group).join("ana_state")).unwrap();
    let path = format!("{}:{}", lab.0.display(), std::env::var("PATH").unwrap());
    let run = |role: &str| {
        fs::write(lab.path("role"), role).unwrap();
        fs::write(lab.path("left"), if role == "owner" { "412" } else { "-" }).unwrap();
        let mut tool = Command::new(env!("CARGO_BIN_EXE_leasectl"));
        let words = ["ana", "--once", "--nvmet", "nvmet", "vault=5"];
        tool.current_dir(&*lab.0).env("PATH", &path).args(words);
        let output = tool.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    };
    let said = run("secondary");
    let wanted = "vault: group 5 inaccessible on port 1,2\n";
    assert_eq!(said, (String::from(wanted), String::new()));
    let drops = || fs::read_to_string(lab.path("drops")).unwrap();
    assert_eq!(drops(), "inaccessible inaccessible ");
    assert_eq!(run("owner").0, "vault: group 5 optimized on port 1,2\n");
    // Operations that were kept before the start of the service fail, too, while the group is
    // inaccessible.
    assert_eq!(drops(), "inaccessible ".repeat(4));
    assert_eq!(
        (told(1, 5), told(2, 5)),
        ("optimized\n".into(), "optimized\n".into())
    );
    assert_eq!(
        (told(1, 6), told(3, 6)),
        ("optimized\n".into(), "optimized\n".into())
    );
    // If the lease ends while the service acts, the group stays inaccessible.
    fs::write(lab.path("lapse"), "").unwrap();
    assert_eq!(run("owner").0, "vault: group 5 inaccessible on port 1,2\n");
    fs::remove_file(lab.path("lapse")).unwrap();
    assert_eq!(run("owner").0, "vault: group 5 optimized on port 1,2\n");
    // The group stays inaccessible until all kept operations have failed.
    fs::write(lab.path("deaf"), "").unwrap();
    let said = run("owner").1;
    assert!(said.contains("dmsetup message") && said.contains("failed: no such device"));
    assert_eq!(told(1, 5), "inaccessible\n");
    // A controller whose status cannot be read counts as no owner.
    fs::write(state(2, 5).join("ana_state"), "optimized\n").unwrap();
    assert!(run("king").1.contains("field role cannot be read"));
    assert_eq!(told(2, 5), "inaccessible\n");
}

#[test]
fn r39_image_files_under_a_lock_are_in_use() {
    let lab = Lab::with(1);
    let held = lab.open("m0");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let refused = lab.refused(&format!("{FORMAT} m0"));
    assert!(
        refused.contains("m0 is in use: another process locks it"),
        "{refused}"
    );
    assert!(is_untouched(&lab, "m0"));
}

#[test]
fn paths_are_shown_as_they_were_given() {
    let lab = Lab::with(1);
    let path = lab.path("m0");
    let shown = Path::new(&path).display().to_string();
    assert!(lab.ok(&format!("{FORMAT} {shown}")).contains(&shown));
}

impl Lab {
    /// Writes a declaration `alpha.toml` for controller 1 with these members, and more lines.
    fn declare(&self, members: &[&str], more: &str) {
        let paths: Vec<String> = members
            .iter()
            .map(|name| format!("{:?}", self.path(name)))
            .collect();
        let text = format!(
            "portion = \"vault\"\ncontroller = 1\nwait_s = 0\ndevices = [{}]\n{more}",
            paths.join(", ")
        );
        fs::write(self.path("alpha.toml"), text).unwrap();
    }
}

#[test]
fn r39_activation_prints_what_it_would_do() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} m0 m1 m2"));
    let Superblock {
        uuid,
        data_length_sectors: length,
        ..
    } = lab.superblock("m0");
    let uuid = superblock::DisplayUuid(&uuid);
    let line = |name: &str, member: usize, features: &str| {
        format!(
            "dmsetup create {name}-{member} --uuid LEASE-{uuid}-{member}-1 --table '0 {length} \
             lease {} 1{features}'\n",
            lab.path(&format!("m{member}")).display()
        )
    };
    // The order is that of the declaration; a majority is enough.
    lab.declare(&["m2", "m0"], "");
    let printed = lab.ok("activate --dry-run alpha.toml");
    let expected = [2, 0].map(|member| line("lease-vault", member, ""));
    assert_eq!(printed, expected.concat());
    lab.declare(
        &["m0", "m1"],
        "mapped = \"x\"\n[features]\nfail_with = \"medium\"\nstateless = true\n",
    );
    let features = " 3 fail_with medium stateless";
    let expected = [0, 1].map(|member| line("x", member, features));
    assert_eq!(lab.ok("activate --dry-run alpha.toml"), expected.concat());
}

#[test]
fn r39_activation_says_what_is_wrong_and_goes_on_with_the_next_file() {
    let lab = Lab::with(4);
    lab.ok(&format!("{FORMAT} m0 m1 m2"));
    let refused = |text: &str| {
        let said = lab.refused("activate --dry-run alpha.toml");
        assert!(said.contains(text), "{text}: {said}");
    };
    lab.declare(&["m0"], "");
    refused("alpha.toml is not activated: 1 of 3 members are here, which is no majority");
    lab.declare(&["m3", "m4"], "");
    refused("no member of portion vault is here");
    refused("m3: ");
    refused("m4: ");
    lab.declare(&["m0", "m1", "m1"], "");
    refused("m1: ");
    lab.declare(&["m0", "m1"], "[features]\nbatch = 9\n");
    refused("batch");
    lab.declare(&["m0", "m1"], "[features]\nheartbeat_ms = 501\n");
    refused("does not fit the portion's timings: at most 500 ms");
    lab.declare(&["m0", "m1"], "colour = 1\n");
    refused("alpha.toml: TOML parse error at line 5");
    lab.declare(
        &["m0", "m1"],
        "uuid = \"01234567-89ab-cdef-0123-456789abcdef\"\n",
    );
    refused("m0 is a member of portion vault ");
    fs::copy(lab.path("alpha.toml"), lab.path("bad.toml")).unwrap();
    lab.declare(&["m0", "m1"], "");
    let output = lab.run("activate --dry-run none.toml bad.toml alpha.toml");
    assert_eq!(output.status.code(), Some(1));
    let (out, said) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2, "{said}");
    assert!(said.contains("cannot read none.toml") && said.contains("bad.toml is not"));
}

#[test]
fn r39_udev_is_told_what_a_member_is() {
    let lab = Lab::with(3);
    lab.ok(&format!("{FORMAT} m0 m1"));
    let superblock = lab.superblock("m1");
    let told = lab.ok("udev member m1");
    let uuid = superblock::DisplayUuid(&superblock.uuid);
    for line in [
        "ID_FS_TYPE=dm_lease_member",
        "ID_FS_USAGE=other",
        "ID_FS_LABEL=vault",
        &format!("ID_FS_UUID={uuid}"),
        "DM_LEASE_PORTION=vault",
        "DM_LEASE_MEMBER=1",
        "DM_LEASE_GENERATION=1",
        &format!("DM_LEASE_LINK=dm-lease-{uuid}-1"),
    ] {
        assert!(told.lines().any(|other| other == line), "{line}: {told}");
    }
    // A damaged member still counts as a member.
    lab.open("m1")
        .write_all_at(&ZERO_BLOCK, SUPERBLOCK_OFFSET)
        .unwrap();
    let damaged = format!("{told}DM_LEASE_DAMAGED=superblock\n");
    assert_eq!(lab.ok("udev member m1"), damaged);
    assert_eq!(lab.refused("udev member m2"), "");
}

/// A `dmsetup` that knows two mapped devices of one portion, each with a number of openers, and
/// records its calls in `told`.
fn fake_dmsetup(lab: &Lab, open: [u32; 2]) {
    let [first, second] = open;
    let text = format!(
        "#!/bin/sh\n\
         case $1 in\n\
         status) i=0; for name in lease-v-0 lease-v-1; do\n\
         echo \"$name: 0 8 lease v $i/2 owner 7 1 400 9 0/1 0 0 0 2 -\"; i=1; done;;\n\
         info) printf '900000\\t{first}\\tLEASE-x-0-1\\tlease-v-0\\n'\n\
         printf '900001\\t{second}\\t\\tlease-v-1\\n'\n\
         printf '900002\\t5\\t\\tanother\\n';;\n\
         *) echo \"$*\" >>{};;\n\
         esac\n",
        lab.path("told").display()
    );
    lab.0.put("dmsetup", &text, 0o755);
    // Here udev has no work to wait for.
    let _ = symlink("/bin/true", lab.path("udevadm"));
}

fn deactivate(lab: &Lab, words: &[&str]) -> (Output, String) {
    let path = format!("{}:/usr/bin:/bin", lab.0.display());
    let tool = Command::new(env!("CARGO_BIN_EXE_leasectl"))
        .arg("deactivate")
        .args(words)
        .env("PATH", path)
        .output();
    let told = fs::read_to_string(lab.path("told")).unwrap_or_default();
    (tool.unwrap(), told)
}

#[test]
fn r34_the_lease_is_given_up_before_devices_are_removed() {
    let lab = Lab::new();
    fake_dmsetup(&lab, [0, 0]);
    let (output, told) = deactivate(&lab, &["other"]);
    assert!(
        output.status.code() == Some(1) && told.is_empty(),
        "{output:?}"
    );
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("portion other is neither mapped nor declared"),
        "{said}"
    );
    let (output, told) = deactivate(&lab, &["v"]);
    assert!(output.status.success(), "{output:?}");
    let expected = "message lease-v-0 0 release\n\
                    remove --retry lease-v-0\n\
                    remove --retry lease-v-1\n";
    assert_eq!(told, expected);
}

#[test]
fn r34_nothing_is_removed_while_a_device_is_open() {
    let lab = Lab::new();
    fake_dmsetup(&lab, [0, 1]);
    let (output, told) = deactivate(&lab, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = "leasectl: portion v is left mapped: lease-v-1 is open 1 times\n";
    assert!(said == expected && told.is_empty(), "{said}{told}");
}
