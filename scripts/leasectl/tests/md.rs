// SPDX-License-Identifier: GPL-2.0
//! `suspects` and `rows` as users run them, on images of md members that are made here, byte by
//! byte: rows that may carry strays, rows that do, and their right content.

mod scratch;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::ZERO_BLOCK;
use dm_lease_proto::proto::codec::charge_list::{Charge, Charges};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Incarnation, Side, Slot, Value};
use dm_lease_proto::proto::codec::layout::{register_offset, SUPERBLOCK_OFFSET};
use dm_lease_proto::proto::codec::record::{encode, BlockId, Record};
use dm_lease_proto::proto::codec::superblock;
use scratch::Scratch;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The start of md's data on its device, and the size of a chunk.
const DATA: u64 = MIB;
const CHUNK: u64 = 16 * KIB;
const BLOCK: u64 = 4 * KIB;
const ROWS: u64 = 20;

/// An md array in image files `m0`, `m1`, ... of a directory that is removed at the end.
struct Array {
    directory: Scratch,
    level: u32,
    members: u64,
    /// The place of md in the images: 0, or the start of a portion's data area.
    start: u64,
}

impl Array {
    /// Images with a superblock and no content but zeros, which are consistent.
    fn new(level: u32, members: u64) -> Array {
        let array = Array::empty(level, members);
        array.create_md();
        array
    }

    /// The same inside the members of a portion.
    fn in_portion(level: u32, members: u64) -> Array {
        let mut array = Array::empty(level, members);
        let names = array.names();
        array.ok(&format!(
            "format --name vault --controllers 1,2 --redundancy parity:2 --detect no \
             --device-delay-ms 10 {names}"
        ));
        array.start = 8 * MIB;
        array.create_md();
        array
    }

    fn empty(level: u32, members: u64) -> Array {
        let directory = Scratch::new();
        for member in 0..members {
            let path = directory.join(format!("m{member}"));
            fs::File::create(path).unwrap().set_len(24 * MIB).unwrap();
        }
        Array {
            directory,
            level,
            members,
            start: 0,
        }
    }

    fn create_md(&self) {
        for member in 0..self.members {
            self.write(member, 4096, &self.superblock(member));
            self.bitmap(member, 7, &[]);
        }
    }

    fn superblock(&self, member: u64) -> Vec<u8> {
        let mut block = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0xa92b_4efc_u32.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(8, &1_u32.to_le_bytes());
        put(16, &[7; 16]);
        put(72, &self.level.to_le_bytes());
        put(76, &u32::from(self.level > 1).wrapping_mul(2).to_le_bytes());
        put(80, &(ROWS * CHUNK / 512).to_le_bytes());
        put(88, &((CHUNK / 512) as u32).to_le_bytes());
        put(92, &(self.members as u32).to_le_bytes());
        put(96, &8_u32.to_le_bytes());
        put(128, &(DATA / 512).to_le_bytes());
        put(160, &(member as u32).to_le_bytes());
        put(200, &7_u64.to_le_bytes());
        for role in 0..self.members {
            put(256 + 2 * role as usize, &(role as u16).to_le_bytes());
        }
        block
    }

