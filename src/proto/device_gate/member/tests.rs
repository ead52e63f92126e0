// SPDX-License-Identifier: GPL-2.0
//! Tests of the device gate of one member.

use super::*;
use crate::proto::codec::ids::{Incarnation, Slot};

const SETTLE: u64 = 1_000;
const WATCH: u64 = 500;
const RETRY: u64 = 10;

const SETUP: Setup = Setup {
    kind: Kind::AllRegistrants,
    settle_ns: SETTLE,
    watch_ns: WATCH,
    retry_ns: RETRY,
    unregisters: true,
};

fn key(controller: u8, inc: u128) -> Key {
    Key::new(Slot::from_controller(controller).unwrap(), Incarnation(inc))
}

/// What the member says; the test is the host of controller 1.
#[derive(Default)]
struct Device {
    /// The key of this host.
    own: u64,
    /// The keys of other hosts.
    others: Vec<u64>,
    held: Option<Held>,
    /// The commands that the member got.
    log: Vec<Command>,
}

const OURS: Held = Held {
    kind: Some(Kind::AllRegistrants),
    holder: 0,
};

impl Device {
    fn keys(&self) -> Keys {
        let own = (self.own != 0).then_some(self.own);
        own.into_iter().chain(self.others.iter().copied()).collect()
    }

    /// What the member does on a command, all but READ KEYS.
    fn carry_out(&mut self, command: Command) -> Answer<'static> {
        self.log.push(command);
        match command {
            Command::ReadKeys => Answer::Doubt,
            Command::ReadReservation => Answer::Reservation(self.held),
            Command::Register { old, .. } if old != self.own => Answer::Conflict,
            Command::Register { new, .. } => {
                self.own = new;
                Answer::Good
            }
            Command::Reserve if self.own == 0 || self.held.is_some() => Answer::Conflict,
            Command::Reserve => {
                self.held = Some(OURS);
                Answer::Good
            }
            Command::Preempt { victim } => {
                let listed = self.others.contains(&victim.raw());
                if self.own == 0 || !listed {
                    return Answer::Conflict;
                }
                self.others.retain(|raw| *raw != victim.raw());
                if let Some(held) = self
                    .held
                    .as_mut()
                    .filter(|held| held.holder == victim.raw())
                {
                    held.holder = self.own;
                }
                Answer::Good
            }
        }
    }
}

impl Device {
    /// Carries out a command, and gives the answer to the gate.
    fn answer(&mut self, gate: &mut MemberGate, command: Command, now_ns: u64) {
        let keys = self.keys();
        match (command, self.carry_out(command)) {
            (Command::ReadKeys, _) => gate.handle(Answer::Keys(&keys), now_ns),
            (_, answer) => gate.handle(answer, now_ns),
        }
    }
}

/// Carries out commands until the gate wants none. Returns the news, in their order.
fn run(gate: &mut MemberGate, device: &mut Device, now_ns: u64) -> Vec<News> {
    let mut news = Vec::new();
    for _ in 0..50 {
        let Some(command) = gate.poll(now_ns, true) else {
            return news;
        };
        device.answer(gate, command, now_ns);
        news.extend(gate.take_news());
    }
    panic!("the gate never rests: {:?}", device.log);
}

fn joined(setup: Setup, device: &mut Device) -> MemberGate {
    let mut gate = MemberGate::new(setup, key(1, 7));
    assert_eq!(run(&mut gate, device, 1), [News::Joined]);
    assert!(gate.is_joined() && !gate.is_open());
    device.log.clear();
    gate
}

fn round(gate: &mut MemberGate, clean: bool) -> Option<News> {
    gate.begin_round();
    gate.end_round(clean);
    gate.take_news()
}

#[test]
fn r51_a_host_registers_only_while_no_own_command_can_reach_the_member() {
    let mut gate = MemberGate::new(SETUP, key(1, 7));
    assert_eq!(gate.poll(1, false), None);
    assert_eq!(gate.poll(1, true), Some(Command::ReadReservation));
    gate.handle(Answer::Reservation(None), 1);
    assert_eq!(gate.poll(1, false), Some(Command::ReadKeys));
    gate.handle(Answer::Keys(&Keys::NONE), 1);
    assert_eq!(gate.poll(1, false), None);
    let register = Command::Register {
        old: 0,
        new: key(1, 7).raw(),
    };
    assert_eq!(gate.poll(1, true), Some(register));
    // The command may be carried out later: the host begins anew when it cannot any more.
    gate.handle(Answer::Doubt, 1);
    assert_eq!(gate.poll(SETTLE, true), None);
    assert_eq!(gate.next_ns(), Some(1 + SETTLE));
    assert_eq!(gate.poll(1 + SETTLE, true), Some(Command::ReadReservation));
}

#[test]
fn r51_a_host_that_still_has_the_key_of_an_earlier_run_replaces_that_key() {
    let old = key(1, 6).raw();
    let mut device = Device {
        own: old,
        others: vec![key(1, 3).raw(), key(2, 1).raw()],
        held: Some(OURS),
        ..Device::default()
    };
    let gate = joined(SETUP, &mut device);
    assert_eq!(device.own, key(1, 7).raw());
    assert_eq!(device.others.len(), 2, "other keys stay");
    assert_eq!(gate.next_ns(), Some(1 + WATCH));
}

