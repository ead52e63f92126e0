// SPDX-License-Identifier: GPL-2.0
//! Random valid content of members: records, superblocks, and their places.

use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::charge_list::{Charge, Charges};
use dm_lease_proto::proto::codec::generations::Generations;
use dm_lease_proto::proto::codec::heartbeat::{HeartbeatRecord, RecordRole};
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Incarnation, Slot, Value};
use dm_lease_proto::proto::codec::layout::DATA_OFFSET_SECTORS;
use dm_lease_proto::proto::codec::record::BlockId;
use dm_lease_proto::proto::codec::superblock::{self, Name, Superblock};
use dm_lease_proto::proto::limit::{Counting, Exhausted, Redundancy, RedundancyKind};
use dm_lease_proto::proto::time::{Timing, MAX_DURATION_NS, MIN_PERIOD_NS};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn generations() -> impl Strategy<Value = Generations> {
    vec((0..1_u32 << 31, any::<bool>()), 16).prop_map(|list| {
        let mut generations = Generations::NONE;
        for (member, (generation, is_settled)) in (0_u8..).zip(list) {
            generations.note(member, generation);
            if is_settled {
                generations.settle(member);
            }
        }
        generations
    })
}

fn slots() -> impl Strategy<Value = Slot> {
    (1..=64_u8).prop_map(|controller| Slot::from_controller(controller).unwrap())
}

fn values() -> impl Strategy<Value = Value> {
    (slots(), any::<u128>()).prop_map(|(slot, inc)| Value {
        slot,
        inc: Incarnation(inc),
    })
}

fn ballots() -> impl Strategy<Value = Ballot> {
    prop_oneof![
        Just(Ballot::NONE),
        (1_u64.., values()).prop_map(|(round, Value { slot, inc })| Ballot { round, slot, inc }),
    ]
}

fn decisions() -> impl Strategy<Value = Decided> {
    let some = (1_u64.., values()).prop_map(|(epoch, value)| Decided {
        epoch,
        value: Some(value),
    });
    prop_oneof![Just(Decided::NEVER), some]
}

fn charges() -> impl Strategy<Value = Charges> {
    let terms = vec(
        (1_u64.., values(), any::<u32>(), any::<[bool; 3]>()),
        0..=10,
    );
    (terms, any::<bool>()).prop_map(|(terms, partial)| {
        let mut charges = Charges::NONE;
        for (epoch, owner, amount, [drained, several, word]) in terms {
            charges.add(Charge {
                drained,
                vouched: drained && word,
                several,
                ..Charge::new(epoch, owner, amount)
            });
        }
        charges.with_partial(partial)
    })
}

prop_compose! {
    /// The place of a record.
    pub fn ids()(
        (uuid, generation) in any::<([u8; 16], u32)>(),
        member in 0..16_u8,
        slot in slots(),
    ) -> BlockId {
        BlockId { uuid, member, generation, slot }
    }
}

prop_compose! {
    /// The content of a ballot register.
    pub fn ballot_records()(
        (seq, inc, boot_id, limit) in any::<(u64, u128, [u8; 16], u32)>(),
        dec in decisions(),
        one in ballots(),
        two in ballots(),
        value in values(),
        charges in charges(),
        (failed, mark, offer) in any::<(u32, u64, u64)>(),
        generations in generations(),
    ) -> BallotRecord {
        let (mbal, bal) = (one.max(two), one.min(two));
        let val = bal.is_some().then_some(value);
        let may_answer = mbal.is_some() && dec != Decided::NEVER;
        let offer = if may_answer { offer } else { 0 };
        BallotRecord {
            seq, inc: Incarnation(inc), boot_id, dec, mbal, offer, bal, val, limit, charges, failed,
            mark, generations,
        }
    }
}