    /// Writes a bitmap of parts of 16 KiB, in which some are marked.
    fn bitmap(&self, member: u64, events: u64, marked: &[u64]) {
        let mut block = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0x6d74_6962_u32.to_le_bytes());
        put(4, &4_u32.to_le_bytes());
        put(8, &[7; 16]);
        put(24, &events.to_le_bytes());
        put(40, &(ROWS * CHUNK / 512).to_le_bytes());
        put(52, &(CHUNK as u32).to_le_bytes());
        for part in marked {
            block[256 + (part / 8) as usize] |= 1 << (part % 8);
        }
        self.write(member, 8192, &block);
    }

    fn write(&self, member: u64, at: u64, bytes: &[u8]) {
        let path = self.directory.join(format!("m{member}"));
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(bytes, self.start + at).unwrap();
    }

    fn read(&self, member: u64, row: u64, block: u64) -> Vec<u8> {
        let path = self.directory.join(format!("m{member}"));
        let file = OpenOptions::new().read(true).open(path).unwrap();
        let mut bytes = vec![0; BLOCK as usize];
        let at = self.start + DATA + row * CHUNK + block * BLOCK;
        file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn put(&self, member: u64, row: u64, block: u64, bytes: &[u8]) {
        self.write(member, DATA + row * CHUNK + block * BLOCK, bytes);
    }

    /// The members that have the data of a row, in order, and those with its parity.
    fn roles(&self, row: u64) -> (Vec<u64>, Vec<u64>) {
        let all = self.members;
        let p = all - 1 - row % all;
        match self.level {
            1 => ((0..all).collect(), vec![]),
            5 => ((1..all).map(|z| (p + z) % all).collect(), vec![p]),
            _ => {
                let data = (2..all).map(|z| (p + z) % all).collect();
                (data, vec![p, (p + 1) % all])
            }
        }
    }

    /// Fills a block of every member of a row consistently; what each member has.
    fn fill(&self, row: u64, block: u64, seed: u8) -> Vec<Vec<u8>> {
        let (data, parity) = self.roles(row);
        let byte = |z: usize, at: u64| ((z as u64 * 97 + at * at) as u8).wrapping_mul(seed | 1);
        let mut content = vec![vec![0; BLOCK as usize]; self.members as usize];
        for at in 0..BLOCK as usize {
            let (mut p, mut q) = (0, 0);
            for (z, &member) in data.iter().enumerate() {
                let z = if self.level == 1 { 0 } else { z };
                let byte = byte(z, at as u64 + u64::from(seed));
                content[member as usize][at] = byte;
                p ^= byte;
                q ^= (0..z).fold(byte, |byte, _| twice(byte));
            }
            for (&member, byte) in parity.iter().zip([p, q]) {
                content[member as usize][at] = byte;
            }
        }
        for (member, bytes) in (0..).zip(&content) {
            self.put(member, row, block, bytes);
        }
        content
    }

    fn names(&self) -> String {
        let names: Vec<String> = (0..self.members)
            .map(|member| format!("m{member}"))
            .collect();
        names.join(" ")
    }

    fn run(&self, line: &str) -> Output {
        let tool = Command::new(env!("CARGO_BIN_EXE_leasectl"))
            .current_dir(&*self.directory)
            .args(line.split_ascii_whitespace())
            .output();
        tool.unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The output of the tool with exit status 1: its findings, or its refusal.
    fn not_ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }

    fn rows(&self, options: &str) -> String {
        format!("rows {options} {}", self.names())
    }
}

fn twice(byte: u8) -> u8 {
    let carry = if byte & 0x80 != 0 { 0x1d } else { 0 };
    (byte << 1) ^ carry
}

#[test]
fn r20_the_stray_of_a_raid6_row_is_found_and_repaired_whichever_it_is() {
    let array = Array::new(6, 5);
    for row in 0..ROWS {
        array.fill(row, 1, row as u8 * 8);
    }
    assert!(array
        .ok(&array.rows(""))
        .contains("20 rows checked: 20 consistent"));
    // Each member is stale in four rows: as data, as P and as Q.
    let mut right = Vec::new();
    for row in 0..ROWS {
        let stray = array.read(row % 5, row, 1);
        right.push(array.fill(row, 1, row as u8 * 8 + 2));
        array.put(row % 5, row, 1, &stray);
    }
    let text = array.not_ok(&array.rows(""));
    assert!(
        text.contains("0 consistent, 20 stale, 0 repaired, 0 undecided"),
        "{text}"
    );
    for found in ["data 0", "data 1", "data 2", "parity P", "parity Q"] {
        assert!(text.contains(found), "{found}: {text}");
    }
    let text = array.ok(&array.rows("--repair"));
    assert!(text.contains("20 repaired, 0 undecided"), "{text}");
    for (row, right) in (0..).zip(right) {
        for (member, right) in (0..).zip(right) {
            assert!(
                array.read(member, row, 1) == right,
                "row {row}, member {member}"
            );
        }
    }
    assert!(array.ok(&array.rows("")).contains("20 consistent"));
}