#[test]
fn r54_a_member_that_another_program_uses_is_refused() {
    let foreign = Held {
        kind: None,
        holder: 1,
    };
    let wero = Held {
        kind: Some(Kind::RegistrantsOnly),
        holder: key(2, 1).raw(),
    };
    for (others, held, refusal) in [
        (vec![], Some(foreign), Refusal::ForeignReservation),
        (vec![], Some(wero), Refusal::ForeignReservation),
        (vec![0x1234], Some(OURS), Refusal::ForeignKey),
    ] {
        let mut device = Device {
            others,
            held,
            ..Device::default()
        };
        let mut gate = MemberGate::new(SETUP, key(1, 7));
        assert_eq!(run(&mut gate, &mut device, 1), [News::Refused(refusal)]);
        assert_eq!(
            (device.own, gate.next_ns()),
            (0, None),
            "nothing was changed"
        );
    }
}

#[test]
fn r54_a_nexus_that_another_host_uses_is_refused() {
    let mut device = Device {
        own: key(2, 5).raw(),
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = MemberGate::new(SETUP, key(1, 7));
    let news = run(&mut gate, &mut device, 1);
    assert_eq!(news, [News::Refused(Refusal::NexusInUse)]);
    assert_eq!(device.own, key(2, 5).raw());
}

#[test]
fn r54_writes_that_conflict_although_the_key_is_listed_are_mended_once() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.handle_conflict(true);
    assert_eq!(run(&mut gate, &mut device, 2), [News::Joined]);
    let unregister = Command::Register {
        old: key(1, 7).raw(),
        new: 0,
    };
    assert_eq!(device.log[0], unregister);
    gate.handle_conflict(true);
    let refused = News::Refused(Refusal::WritesRefused);
    assert_eq!(gate.take_news(), Some(refused));
}

#[test]
fn r49_an_owner_opens_a_member_when_every_earlier_key_is_shut_out_and_a_round_followed() {
    let (first, second) = (key(2, 1), key(3, 1));
    let mut device = Device {
        others: vec![first.raw(), second.raw(), key(4, 1).raw()],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([first, second], false));
    assert_eq!(run(&mut gate, &mut device, 2), []);
    let evicted: Vec<_> = gate.all_shut().collect();
    let by = ShutBy::Eviction;
    assert_eq!(evicted, [(first, by), (second, by)]);
    assert_eq!(device.others, [key(4, 1).raw()], "no other key is taken");
    let looks = [Command::ReadReservation, Command::ReadKeys];
    assert_eq!(device.log[2..], looks, "a look follows the last eviction");
    assert!(!gate.is_open());
    assert_eq!(round(&mut gate, false), None, "a round that shows a claim");
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    assert!(gate.is_open());
}

