// SPDX-License-Identifier: GPL-2.0
//! The properties of every block that a member may have, whatever wrote it.
//!
//! Used by the tests with random blocks (`codec.rs`) and by the fuzzer (`fuzz/`), whose root has
//! the module `refusals`. A property that does not hold panics.

use crate::refusals::has_own_words;
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::block::{is_blank, Block, BLOCK_SIZE, ZERO_BLOCK};
use dm_lease_proto::proto::codec::charge_list::{Charges, MAX_CHARGES};
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::codec::record::{
    self, newest, target, BlockId, Reading, Record, EXTENSION_AT,
};
use dm_lease_proto::proto::codec::superblock::{
    self, DisplayUuid, Name, Superblock, SuperblockError,
};
use std::fmt::Debug;

/// Bits in a block.
const BITS: usize = BLOCK_SIZE * 8;

/// The checksum that a block carries, right or wrong.
fn checksum_of(block: &Block) -> u32 {
    u32::from_le_bytes([block[16], block[17], block[18], block[19]])
}

/// Damage that CRC-32C finds in any content: one flipped bit, two, and a burst of 32. Its place
/// differs from block to block.
fn damaged(block: &Block) -> [Block; 3] {
    let seed = checksum_of(block) as usize;
    let first = seed % BITS;
    let second = (first + 1 + (seed / BITS) % (BITS - 1)) % BITS;
    let [mut one, mut two, mut burst] = [*block; 3];
    let flip = |block: &mut Block, bit: usize| block[bit / 8] ^= 1 << (bit % 8);
    flip(&mut one, first);
    flip(&mut two, first);
    flip(&mut two, second);
    // Behind the checksum, because a burst across the checksum would count as two.
    let at = 20 + seed % (BLOCK_SIZE - 24);
    for byte in &mut burst[at..at + 4] {
        *byte ^= 1 + (seed % 255) as u8;
    }
    [one, two, burst]
}

/// Two superblocks: each is refused with a text of its own, or is exactly the encoding of its
/// fields. Two that fit each other belong to one portion [R39].
pub fn superblocks_are_sound(blocks: [&Block; 2]) {
    let [one, two] = blocks.map(superblock_is_sound);
    let (Some(one), Some(two)) = (one, two) else {
        return;
    };
    match one.fits(&two) {
        Ok(()) => {
            assert_ne!(one.member, two.member);
            let portion = |it: &Superblock| (it.uuid, it.name, it.members, it.controllers, it.home);
            assert_eq!(portion(&one), portion(&two));
            assert_eq!((one.timing, one.redundancy), (two.timing, two.redundancy));
        }
        Err(mismatch) => has_own_words(mismatch, mismatch),
    }
    assert_eq!(one.fits(&two), two.fits(&one));
}

fn superblock_is_sound(block: &Block) -> Option<Superblock> {
    let read = match superblock::decode(block) {
        Ok(read) => read,
        Err(error) => {
            assert_eq!(error == SuperblockError::Blank, is_blank(block));
            has_own_words(error, error);
            return None;
        }
    };
    assert_eq!(read.validate(), Ok(()));
    assert_eq!(Name::new(read.name.as_str()), Some(read.name));
    assert_eq!(read.may_own(), read.ro_compat == 0);
    assert_eq!(DisplayUuid(&read.uuid).to_string().len(), 36);
    let mut again = ZERO_BLOCK;
    superblock::encode(&read, &mut again);
    if read.minor > superblock::VERSION_MINOR {
        // A later minor version may have fields that this code drops, but no others.
        assert_eq!(superblock::decode(&again), Ok(read));
    } else {
        assert!(again == *block, "{read:?}");
    }
    for damaged in damaged(block) {
        assert!(superblock::decode(&damaged).is_err(), "{read:?}");
    }
    Some(read)
}

/// The place for which a block says that it was written.
pub fn place_of(block: &Block) -> BlockId {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&block[24..40]);
    BlockId {
        uuid,
        member: block[11],
        generation: u32::from_le_bytes([block[20], block[21], block[22], block[23]]),
        slot: Slot::from_controller(block[12]).unwrap_or(Slot::FIRST),
    }
}