#[test]
fn r20_more_than_the_bound_is_left_alone() {
    let array = Array::new(6, 5);
    array.fill(3, 0, 1);
    let strays = [array.read(0, 3, 0), array.read(2, 3, 0)];
    array.fill(3, 0, 9);
    array.put(0, 3, 0, &strays[0]);
    array.put(2, 3, 0, &strays[1]);
    // Strays in two blocks of one row: each alone could be located, together they are two members.
    array.fill(4, 0, 1);
    array.fill(4, 1, 1);
    array.put(0, 4, 0, &[0; 4096]);
    array.put(1, 4, 1, &[0; 4096]);
    let text = array.not_ok(&array.rows("--repair"));
    assert!(
        text.contains("18 consistent, 0 stale, 0 repaired, 2 undecided"),
        "{text}"
    );
    assert!(array.read(0, 3, 0) == strays[0], "nothing is written");
    assert!(array.read(0, 4, 0) == [0; 4096], "nothing is written");
}

#[test]
fn r20_a_mirror_is_outvoted_by_more_than_half() {
    let array = Array::new(1, 3);
    array.fill(5, 2, 1);
    let stray = array.read(1, 5, 2);
    let right = array.fill(5, 2, 7);
    array.put(1, 5, 2, &stray);
    let text = array.ok(&array.rows("--repair"));
    assert!(
        text.contains("copy 1 on m1: 1 block of 4 KiB repaired"),
        "{text}"
    );
    assert!(array.read(1, 5, 2) == right[1]);
    // Three different copies have no majority, and two different copies have none.
    array.put(0, 5, 2, &[1; 4096]);
    array.put(1, 5, 2, &[2; 4096]);
    assert!(array.not_ok(&array.rows("")).contains("1 undecided"));
    let array = Array::new(1, 2);
    array.put(0, 5, 2, &[1; 4096]);
    assert!(array.not_ok(&array.rows("")).contains("1 undecided"));
    assert!(array
        .not_ok(&array.rows("--old 8"))
        .contains("which copy is old"));
}

#[test]
fn r20_blocks_that_a_layer_above_names_are_rebuilt() {
    for (level, members) in [(5, 4), (6, 5)] {
        let array = Array::new(level, members);
        let (data, parity) = array.roles(2);
        let sector = |z: u64| ((2 * data.len() as u64 + z) * CHUNK + 3 * BLOCK) / 512;
        let check = |right: &[Vec<u8>]| {
            for (member, right) in (0..).zip(right) {
                assert!(
                    array.read(member, 2, 3) == *right,
                    "level {level}, member {member}"
                );
            }
        };
        // A data block.
        array.fill(2, 3, 1);
        let strays: Vec<_> = (0..members)
            .map(|member| array.read(member, 2, 3))
            .collect();
        let right = array.fill(2, 3, 5);
        let put = |member: u64| array.put(member, 2, 3, &strays[member as usize]);
        put(data[1]);
        array.ok(&array.rows(&format!("--repair --old {}", sector(1))));
        check(&right);
        // A parity block: no data is old.
        put(parity[0]);
        array.ok(&array.rows("--repair --old none"));
        check(&right);
        // Two data blocks: RAID-5 cannot, RAID-6 can.
        put(data[0]);
        put(data[2]);
        let line = array.rows(&format!("--repair --old {},{}", sector(0), sector(2)));
        if level == 5 {
            assert!(array.not_ok(&line).contains("1 undecided"));
        } else {
            array.ok(&line);
            check(&right);
            // One data block is named and a parity is stale: the caller must choose a parity.
            put(data[0]);
            put(parity[0]);
            let line = array.rows(&format!("--repair --old {}", sector(0)));
            assert!(array.not_ok(&line).contains("1 undecided"));
            // The first parity gives a wrong block, the second one the right block. Then no block
            // is old any more.
            array.ok(&format!("{line} --by p"));
            assert!(array.read(data[0], 2, 3) != right[data[0] as usize]);
            array.ok(&format!("{line} --by q"));
            array.ok(&array.rows("--repair --old none"));
            check(&right);
        }
    }
}