#[test]
fn r49_a_round_that_began_before_the_last_look_does_not_open_the_member() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([], false));
    gate.begin_round();
    run(&mut gate, &mut device, 2);
    gate.end_round(true);
    assert!(!gate.is_open());
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r49_a_full_list_of_charges_shuts_out_every_other_key() {
    let others: Vec<u64> = (2..=40)
        .map(|controller| key(controller, 1).raw())
        .collect();
    let mut device = Device {
        others,
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([key(2, 1)], true));
    for now_ns in 2..40 {
        run(&mut gate, &mut device, now_ns * WATCH);
    }
    assert_eq!(device.others, []);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r48_a_key_that_is_missing_is_shut_by_a_mark_or_when_d_has_passed() {
    let victim = key(2, 1);
    for marked in [true, false] {
        let mut device = Device::default();
        let mut gate = joined(SETUP, &mut device);
        gate.own_epoch(Victims::new([victim], false));
        run(&mut gate, &mut device, 2);
        assert_eq!(round(&mut gate, true), None, "a missing key is no evidence");
        if marked {
            gate.mark_shut(victim);
            run(&mut gate, &mut device, 3);
        } else {
            run(&mut gate, &mut device, 1 + SETTLE);
            assert_eq!(round(&mut gate, true), None);
            run(&mut gate, &mut device, 2 + SETTLE);
        }
        assert_eq!(round(&mut gate, true), Some(News::Opened));
        let by = match marked {
            true => ShutBy::Mark,
            false => ShutBy::Time,
        };
        assert!(gate.all_shut().eq([(victim, by)]));
    }
}

#[test]
fn r48_a_reservation_that_was_gone_begins_the_time_of_a_missing_key_anew() {
    let victim = key(2, 1);
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([victim], false));
    run(&mut gate, &mut device, 2);
    device.held = None;
    let news = run(&mut gate, &mut device, 2 + WATCH);
    assert_eq!(
        news,
        [News::Lost, News::Joined],
        "the reservation is made again"
    );
    run(&mut gate, &mut device, 2 + SETTLE);
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 2 + WATCH + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r48_a_dead_key_that_is_registered_again_closes_the_member_and_is_evicted_again() {
    let victim = key(2, 1);
    let mut device = Device {
        others: vec![victim.raw()],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([victim], false));
    run(&mut gate, &mut device, 2);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    device.others = vec![victim.raw()];
    assert_eq!(run(&mut gate, &mut device, 2 + WATCH), [News::Lost]);
    assert!(!gate.is_open());
    assert_eq!(device.others, []);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r50_an_owner_whose_key_was_removed_latches() {
    let victim = key(2, 1);
    let mut device = Device {
        others: vec![victim.raw()],
        held: Some(OURS),
        ..Device::default()
    };
    // While it evicts, and while it writes.
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([victim], false));
    device.own = 0;
    let evicted = News::Latch(Loss::Evicted);
    assert_eq!(run(&mut gate, &mut device, 2), [evicted]);
    assert!(!gate.is_joined());

    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    device.own = 0;
    gate.handle_conflict(false);
    assert!(!gate.is_joined(), "at once");
    assert_eq!(run(&mut gate, &mut device, 2), [evicted]);
    // Another incarnation joins anew.
    gate.renew(key(1, 8));
    assert_eq!(run(&mut gate, &mut device, 3), [News::Joined]);
    assert_eq!(device.own, key(1, 8).raw());
}

#[test]
fn r54_an_owner_whose_key_the_member_forgot_is_closed_first_and_opens_again() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new([], false));
    run(&mut gate, &mut device, 2);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    (device.own, device.held) = (0, None);
    let watch_ns = 2 + WATCH;
    for _ in 0..2 {
        let command = gate.poll(watch_ns, false).unwrap();
        device.answer(&mut gate, command, watch_ns);
    }
    assert_eq!(gate.take_news(), Some(News::Lost));
    assert!(!gate.is_open());
    assert_eq!(
        gate.poll(watch_ns, false),
        None,
        "not while a write may be under way"
    );
    assert_eq!(run(&mut gate, &mut device, watch_ns), [News::Joined]);
    assert!(!gate.is_open(), "a round comes first");
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_another_type_of_reservation_latches() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    device.held = Some(Held {
        kind: None,
        holder: 0,
    });
    let news = run(&mut gate, &mut device, 1 + WATCH);
    assert_eq!(news, [News::Latch(Loss::TypeChanged)]);
}

#[test]
fn r48_an_owner_takes_the_reservation_from_its_holder_before_anything_else() {
    let setup = Setup {
        kind: Kind::RegistrantsOnly,
        ..SETUP
    };
    let (holder, victim) = (key(3, 1), key(2, 1));
    let mut device = Device {
        others: vec![victim.raw(), holder.raw()],
        held: Some(Held {
            kind: Some(Kind::RegistrantsOnly),
            holder: holder.raw(),
        }),
        ..Device::default()
    };
    let mut gate = joined(setup, &mut device);
    gate.own_epoch(Victims::new([victim], false));
    run(&mut gate, &mut device, 2);
    let preempts: Vec<_> = device
        .log
        .iter()
        .filter(|command| matches!(command, Command::Preempt { .. }))
        .collect();
    let wanted = [
        &Command::Preempt { victim: holder },
        &Command::Preempt { victim },
    ];
    assert_eq!(preempts, wanted);
    assert_eq!(device.held.unwrap().holder, key(1, 7).raw());
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_a_read_that_fails_is_repeated_after_a_pause() {
    let mut gate = MemberGate::new(SETUP, key(1, 7));
    assert_eq!(gate.poll(1, true), Some(Command::ReadReservation));
    gate.handle(Answer::Doubt, 1);
    assert_eq!(
        (gate.poll(RETRY, true), gate.next_ns()),
        (None, Some(1 + RETRY))
    );
    assert_eq!(gate.poll(1 + RETRY, true), Some(Command::ReadReservation));
}

#[test]
fn r54_a_list_that_is_too_long_to_show_the_own_key_proves_nothing() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    let watch_ns = 1 + WATCH;
    assert_eq!(gate.poll(watch_ns, true), Some(Command::ReadReservation));
    gate.handle(Answer::Reservation(Some(OURS)), watch_ns);
    assert_eq!(gate.poll(watch_ns, true), Some(Command::ReadKeys));
    let mut keys = Keys::NONE;
    keys.cut();
    gate.handle(Answer::Keys(&keys), watch_ns);
    assert!(gate.is_joined());
    assert_eq!(gate.take_news(), None);
    assert_eq!(
        gate.poll(watch_ns + RETRY, true),
        Some(Command::ReadReservation)
    );
}

#[test]
fn r54_a_host_that_leaves_takes_its_key_away() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.leave();
    assert_eq!(
        gate.poll(2, false),
        None,
        "not while a write may be under way"
    );
    run(&mut gate, &mut device, 2);
    assert_eq!((device.own, gate.next_ns()), (0, None));
    let mut device = Device::default();
    let setup = Setup {
        unregisters: false,
        ..SETUP
    };
    let mut gate = joined(setup, &mut device);
    gate.leave();
    run(&mut gate, &mut device, 2);
    assert_eq!(device.own, key(1, 7).raw());
}