prop_compose! {
    /// The content of a heartbeat register.
    pub fn heartbeat_records()(
        (seq, inc, hb, open, period_ns, reason, mark, may_claim) in
            any::<(u64, u128, u64, u32, u64, u8, u64, bool)>(),
        generations in generations(),
        dec in decisions(),
        successor in option::of(slots()),
        role in 0..6,
    ) -> HeartbeatRecord {
        let role = match role {
            0 => RecordRole::Secondary,
            _ if dec == Decided::NEVER => RecordRole::Claiming,
            1 => RecordRole::Claiming,
            2 => RecordRole::Owner,
            3 => RecordRole::Lapsed,
            4 => RecordRole::Released { successor },
            _ => match successor {
                Some(successor) => RecordRole::HandingOver { successor },
                None => RecordRole::Owner,
            },
        };
        HeartbeatRecord {
            seq, inc: Incarnation(inc), dec, role, hb, open, period_ns, reason, mark, may_claim,
            generations,
        }
    }
}

prop_compose! {
    /// Timings that are safe, with slack.
    pub fn timings()(
        period_max_ns in MIN_PERIOD_NS..=10_000_000_000,
        (error_report_ns, write_ns, read_ns, jitter_ns) in
            (0..=10_000_000_000_u64, 0..=1_000_000_000_u64, 0..=1_000_000_000_u64, 0..=99_u64),
        device_delay_ns in 0..=3_600_000_000_000_u64,
        (drift_ppm, lost_heartbeats) in (0..=100_000_u32, 0..=100_u32),
        (slack_ns, more_slack_ns) in (0..=99_u64, 0..=99_u64),
    ) -> Timing {
        let mut timing = Timing {
            lease_ns: 0, window_ns: 0, device_delay_ns, drift_ppm, lost_heartbeats, period_max_ns,
            error_report_ns, write_ns, read_ns, jitter_ns,
        };
        timing.lease_ns = timing.needed_lease_ns(period_max_ns) + slack_ns;
        timing.window_ns = timing.needed_window_ns().max(timing.claim_ns() + 1) + more_slack_ns;
        timing
    }
}

prop_compose! {
    /// Redundancies, with a limit that fits.
    pub fn redundancies()(
        kind in prop_oneof![
            (1..=255_u8).prop_map(RedundancyKind::Parity),
            (2..=255_u8).prop_map(RedundancyKind::Mirror),
            Just(RedundancyKind::External),
        ],
        (detect, window, batch) in any::<(bool, bool, u32)>(),
        chunk_blocks in option::of(1..=(1_u32 << 18)),
        drain_ns in option::of(1..=MAX_DURATION_NS),
    ) -> Redundancy {
        let exhausted = if window { Exhausted::Window } else { Exhausted::Stop };
        let external = kind == RedundancyKind::External;
        let counting = match chunk_blocks {
            Some(blocks) if !external => Counting::Stripe { chunk_sectors: blocks * 8 },
            _ => Counting::Ops,
        };
        let detect = detect && !external;
        let mut redundancy = Redundancy { kind, detect, batch, counting, exhausted, drain_ns };
        redundancy.batch = match redundancy.healthy_limit() {
            None | Some(0) => 0,
            Some(limit) => batch % limit + 1,
        };
        redundancy
    }
}

prop_compose! {
    /// Superblocks that can be opened.
    pub fn superblocks()(
        (uuid, replacement, compat, ro_compat, formatted_s) in
            any::<([u8; 16], bool, u32, u32, u64)>(),
        name in "[A-Za-z0-9][A-Za-z0-9_.-]{0,31}",
        (members, member) in (1..=16_u8).prop_flat_map(|members| (Just(members), 0..members)),
        (controllers, home) in (any::<u64>(), slots()),
        timing in timings(),
        redundancy in redundancies(),
        (blocks, slack) in (1..=(1_u64 << 50), 0..=100_u64),
        generation in 1..1_u32 << 31,
    ) -> Superblock {
        let data_length_sectors = blocks * 8;
        Superblock {
            minor: superblock::VERSION_MINOR, compat, ro_compat,
            incompat: superblock::INCOMPAT_RECORDS_2,
            // A zero uuid is not valid.
            uuid: if uuid == [0; 16] { [1; 16] } else { uuid },
            name: Name::new(&name).unwrap(), member, members, replacement,
            controllers: controllers | home.bit(), home, timing, redundancy,
            data_offset_sectors: DATA_OFFSET_SECTORS, data_length_sectors,
            member_sectors: DATA_OFFSET_SECTORS + data_length_sectors + (8 << 11) + 8 + slack,
            generation, formatted_s,
        }
    }
}
