// SPDX-License-Identifier: GPL-2.0
//! Exhaustive check of the shipped state machine: every order of events of small portions.
//!
//! A state is some whole [`dm_lease_proto::proto::controller::Controller`]s, their gates, their
//! mailboxes on the members and the commands in flight (`node`, `medium`); a step is one event of
//! one of them, or a tick of the clock (`portion`). Between any two steps the clock may go on:
//! every stall of every length is there, since no model bounds time. An action of the state machine
//! is done at once, because a command that is issued and has not landed is the same as one that is
//! not issued yet, and a gate that is reached late has `lag`.
//!
//! | what goes wrong | in the model |
//! |---|---|
//! | stalls, slow commands | no step has to happen before the next tick |
//! | old reads | a read brings, of every register, anything it held since the read was issued |
//! | lost, late, in-doubt writes | `faults`: reported as failed; lands within D, or not |
//! | torn and duplicated writes | `torn`, `twice`: half a block; a copy that lands within D |
//! | crashes | `restarts`: another incarnation with the same number; its commands land, or not |
//! | clocks | `drift`: in a tick each clock goes on by one or by two |
//! | members | `dead`, `replaces` |
//! | operators | `commands`: release, hand-over, fence |
//!
//! Checked in every state: S1 no two valid leases, and (S1') none of an epoch before the highest
//! that was decided; S3 one value for each epoch, no epoch decreases; S4 no write is acknowledged
//! that landed after a later owner's lease began; R36 no controller takes itself for another. L1,
//! where all is `timely`: the owner keeps its lease. L2, from a sample of the states: each
//! controller, alone from then on, comes to own. And what a model is about must happen in it
//! (`sometimes`).
//!
//! What the bounds leave out: more epochs, ballots, heartbeats of the timer, faults and restarts
//! than each model allows (they are in its definition); members more than 3; the reader's own
//! mailbox is read at the moment the read is reported; a copy of a command counts as at most one.
//!
//! Where redundancy repairs strays, gates count, and S2 holds: what may land, and what landed under
//! a later owner, is never more than it repairs.
//!
//! The models at the bottom run with every `cargo test`; `make model` runs the large ones.

mod config;
mod explore;
mod medium;
mod node;
mod portion;
mod print;
mod sometimes;

use dm_lease_proto::proto::controller::Command;
use dm_lease_proto::proto::limit::{Redundancy, RedundancyKind};

use config::{base, ticks, Config, Start};
use explore::explore;
use node::{fence, release};
use portion::Portion;
use sometimes::Sometimes;
use stateright::{Checker, Model};

/// More states than a model that is explored to its end should have.
const TOO_MANY: usize = 60_000_000;

/// Where the large models are cut, if `STATES` does not say.
#[cfg(feature = "long")]
const FAR: usize = 6_000_000;

#[cfg(feature = "long")]
fn far() -> usize {
    let said = std::env::var("STATES").ok();
    said.map_or(FAR, |states| states.parse().expect("STATES is a number"))
}

/// Explores everything, or says that it was cut; returns the rule that is broken, if there is one.
fn outcome<const N: usize>(config: Config, limit: usize) -> Option<&'static str> {
    let portion = Portion::<N>::new(config);
    let report = explore(&portion, limit);
    let config = &portion.config;
    let missing = portion.tally.missing(config.wanted);
    println!(
        "| {N} x {} | {} | {} | {} | {:.0} s | {} MiB | {} |",
        config.members,
        config.name,
        report.states,
        report.depth,
        report.elapsed.as_secs_f64(),
        report.memory_mib,
        match report.broken {
            Some((rule, _)) => rule,
            None if report.is_complete => "holds, exhaustive",
            None => "holds, cut",
        },
    );
    if let Some((rule, _)) = report.broken {
        return Some(rule);
    }
    assert!(
        report.is_complete || limit < TOO_MANY,
        "more than {limit} states"
    );
    assert!(missing.is_empty(), "never reached: {missing:?}");
    None
}

/// All rules hold.
fn holds<const N: usize>(config: Config) {
    assert_eq!(outcome::<N>(config, TOO_MANY), None);
}

/// All rules hold in every state that is so near the start that there are not more than `limit`.
fn holds_nearby<const N: usize>(config: Config, limit: usize) {
    assert_eq!(outcome::<N>(config, limit), None);
}

/// A rule of this name is broken.
fn breaks<const N: usize>(config: Config, rule: &str) {
    assert!(outcome::<N>(config, TOO_MANY).is_some_and(|broken| broken.starts_with(rule)));
}