#[test]
fn r20_one_parity_says_nothing_by_itself() {
    let array = Array::new(5, 4);
    array.fill(1, 0, 3);
    array.put(2, 1, 0, &[9; 4096]);
    assert!(array
        .not_ok(&array.rows("--repair"))
        .contains("0 repaired, 1 undecided"));
    assert!(array
        .not_ok(&array.rows("--old 999999"))
        .contains("behind the end"));
}

#[test]
fn r20_nothing_is_judged_without_every_member() {
    let array = Array::new(6, 5);
    assert!(array
        .not_ok("rows m0 m1 m2 m3")
        .contains("4 of 5 members were given"));
    assert!(array
        .not_ok("rows m0 m1 m2 m4 m3 m3")
        .contains("the same device"));
    // The order of the devices does not matter.
    array.ok("rows m4 m2 m0 m1 m3");
    let other = |at: usize, byte: u8| {
        let mut block = array.superblock(2);
        block[at] = byte;
        array.write(2, 4096, &block);
        array.not_ok(&array.rows(""))
    };
    assert!(other(16, 8).contains("m2 is a member of another array"));
    assert!(other(8, 3).contains("m2 is being rebuilt"));
    assert!(other(8, 5).contains("reshape"));
    assert!(other(76, 0).contains("left-symmetric"));
    assert!(other(160, 3).contains("no role of its own"));
}

#[test]
fn r12_raw_members_are_not_repaired_beside_the_gate() {
    let array = Array::in_portion(6, 5);
    array.fill(0, 0, 1);
    array.put(0, 0, 0, &[1; 4096]);
    assert!(array.not_ok(&array.rows("")).contains("1 stale"));
    let text = array.not_ok(&array.rows("--repair"));
    assert!(text.contains("through the mapped devices"), "{text}");
}

#[test]
fn r21_suspects_are_the_rows_that_any_member_marks() {
    let array = Array::in_portion(6, 5);
    let line = format!("suspects {}", array.names());
    assert!(array.ok(&line).contains("\n0 of 20 rows are suspect"));
    array.bitmap(0, 7, &[3, 4]);
    array.bitmap(4, 7, &[4, 11]);
    let text = array.ok(&line);
    assert!(
        text.contains("suspect: rows 3..=4, array sectors 288..480"),
        "{text}"
    );
    assert!(
        text.contains("suspect: rows 11..=11, array sectors 1056..1152"),
        "{text}"
    );
    assert!(text.contains("\n3 of 20 rows are suspect"), "{text}");
    // `rows` accepts the list.
    let json = array.ok(&format!("suspects --json {}", array.names()));
    array.directory.put("list", &json, 0o644);
    assert!(array
        .ok(&array.rows("--within list"))
        .contains("3 rows checked: 3 consistent"));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["suspects"][0]["first"], 3);
    assert_eq!(json["everything"], false);
    array.fill(5, 0, 1);
    array.put(0, 5, 0, &[1; 4096]);
    array.ok(&array.rows("--within list"));
    assert!(array.not_ok(&array.rows("")).contains("1 stale"));
}

