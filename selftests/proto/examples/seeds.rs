// SPDX-License-Identifier: GPL-2.0
//! The first inputs of the fuzzer: valid lines and blocks, and the words of the grammar.
//!
//! usage: seeds DIRECTORY
//!
//! Writes `DIRECTORY/<target>/<number>` and `DIRECTORY/<target>.dict` for each target of
//! `selftests/proto/fuzz`, the same ones every time.

#[path = "../tests/inputs/blocks.rs"]
mod blocks;
#[path = "../tests/inputs/lines.rs"]
mod lines;

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{Block, ZERO_BLOCK};
use dm_lease_proto::proto::codec::heartbeat::HeartbeatRecord;
use dm_lease_proto::proto::codec::record::{self, Record};
use dm_lease_proto::proto::codec::superblock::{self, Superblock};
use dm_lease_proto::proto::words::status::Status;
use dm_lease_proto::proto::words::table::TableLine;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs, io};

/// Seeds of each target.
const SEEDS: usize = 200;

/// The bytes of a block that its fields fill, at most; `fuzz/src/lib.rs` puts them back.
const HEAD: usize = 620;

/// Numbers at the bounds of some range.
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "13",
    "14",
    "16",
    "17",
    "64",
    "65",
    "60000",
    "60001",
    "65535",
    "65536",
    "600000",
    "18446744073709551615",
];

fn draw<T>(runner: &mut TestRunner, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut one = || strategy.new_tree(runner).expect("nothing is filtered");
    (0..SEEDS).map(|_| one().current()).collect()
}

fn write(directory: &Path, target: &str, seeds: &[Vec<u8>]) -> io::Result<()> {
    let directory = directory.join(target);
    fs::create_dir_all(&directory)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("{number:03}")), seed)?;
    }
    Ok(())
}

/// Lines, and a dictionary of their words.
fn write_lines(directory: &Path, target: &str, lines: &[String]) -> io::Result<()> {
    let is_word = |word: &&str| word.bytes().all(|it| it == b'_' || it.is_ascii_lowercase());
    let words = lines.iter().flat_map(|line| line.split(' '));
    let words: BTreeSet<&str> = words.filter(is_word).chain(NUMBERS).collect();
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"\n")).collect();
    fs::write(directory.join(format!("{target}.dict")), quoted.concat())?;
    let seeds: Vec<Vec<u8>> = lines.iter().map(|line| line.clone().into_bytes()).collect();
    write(directory, target, &seeds)
}

/// The heads of two blocks.
fn pair(encode: impl Fn(u64, &mut Block)) -> Vec<u8> {
    let mut heads = Vec::new();
    for number in 0..2 {
        let mut block = ZERO_BLOCK;
        encode(number, &mut block);
        heads.extend_from_slice(&block[..HEAD]);
    }
    heads
}

fn main() -> io::Result<()> {
    let directory = env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let directory = Path::new(&directory);
    let runner = &mut TestRunner::deterministic();
    fs::create_dir_all(directory)?;

    let tables = draw(runner, (lines::slots(), lines::features()));
    let tables = tables.into_iter().map(|(controller, features)| {
        let device = "/dev/sda";
        let line = TableLine {
            device,
            controller,
            features,
        };
        line.to_string()
    });
    write_lines(directory, "table", &tables.collect::<Vec<_>>())?;
    let commands = draw(runner, lines::commands());
    let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
    write_lines(directory, "message", &commands)?;
    let statuses = draw(runner, lines::statuses());
    let statuses = statuses.into_iter().map(|status| Status {
        portion: "vault",
        ..status
    });
    let statuses: Vec<String> = statuses.map(|it| it.to_string()).collect();
    write_lines(directory, "status", &statuses)?;

    let superblocks = draw(runner, blocks::superblocks());
    let superblocks = superblocks.iter().map(|first| {
        pair(|number, block| {
            // Another member of the same portion.
            let member = first.member ^ u8::try_from(number).expect("0 or 1");
            superblock::encode(&Superblock { member, ..*first }, block);
        })
    });
    write(directory, "superblock", &superblocks.collect::<Vec<_>>())?;
    let ballots = draw(runner, (blocks::ids(), blocks::ballot_records()));
    let heartbeats = draw(runner, (blocks::ids(), blocks::heartbeat_records()));
    let ballots = ballots.iter().map(|(id, record)| {
        pair(|number, block| {
            let seq = record.seq.wrapping_add(number);
            encode(&BallotRecord { seq, ..*record }, id, block);
        })
    });
    let heartbeats = heartbeats.iter().map(|(id, record)| {
        pair(|number, block| {
            let seq = record.seq.wrapping_add(number);
            encode(&HeartbeatRecord { seq, ..*record }, id, block);
        })
    });
    write(
        directory,
        "mailbox",
        &ballots.chain(heartbeats).collect::<Vec<_>>(),
    )
}

fn encode<T: Record>(record: &T, id: &record::BlockId, block: &mut Block) {
    record::encode(record, id, block);
}