/// The portion was never owned; two or three candidates.
fn virgin(nodes: usize, members: u8) -> Config {
    Config {
        name: "candidates for the first epoch",
        start: Start::Virgin,
        returns: true,
        epochs: 1,
        ticks: [0; 3],
        wanted: &[
            Sometimes::RaceOfTwo,
            Sometimes::ClaimWon,
            Sometimes::OldRead,
        ],
        ..base(nodes, members)
    }
}

fn owned(nodes: usize, members: u8) -> Config {
    Config {
        name: "an owner and observers",
        wanted: &[
            Sometimes::Takeover,
            Sometimes::Lapse,
            Sometimes::OldRead,
            Sometimes::DemotedWrites,
        ],
        ..base(nodes, members)
    }
}

/// How many ticks a hand-over that comes to nothing is watched.
const TIMELY_HAND_OVER: u8 = 4;

/// In each tick every heartbeat timer fires and every command is done, in any order.
fn timely(lease: u64, beats: u8) -> Config {
    Config {
        name: "all is well",
        timing: ticks(lease, lease),
        ticks: [beats, 1, 1],
        timely: 6,
        wanted: &[],
        ..owned(2, 1)
    }
}

/// The same before the timer fires once more: small enough to add something that goes wrong.
fn quick() -> Config {
    Config {
        ticks: [0; 3],
        ..owned(2, 1)
    }
}

fn named(name: &'static str, wanted: &'static [Sometimes], config: Config) -> Config {
    Config {
        name,
        wanted,
        ..config
    }
}

fn handover(command: Command) -> Config {
    Config {
        commands: 1,
        command,
        ..quick()
    }
}

#[test]
fn r45_an_owner_and_an_observer() {
    holds::<2>(owned(2, 1));
}

#[test]
fn r28_two_candidates() {
    holds::<2>(virgin(2, 1));
}

#[test]
fn r41_a_fault_of_the_owner() {
    holds::<2>(Config {
        faults: [1, 0, 0],
        torn: true,
        ..named(
            "a failed or torn command of the owner",
            &[
                Sometimes::LateLanding,
                Sometimes::TornRead,
                Sometimes::Takeover,
            ],
            quick(),
        )
    });
}

#[test]
fn r41_a_fault_of_the_observer() {
    holds::<2>(Config {
        faults: [0, 1, 0],
        torn: true,
        ..named(
            "a failed or torn command of the observer",
            &[
                Sometimes::LateLanding,
                Sometimes::TornRead,
                Sometimes::Takeover,
            ],
            quick(),
        )
    });
}

#[test]
fn r58_what_was_acknowledged_is_read_back_whatever_fails() {
    let mut timing = ticks(2, 3);
    timing.device_delay_ns = 1;
    holds::<2>(Config {
        faults: [1, 0, 0],
        torn: true,
        compares: true,
        timing,
        ..named(
            "own records are compared, a command fails or lands late, D = 1",
            &[Sometimes::LateLanding, Sometimes::TornRead],
            quick(),
        )
    });
}

#[test]
fn r41_a_command_that_lands_twice_or_late() {
    let mut timing = ticks(2, 3);
    timing.device_delay_ns = 1;
    holds::<2>(Config {
        faults: [1, 0, 0],
        twice: true,
        timing,
        ..named(
            "a command that lands late or twice, D = 1",
            &[Sometimes::LateLanding, Sometimes::Takeover],
            quick(),
        )
    });
}

#[test]
fn r34_a_release_and_a_hand_over_race_a_takeover() {
    const WANTED: &[Sometimes] = &[Sometimes::HandedOver, Sometimes::Takeover, Sometimes::Lapse];
    holds::<2>(named("a release", WANTED, handover(release(None))));
    const PREPARED: &[Sometimes] = &[
        Sometimes::Prepared,
        Sometimes::HandedOver,
        Sometimes::Takeover,
        Sometimes::Lapse,
    ];
    // The successor's timer shows it the offer. All of it is among the large models.
    let config = Config {
        ticks: [0, 1, 0],
        ..named("a hand-over", PREPARED, handover(release(Some(1))))
    };
    holds_nearby::<2>(config, 3_000_000);
}

/// An observer one of whose registers is destroyed, in both blocks, at any moment.
fn damaged(name: &'static str, config: Config) -> Config {
    Config {
        faults: [0, 1, 0],
        damages: true,
        ..named(name, &[Sometimes::Unreadable], config)
    }
}

/// No second lease and no second owner; and where nothing takes longer than a tick the owner keeps
/// its lease. All of the first is among the large models.
#[test]
fn r26_a_register_of_an_observer_that_nobody_can_read() {
    holds::<2>(damaged(
        "a register of the observer is destroyed, all is well",
        timely(4, 0),
    ));
    let config = damaged("a register of the observer is destroyed", quick());
    holds_nearby::<2>(config, 500_000);
}