#[test]
fn r21_a_bitmap_that_tells_nothing_makes_every_row_suspect() {
    let array = Array::in_portion(6, 5);
    let line = format!("suspects {}", array.names());
    // This bitmap is older than md's superblock and is ignored; those of the other members are
    // used.
    array.bitmap(1, 6, &[]);
    let text = array.ok(&line);
    assert!(
        text.contains("note: m1: the bitmap is older than md's superblock"),
        "{text}"
    );
    assert!(text.contains("\n0 of 20 rows"), "{text}");
    for member in 0..5 {
        array.bitmap(member, 6, &[]);
    }
    let text = array.ok(&line);
    assert!(
        text.contains("note: no bitmap can be read: every row is suspect"),
        "{text}"
    );
    assert!(text.contains("\n20 of 20 rows are suspect"), "{text}");
    for member in 0..5 {
        array.write(member, 8192, &[0; 4096]);
    }
    assert!(array.ok(&line).contains("there is no bitmap where md says"));
}

/// Writes a record of a controller to a member, as the controller would.
fn publish<T: Record>(array: &Array, member: u64, slot: Slot, record: &T) {
    let path = array.directory.join(format!("m{member}"));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut block = ZERO_BLOCK;
    file.read_exact_at(&mut block, SUPERBLOCK_OFFSET).unwrap();
    let superblock::Superblock {
        uuid,
        member,
        generation,
        ..
    } = superblock::decode(&block).unwrap();
    let mut block = ZERO_BLOCK;
    let id = BlockId {
        uuid,
        member,
        generation,
        slot,
    };
    encode(record, &id, &mut block);
    let offset = register_offset(slot, T::REGISTER, Side::A);
    file.write_all_at(&block, offset).unwrap();
}

#[test]
fn r21_suspects_tells_what_the_old_owner_said_last() {
    let array = Array::in_portion(6, 5);
    let slots = [1, 2].map(|controller| Slot::from_controller(controller).unwrap());
    let decided = |epoch, slot| Decided {
        epoch,
        value: Some(Value {
            slot,
            inc: Incarnation(1),
        }),
    };
    let heartbeat = |hb, open, dec, role| HeartbeatRecord {
        seq: hb,
        inc: Incarnation(1),
        dec,
        role,
        hb,
        open,
        period_ns: 100_000_000,
        reason: 0,
        may_claim: true,
        mark: 0,
        generations: Generations::NONE,
    };
    let ballot = |dec, limit, charges| BallotRecord {
        seq: 1,
        inc: Incarnation(1),
        boot_id: [9; 16],
        dec,
        mbal: Ballot::NONE,
        offer: 0,
        bal: Ballot::NONE,
        val: None,
        limit,
        charges,
        failed: 0,
        mark: 0,
        generations: Generations::NONE,
    };
    let (first, second) = (decided(3, slots[0]), decided(4, slots[1]));
    // The last record of the old owner is on one member only; the others have older ones.
    publish(
        &array,
        0,
        slots[0],
        &heartbeat(7, 0, first, RecordRole::Owner),
    );
    publish(
        &array,
        3,
        slots[0],
        &heartbeat(8, 1, first, RecordRole::Owner),
    );
    publish(&array, 2, slots[0], &ballot(first, 1, Charges::NONE));
    let mut charges = Charges::NONE;
    let mut charge = Charge {
        epoch: 3,
        slot: slots[0],
        inc: Incarnation(1),
        amount: 1,
        drained: false,
        vouched: false,
        several: false,
    };
    charges.add(charge);
    charge.epoch = 1;
    charge.drained = true;
    charges.add(charge);
    publish(
        &array,
        1,
        slots[1],
        &heartbeat(1, 0, second, RecordRole::Owner),
    );
    publish(&array, 1, slots[1], &ballot(second, 0, charges));
    let text = array.ok(&format!("suspects {}", array.names()));
    for line in [
        "portion vault: epoch 4 of controller 2\n",
        "controller 1: owner in its epoch 3, 1 open when it last said so, limit 1\n",
        "controller 2: owner in its epoch 4, 0 open when it last said so, limit 0\n",
        "charged: epoch 1 of controller 1 with 1, drained\n",
        "charged: epoch 3 of controller 1 with 1, not known to be drained\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}