/// The two blocks of a register: each is no information, with a text of its own, or is exactly the
/// encoding of its fields, at this place and no other. The newest valid one of the two counts
/// [R26].
pub fn registers_are_sound(blocks: [&Block; 2], id: &BlockId) {
    let [one, two] = register_is_sound::<BallotRecord>(blocks, id);
    if let (Some(one), Some(two)) = (one.valid(), two.valid()) {
        charges_join(one.charges, &two.charges);
    }
    for beat in register_is_sound::<HeartbeatRecord>(blocks, id) {
        if let Some(beat) = beat.valid() {
            let owns = matches!(
                beat.role,
                RecordRole::Owner | RecordRole::HandingOver { .. }
            );
            assert!(!(owns && beat.is_drained()));
            assert!(owns <= (beat.dec.epoch != 0));
            assert!(!beat.role.to_string().is_empty());
        }
    }
}

/// No charge of two records is lost when they are joined.
fn charges_join(mut one: Charges, two: &Charges) {
    let before = one;
    one.merge(two);
    assert!(one.len() <= MAX_CHARGES && one.len() >= before.len().max(two.len()));
    assert!(one.total() >= before.total().max(two.total()));
}

fn register_is_sound<T: Record + Debug>(blocks: [&Block; 2], id: &BlockId) -> [Reading<T>; 2] {
    let readings = blocks.map(|block| block_is_sound::<T>(block, id));
    joins_soundly(readings);
    let [a, b] = readings;
    if let (Reading::Valid(_), Reading::Valid(_)) = (a, b) {
        for damaged in damaged(blocks[1]) {
            // If one block of a register is damaged, the other one is left.
            let damaged = record::decode::<T>(&damaged, id);
            assert_eq!(newest(a, damaged).0, a);
            assert_eq!(newest(damaged, a).0, a);
        }
    }
    readings
}

fn block_is_sound<T: Record + Debug>(block: &Block, id: &BlockId) -> Reading<T> {
    let reading = record::decode::<T>(block, id);
    match reading {
        Reading::Blank => assert!(is_blank(block)),
        Reading::Invalid(reject) => has_own_words(reject, reject),
        Reading::Valid(read) => {
            let mut again = ZERO_BLOCK;
            record::encode(&read, id, &mut again);
            // The extension area is for later versions. All other bytes follow from what was read.
            for part in [0..16, 20..EXTENSION_AT] {
                assert!(again[part.clone()] == block[part], "{read:?}");
            }
            for elsewhere in other_places(id) {
                assert!(record::decode::<T>(block, &elsewhere).valid().is_none());
            }
            for damaged in damaged(block) {
                assert!(record::decode::<T>(&damaged, id).valid().is_none());
            }
        }
    }
    reading
}

/// Another portion, another member, another generation of it, another controller.
fn other_places(id: &BlockId) -> [BlockId; 4] {
    let mut uuid = id.uuid;
    uuid[usize::from(id.member) % 16] ^= 1;
    let slot = Slot::new((id.slot.index() + 1) % 64).unwrap();
    let member = id.member ^ 1;
    let generation = id.generation ^ 1;
    [
        BlockId { uuid, ..*id },
        BlockId { member, ..*id },
        BlockId { generation, ..*id },
        BlockId { slot, ..*id },
    ]
}

/// The block that counts does not depend on the order of the two.
fn joins_soundly<T: Record + Debug>([a, b]: [Reading<T>; 2]) {
    let (reading, side) = newest(a, b);
    let (mirrored, _) = newest(b, a);
    match (a.valid(), b.valid()) {
        (Some(a), Some(b)) if a.seq() == b.seq() && a != b => {
            assert!(matches!(reading, Reading::Invalid(_)) && side.is_none());
        }
        (Some(a), Some(b)) => {
            let newer = if a.seq() < b.seq() { b } else { a };
            assert_eq!(reading, Reading::Valid(newer));
        }
        (Some(only), None) | (None, Some(only)) => assert_eq!(reading, Reading::Valid(only)),
        (None, None) => assert!(reading.valid().is_none() && side.is_none()),
    }
    assert_eq!(reading.valid(), mirrored.valid());
    assert_eq!(reading.valid().is_some(), side.is_some());
    // The block that counts is never the one that is written next.
    assert_ne!(side, Some(target(side)));
}