#[test]
#[cfg(feature = "long")]
fn r26_a_takeover_and_a_register_that_nobody_can_read() {
    const WANTED: &[Sometimes] = &[Sometimes::Unreadable, Sometimes::Takeover];
    let config = damaged("a register of the observer is destroyed", quick());
    let config = Config {
        wanted: WANTED,
        ..config
    };
    holds_nearby::<2>(config, far());
}

/// All is well, and a hand-over comes to nothing at any moment: it is called off, or an operation
/// does not end in time. The owner keeps its lease, whenever the ballot of its successor is seen.
#[test]
fn r34_a_hand_over_that_comes_to_nothing() {
    const WANTED: &[Sometimes] = &[
        Sometimes::Prepared,
        Sometimes::CalledOff,
        Sometimes::HandedOver,
    ];
    let config = Config {
        timely: TIMELY_HAND_OVER,
        writes: [1, 0, 0],
        commands: 1,
        command: release(Some(1)),
        calls_off: true,
        ..named("a hand-over that comes to nothing", WANTED, timely(4, 1))
    };
    holds::<2>(config);
}

#[test]
#[cfg(feature = "long")]
fn r34_a_hand_over_and_what_goes_wrong() {
    const WANTED: &[Sometimes] = &[Sometimes::Prepared, Sometimes::Lapse];
    // The successor must see the offer: by its timer, or by what it does anyhow.
    let bare = || handover(release(Some(1)));
    let offered = || Config {
        ticks: [0, 1, 0],
        ..bare()
    };
    let models = [
        named("a hand-over", WANTED, offered()),
        Config {
            ticks: [1, 0, 0],
            ..named("a hand-over, a heartbeat", WANTED, bare())
        },
        Config {
            restarts: [0, 1, 0],
            ..named("a hand-over, the successor restarts", WANTED, offered())
        },
        Config {
            faults: [1, 0, 0],
            torn: true,
            ..named("a hand-over, a fault of the owner", WANTED, offered())
        },
        Config {
            lag: true,
            ..named("a hand-over, a stall before the gate", WANTED, offered())
        },
        Config {
            calls_off: true,
            ..named(
                "a hand-over that is called off",
                &[Sometimes::CalledOff, Sometimes::Lapse],
                offered(),
            )
        },
        Config {
            returns: true,
            ..named("a hand-over by an owner that returns", WANTED, offered())
        },
    ];
    for model in models {
        holds_nearby::<2>(model, far());
    }
}

