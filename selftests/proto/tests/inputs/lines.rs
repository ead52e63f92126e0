// SPDX-License-Identifier: GPL-2.0
//! Random lines that users may write and read. All of them are valid.

use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::limit::Limit;
use dm_lease_proto::proto::words::message::Message;
use dm_lease_proto::proto::words::status::{Reason, Role, Status};
use dm_lease_proto::proto::words::table::{
    Claim, FailWith, FeatureArgs, OnFull, BATCH, HEARTBEAT_MS, LAPSE_HOLD_MS,
};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Controllers.
pub fn slots() -> impl Strategy<Value = Slot> {
    (0u8..64).prop_map(|index| Slot::new(index).expect("below 64"))
}

/// Optional settings of a table line.
pub fn features() -> impl Strategy<Value = FeatureArgs> {
    (
        option::of(HEARTBEAT_MS),
        select(vec![Claim::Auto, Claim::Manual]),
        option::of(BATCH),
        select(vec![OnFull::Hold, OnFull::Fail]),
        select(vec![
            FailWith::ResvConflict,
            FailWith::IoErr,
            FailWith::Medium,
        ]),
        prop_oneof![Just(0), LAPSE_HOLD_MS],
        any::<bool>(),
    )
        .prop_map(
            |(heartbeat_ms, claim, batch, on_full, fail_with, lapse_hold_ms, stateless)| {
                FeatureArgs {
                    heartbeat_ms,
                    claim,
                    batch,
                    on_full,
                    fail_with,
                    lapse_hold_ms,
                    stateless,
                }
            },
        )
}

/// Messages.
pub fn commands() -> impl Strategy<Value = Message> {
    prop_oneof![
        select(vec![
            Message::Claim,
            Message::Release,
            Message::Fence,
            Message::Drop,
            Message::Histogram
        ]),
        slots().prop_map(Message::Handoff),
        (slots(), 1_u64.., any::<bool>()).prop_map(|(controller, epoch, force)| {
            Message::ConfirmDead {
                controller,
                epoch,
                force,
            }
        }),
        (1_u64..).prop_map(|epoch| Message::AcceptRisk { epoch }),
        (1_u64..).prop_map(|epoch| Message::Repaired { epoch }),
        (0u8..=16).prop_map(Message::Degraded),
        HEARTBEAT_MS.prop_map(Message::HeartbeatMs),
    ]
}

/// A status without its name, which it borrows.
pub fn statuses() -> impl Strategy<Value = Status<'static>> {
    let limits = prop_oneof![
        any::<u32>().prop_map(Limit::Count),
        Just(Limit::Unlimited),
        Just(Limit::Window),
    ];
    let place = (1u8..=16).prop_flat_map(|members| (0..members, Just(members), 0..=members));
    let term = (
        option::of(any::<u64>()),
        option::of(slots()),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
    );
    let budget = any::<[u32; 3]>();
    let counters = (any::<u32>(), limits, any::<[u64; 3]>(), budget);
    let words = (select(Role::ALL.to_vec()), select(Reason::ALL.to_vec()));
    (place, term, counters, words).prop_map(
        |((member, members, members_ok), term, (open, limit, counts, budget), (role, reason))| {
            let (epoch, owner, lease_ms_left, heartbeat_seq) = term;
            let [pending, refused, late] = counts;
            let [charged, peak, degraded] = budget;
            Status {
                portion: "",
                member,
                members,
                role,
                epoch,
                owner,
                lease_ms_left,
                heartbeat_seq,
                open,
                limit,
                pending,
                refused,
                late,
                members_ok,
                reason,
                charged,
                peak,
                degraded,
            }
        },
    )
}