/// Without a timer it never learns that it was chosen, and everything ends well.
#[test]
#[cfg(feature = "long")]
fn r34_a_hand_over_to_one_that_restarts() {
    const WANTED: &[Sometimes] = &[Sometimes::Lapse, Sometimes::Takeover];
    let config = Config {
        restarts: [0, 1, 0],
        ..named(
            "a hand-over, the successor restarts, no timer",
            WANTED,
            handover(release(Some(1))),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
fn r9_a_fence() {
    const WANTED: &[Sometimes] = &[Sometimes::HandedOver, Sometimes::Takeover];
    holds::<2>(named("a fence", WANTED, handover(fence())));
}

#[test]
fn r18_no_acknowledged_write_is_lost() {
    const WANTED: &[Sometimes] = &[
        Sometimes::Acknowledged,
        Sometimes::Stray,
        Sometimes::StrayRefused,
    ];
    holds::<2>(Config {
        writes: [1, 0, 0],
        ..named("a write of a user", WANTED, quick())
    });
}

/// Redundancy that repairs this number of strays, if a layer above recognises them.
fn parity(failures: u8) -> Redundancy {
    Redundancy {
        kind: RedundancyKind::Parity(failures),
        detect: true,
        batch: 1,
        ..Redundancy::EXTERNAL
    }
}

#[test]
fn r21_a_new_owner_is_charged_for_the_old_one() {
    const WANTED: &[Sometimes] = &[
        Sometimes::Stray,
        Sometimes::StrayRefused,
        Sometimes::Charged,
        Sometimes::Exhausted,
    ];
    holds::<2>(Config {
        writes: [1, 1, 0],
        redundancy: parity(1),
        ..named("writes of users, one stray is repaired", WANTED, quick())
    });
}

#[test]
fn r10_clocks_that_drift() {
    let drift = |window| Config {
        drift: true,
        timing: ticks(3, window),
        ..named(
            "clocks of one or two to a tick",
            &[Sometimes::Takeover],
            quick(),
        )
    };
    holds::<2>(drift(6));
    breaks::<2>(drift(3), "S1");
}

#[test]
fn r10_a_window_that_is_one_tick_shorter_breaks_the_first_rule() {
    let timing = ticks(2, 1);
    let name = "W = 1 < L = 2";
    breaks::<2>(
        Config {
            timing,
            name,
            ..owned(2, 1)
        },
        "S1",
    );
}

#[test]
fn r11_a_healthy_owner_keeps_its_lease() {
    holds::<2>(timely(3, 1));
    // The first heartbeat is lost: L must be longer than three periods.
    holds::<2>(timely(4, 0));
    breaks::<2>(timely(3, 0), "L1");
}

#[test]
fn r45_stateright_counts_the_same_states() {
    let ours = explore(&Portion::<2>::new(quick()), TOO_MANY).states;
    let checker = Portion::<2>::new(quick())
        .checker()
        .threads(1)
        .spawn_bfs()
        .join();
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), ours);
}

#[test]
#[cfg(feature = "long")]
fn r18_a_write_and_a_heartbeat() {
    let config = Config {
        writes: [1, 0, 0],
        ..named(
            "a write of a user, a heartbeat",
            &[Sometimes::StrayRefused],
            owned(2, 1),
        )
    };
    holds::<2>(config);
}

#[test]
#[cfg(feature = "long")]
fn r21_charges_over_three_epochs() {
    let config = Config {
        writes: [1, 2, 0],
        redundancy: parity(2),
        returns: true,
        epochs: 3,
        ..named(
            "writes of users, three epochs, two strays are repaired",
            &[Sometimes::Stray, Sometimes::Charged],
            quick(),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r35_an_owner_that_restarts() {
    let config = Config {
        restarts: [1, 0, 0],
        ..named(
            "an owner that restarts under its number",
            &[
                Sometimes::Takeover,
                Sometimes::Rejoined,
                Sometimes::LateLanding,
            ],
            quick(),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r32_a_demoted_owner_that_goes_on() {
    let config = Config {
        ticks: [2, 1, 0],
        ..named(
            "an owner that is demoted and goes on, an observer",
            &[Sometimes::DemotedWrites, Sometimes::Takeover],
            quick(),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r45_three_epochs() {
    let config = Config {
        epochs: 3,
        ..named(
            "an owner, an observer, three epochs",
            &[Sometimes::Takeover],
            owned(2, 1),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r9_an_owner_that_returns() {
    let config = Config {
        returns: true,
        ..named(
            "an owner that claims again",
            &[Sometimes::RaceOfTwo],
            owned(2, 1),
        )
    };
    holds_nearby::<2>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r35_a_candidate_that_restarts() {
    holds_nearby::<2>(
        Config {
            restarts: [1, 0, 0],
            ..named(
                "two candidates, a restart",
                &[Sometimes::RaceOfTwo],
                virgin(2, 1),
            )
        },
        far(),
    );
}

#[test]
#[cfg(feature = "long")]
fn r6_a_stall_before_the_gate() {
    holds_nearby::<2>(
        Config {
            lag: true,
            ..named(
                "a stall before the gate",
                &[Sometimes::Takeover],
                owned(2, 1),
            )
        },
        far(),
    );
}

#[test]
#[cfg(feature = "long")]
fn r28_three_candidates() {
    const WANTED: &[Sometimes] = &[Sometimes::RaceOfThree, Sometimes::RaceOfTwo];
    holds_nearby::<3>(named("three candidates", WANTED, virgin(3, 1)), far());
}

#[test]
#[cfg(feature = "long")]
fn r45_an_owner_and_two_observers() {
    let config = named("an owner, two observers", &[Sometimes::Lapse], owned(3, 1));
    holds_nearby::<3>(config, far());
}

#[test]
#[cfg(feature = "long")]
fn r3_three_members() {
    let config = named("an owner and an observer", &[Sometimes::Lapse], owned(2, 3));
    holds_nearby::<2>(config, 5_000_000);
}

#[test]
#[cfg(feature = "long")]
fn r28_two_candidates_on_three_members() {
    let config = named("two candidates", &[Sometimes::RaceOfTwo], virgin(2, 3));
    holds_nearby::<2>(config, 5_000_000);
}

#[test]
#[cfg(feature = "long")]
fn r28_three_candidates_on_three_members() {
    let config = named("three candidates", &[Sometimes::RaceOfThree], virgin(3, 3));
    holds_nearby::<3>(config, 3_000_000);
}

#[test]
#[cfg(feature = "long")]
fn r39_a_replaced_member() {
    let config = Config {
        replaces: true,
        ..named(
            "two candidates, a replaced member",
            &[Sometimes::RaceOfTwo],
            virgin(2, 3),
        )
    };
    holds_nearby::<2>(config, 5_000_000);
}

#[test]
#[cfg(feature = "long")]
fn r35_a_cold_start() {
    let config = Config {
        start: Start::Cold,
        ticks: [1, 1, 0],
        ..named("a cold start of both", &[Sometimes::OldRead], virgin(2, 1))
    };
    holds_nearby::<2>(config, far());
}
