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

/// A member. The gate under test is that of controller 1.
#[derive(Default)]
struct Device {
    /// The key of this host.
    own: u64,
    /// The keys of other hosts.
    others: Vec<u64>,
    held: Option<Held>,
    /// The next commands of these kinds are not carried out: they get these answers.
    wrong: Vec<(Command, Answer<'static>)>,
    /// The commands that the member got.
    log: Vec<Command>,
}

const OURS: Held = Held {
    kind: Some(Kind::AllRegistrants),
    holder: 0,
};

/// Write exclusive, registrants only, as LIO needs it.
const WERO: Setup = Setup {
    kind: Kind::RegistrantsOnly,
    ..SETUP
};

fn held_by(holder: u64) -> Held {
    Held {
        kind: Some(Kind::RegistrantsOnly),
        holder,
    }
}

impl Device {
    fn keys(&self) -> Keys {
        let own = (self.own != 0).then_some(self.own);
        own.into_iter().chain(self.others.iter().copied()).collect()
    }

    /// What the member does on a command, all but READ KEYS.
    fn carry_out(&mut self, command: Command) -> Answer<'static> {
        self.log.push(command);
        let is_wrong = |(of, _): &(Command, Answer<'static>)| *of == command;
        if let Some(at) = self.wrong.iter().position(is_wrong) {
            return self.wrong.remove(at).1;
        }
        match command {
            Command::ReadKeys => Answer::Good,
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
            (Command::ReadKeys, Answer::Good) => gate.handle(Answer::Keys(&keys), now_ns),
            (_, answer) => gate.handle(answer, now_ns),
        }
    }
}

/// Carries out at most `most` commands.
fn commands(gate: &mut MemberGate, device: &mut Device, now_ns: u64, most: usize) {
    for _ in 0..most {
        if let Some(command) = gate.poll(now_ns, true) {
            device.answer(gate, command, now_ns);
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
        news.extend(core::iter::from_fn(|| gate.take_news()));
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

/// A member on which these hosts are registered, and whose reservation stands.
fn reserved(others: &[Key]) -> Device {
    Device {
        others: others.iter().map(|key| key.raw()).collect(),
        held: Some(OURS),
        ..Device::default()
    }
}

/// A host that has joined, and has won an epoch since.
fn owner(setup: Setup, device: &mut Device, victims: Victims) -> MemberGate {
    let mut gate = joined(setup, device);
    gate.own_epoch(victims);
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
    // The member may carry the command out later. The host begins anew when that can no longer
    // happen.
    gate.handle(Answer::Doubt, 1);
    assert_eq!(gate.poll(SETTLE, true), None);
    assert_eq!(gate.next_ns(true), Some(1 + SETTLE));
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
    assert_eq!(gate.next_ns(true), Some(1 + WATCH));
}

#[test]
fn r54_a_member_that_another_program_uses_is_refused() {
    let foreign = Held {
        kind: None,
        holder: 1,
    };
    let wero = held_by(key(2, 1).raw());
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
        assert_eq!(device.own, 0, "nothing was changed");
        assert_eq!(run(&mut gate, &mut device, 1 + WATCH), [], "told once");
        assert_eq!(gate.next_ns(true), Some(1 + 2 * WATCH));
        (device.others, device.held) = (vec![], None);
        assert_eq!(run(&mut gate, &mut device, 1 + 2 * WATCH), [News::Joined]);
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
    // A key of this host would make the commands of the other one legal when that one is evicted.
    device.own = 0;
    assert_eq!(gate.next_ns(true), None);
    assert_eq!(run(&mut gate, &mut device, 1 + WATCH), []);
}

/// Another owner evicts the key of an earlier run before or after the host has seen it.
#[test]
fn r54_a_nexus_whose_earlier_key_is_evicted_meanwhile_is_not_in_use() {
    // READ RESERVATION, READ KEYS, REGISTER with the old key 0; both reads again, REGISTER with the
    // listed key.
    for commands_before in [3, 4, 5] {
        let mut device = Device {
            own: key(1, 6).raw(),
            held: Some(OURS),
            ..Device::default()
        };
        let mut gate = MemberGate::new(SETUP, key(1, 7));
        commands(&mut gate, &mut device, 1, commands_before);
        device.own = 0;
        assert_eq!(run(&mut gate, &mut device, 1), []);
        let again_ns = gate.next_ns(true).expect("the host looks again");
        assert!(again_ns > 1, "after a pause");
        assert_eq!(run(&mut gate, &mut device, again_ns), [News::Joined]);
    }
}

#[test]
fn r54_writes_that_conflict_although_the_key_is_listed_are_mended_once() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.handle_conflict();
    assert_eq!(run(&mut gate, &mut device, 2), [News::Joined]);
    let unregister = Command::Register {
        old: key(1, 7).raw(),
        new: 0,
    };
    assert_eq!(device.log[2], unregister, "after a look");
    gate.handle_conflict();
    let refused = News::Refused(Refusal::WritesRefused);
    assert_eq!(run(&mut gate, &mut device, 2), [refused]);
}

#[test]
fn r49_an_owner_opens_a_member_when_every_earlier_key_is_shut_out_and_a_round_followed() {
    let (first, second) = (key(2, 1), key(3, 1));
    let mut device = Device {
        others: vec![first.raw(), second.raw(), key(4, 1).raw()],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = owner(SETUP, &mut device, Victims::new([first, second], false));
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
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
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
    let mut gate = owner(SETUP, &mut device, Victims::new([key(2, 1)], true));
    commands(&mut gate, &mut device, 2, 120);
    assert_eq!(device.others, [], "without a wait for the next watch");
    // A charged term may be missing in the list.
    assert_eq!(round(&mut gate, true), None, "D comes first");
    run(&mut gate, &mut device, 2 + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r48_a_key_that_is_missing_is_shut_by_a_mark_or_when_d_has_passed() {
    let victim = key(2, 1);
    for marked in [true, false] {
        let mut device = Device::default();
        let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
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
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
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
fn r48_a_key_that_was_shut_out_and_is_registered_again_closes_the_member_and_is_evicted_again() {
    let victim = key(2, 1);
    let mut device = reserved(&[victim]);
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
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
    let mut device = reserved(&[victim]);
    // The first host finds out by a PREEMPT, the second by a write.
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    device.own = 0;
    let evicted = News::Latch(Loss::Evicted);
    assert_eq!(run(&mut gate, &mut device, 2), [evicted]);
    assert!(!gate.is_joined());

    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    device.own = 0;
    gate.handle_conflict();
    assert!(!gate.is_joined(), "at once");
    assert_eq!(run(&mut gate, &mut device, 2), [evicted]);
    // Another incarnation joins anew.
    gate.renew(key(1, 8));
    assert_eq!(run(&mut gate, &mut device, 3), [News::Joined]);
    assert_eq!(device.own, key(1, 8).raw());
}

#[test]
fn r54_a_member_that_forgot_the_owners_key_is_closed_first_and_opened_d_later() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
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
    // Writes of evicted hosts were accepted while there was no reservation.
    assert_eq!(round(&mut gate, true), None, "D comes first");
    assert_eq!(gate.next_ns(true), Some(watch_ns + WATCH));
    run(&mut gate, &mut device, watch_ns + WATCH);
    assert_eq!(gate.next_ns(true), Some(watch_ns + SETTLE));
    run(&mut gate, &mut device, watch_ns + SETTLE);
    assert!(!gate.is_open(), "a round comes first");
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_another_type_of_reservation_latches() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
    run(&mut gate, &mut device, 2);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    device.held = Some(Held {
        kind: None,
        holder: 0,
    });
    let news = run(&mut gate, &mut device, 2 + WATCH);
    assert_eq!(news, [News::Lost, News::Latch(Loss::TypeChanged)]);
    assert!(!gate.is_open());
    assert_eq!(gate.next_ns(true), None);
}

#[test]
fn r48_an_owner_takes_the_reservation_from_its_holder_before_anything_else() {
    let (holder, victim) = (key(3, 1), key(2, 1));
    let mut device = Device {
        others: vec![victim.raw(), holder.raw()],
        held: Some(held_by(holder.raw())),
        ..Device::default()
    };
    let mut gate = owner(WERO, &mut device, Victims::new([victim], false));
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
        (gate.poll(RETRY, true), gate.next_ns(true)),
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
    assert_eq!((device.own, gate.next_ns(true)), (0, None));
    assert!(gate.has_left());
    let mut device = Device::default();
    let setup = Setup {
        unregisters: false,
        ..SETUP
    };
    let mut gate = joined(setup, &mut device);
    gate.leave();
    run(&mut gate, &mut device, 2);
    assert_eq!(device.own, key(1, 7).raw());
    assert!(gate.has_left());
}

#[test]
fn r54_a_holder_that_leaves_keeps_its_key() {
    let mut device = Device {
        own: key(1, 7).raw(),
        held: Some(held_by(key(1, 7).raw())),
        ..Device::default()
    };
    let mut gate = joined(WERO, &mut device);
    gate.leave();
    run(&mut gate, &mut device, 2);
    assert_eq!(device.own, key(1, 7).raw(), "the reservation stays");
}

#[test]
fn r51_a_command_in_doubt_of_the_former_key_delays_the_next_register() {
    let victim = key(2, 1);
    let mut device = reserved(&[victim]);
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    assert_eq!(gate.poll(2, true), Some(Command::Preempt { victim }));
    gate.renew(key(1, 8));
    assert_eq!(gate.poll(3, true), None, "one command at a time");
    gate.handle(Answer::Doubt, 3);
    assert_eq!(gate.poll(2 + SETTLE, true), None);
    assert_eq!(gate.next_ns(true), Some(3 + SETTLE));
    assert_eq!(gate.next_ns(false), None, "an event tells when it is quiet");
    run(&mut gate, &mut device, 3 + SETTLE);
    assert_eq!(device.own, key(1, 8).raw());
}

#[test]
fn r48_what_was_asked_before_the_decision_is_no_evidence() {
    let victim = key(2, 1);
    let preempt = Command::Preempt { victim };
    let mut device = reserved(&[victim]);
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    assert_eq!(gate.poll(2, true), Some(preempt));
    gate.own_epoch(Victims::new([victim], false));
    gate.handle(Answer::Good, 2);
    assert_eq!(gate.all_shut().count(), 0);
    assert_eq!(gate.poll(2, true), Some(preempt));
}

#[test]
fn r49_a_look_that_began_before_the_decision_does_not_count() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    let watch_ns = 1 + WATCH;
    assert_eq!(gate.poll(watch_ns, true), Some(Command::ReadReservation));
    gate.own_epoch(Victims::new([], false));
    device.answer(&mut gate, Command::ReadReservation, watch_ns);
    device.held = None;
    let news = run(&mut gate, &mut device, watch_ns);
    assert_eq!(news, [News::Lost, News::Joined]);
    assert_eq!(round(&mut gate, true), None);
}

#[test]
fn r48_a_missing_key_is_shut_out_only_by_a_look_that_began_after_d() {
    let victim = key(2, 1);
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    run(&mut gate, &mut device, 2);
    // A look from before D that is answered after D.
    let watch_ns = 2 + WATCH;
    let command = gate.poll(watch_ns, true).unwrap();
    device.answer(&mut gate, command, watch_ns);
    let command = gate.poll(watch_ns, true).unwrap();
    device.answer(&mut gate, command, 3 + SETTLE);
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 3 + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r48_the_own_key_is_never_evicted_and_its_earlier_term_ends_within_d() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([key(1, 7)], false));
    assert_eq!(run(&mut gate, &mut device, 2), []);
    assert_eq!(device.own, key(1, 7).raw());
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 2 + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r49_more_charged_keys_than_places_are_all_shut_out() {
    let charged: Vec<Key> = (2..=21).map(|controller| key(controller, 1)).collect();
    let last = key(21, 1).raw();
    let mut device = Device {
        others: vec![last],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = joined(SETUP, &mut device);
    gate.own_epoch(Victims::new(charged, false));
    for now_ns in [2, 2 + WATCH, 2 + SETTLE] {
        assert_eq!(round(&mut gate, true), None);
        run(&mut gate, &mut device, now_ns);
    }
    assert_eq!(device.others, []);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_a_controller_that_joins_after_the_decision_is_not_evicted() {
    let mut device = Device {
        others: vec![key(2, 1).raw()],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = owner(SETUP, &mut device, Victims::new([], true));
    run(&mut gate, &mut device, 2);
    assert_eq!(device.others, []);
    device.others = vec![key(2, 2).raw()];
    run(&mut gate, &mut device, 2 + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    assert_eq!(run(&mut gate, &mut device, 2 + 2 * SETTLE), []);
    assert_eq!(device.others, [key(2, 2).raw()]);
}

#[test]
fn r49_keys_that_a_list_does_not_show_keep_the_member_closed() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], true));
    let mut keys = device.keys();
    keys.cut();
    for now_ns in [2, 3 + SETTLE] {
        assert_eq!(gate.poll(now_ns, true), Some(Command::ReadReservation));
        gate.handle(Answer::Reservation(Some(OURS)), now_ns);
        assert_eq!(gate.poll(now_ns, true), Some(Command::ReadKeys));
        gate.handle(Answer::Keys(&keys), now_ns);
        assert_eq!(gate.poll(now_ns, true), None, "a pause follows");
        assert_eq!(round(&mut gate, true), None);
    }
    run(&mut gate, &mut device, 3 + 2 * SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r48_an_owner_that_does_not_hold_the_reservation_opens_no_member() {
    let third = key(3, 1);
    let mut device = Device {
        own: key(1, 7).raw(),
        held: Some(held_by(third.raw())),
        ..Device::default()
    };
    let mut gate = owner(WERO, &mut device, Victims::new([], false));
    // The holder's key is not listed: most likely it was removed between the two reads, as when
    // another host takes the reservation.
    assert_eq!(run(&mut gate, &mut device, 2), []);
    assert_eq!(round(&mut gate, true), None);
    assert_eq!(gate.next_ns(true), Some(2 + RETRY));
    device.others = vec![third.raw()];
    run(&mut gate, &mut device, 2 + RETRY);
    assert_eq!(device.held.unwrap().holder, key(1, 7).raw());
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    // A holder of another program.
    device.held = Some(held_by(1));
    let changed = News::Latch(Loss::TypeChanged);
    let news = run(&mut gate, &mut device, 2 + RETRY + WATCH);
    assert_eq!(news, [News::Lost, changed]);
}

#[test]
fn r50_a_conflict_of_the_first_write_of_a_key_that_is_gone_latches() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    device.own = 0;
    gate.handle_conflict();
    let evicted = News::Latch(Loss::Evicted);
    assert_eq!(run(&mut gate, &mut device, 2), [evicted]);
    assert_eq!(device.own, 0, "not registered under the same key again");
}

#[test]
fn r50_a_conflict_that_follows_the_loss_of_the_key_latches() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    device.own = 0;
    for _ in 0..2 {
        let command = gate.poll(1 + WATCH, false).unwrap();
        device.answer(&mut gate, command, 1 + WATCH);
    }
    assert_eq!(gate.take_news(), Some(News::Lost));
    gate.handle_conflict();
    let evicted = News::Latch(Loss::Evicted);
    assert_eq!(run(&mut gate, &mut device, 1 + WATCH), [evicted]);
}

#[test]
fn r50_a_conflict_after_a_write_that_succeeded_latches() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    gate.wrote();
    gate.handle_conflict();
    let lost = News::Latch(Loss::ReservationLost);
    assert_eq!(run(&mut gate, &mut device, 2), [lost]);
}

#[test]
fn r54_a_key_that_must_stay_is_not_taken_away_to_mend_writes() {
    let nvme = Setup {
        unregisters: false,
        ..SETUP
    };
    let own = key(1, 7).raw();
    for (setup, held) in [(nvme, OURS), (WERO, held_by(own))] {
        let mut device = Device {
            own,
            held: Some(held),
            ..Device::default()
        };
        let mut gate = joined(setup, &mut device);
        gate.handle_conflict();
        let refused = News::Refused(Refusal::WritesRefused);
        assert_eq!(run(&mut gate, &mut device, 2), [refused]);
        assert_eq!(device.own, own);
    }
}

#[test]
fn r54_a_reservation_that_cannot_be_made_is_tried_again_after_a_pause() {
    for answer in [Answer::Good, Answer::Conflict] {
        let mut device = Device {
            wrong: vec![(Command::Reserve, answer)],
            ..Device::default()
        };
        let mut gate = MemberGate::new(SETUP, key(1, 7));
        assert_eq!(run(&mut gate, &mut device, 1), []);
        assert_eq!(gate.next_ns(true), Some(1 + RETRY));
        assert_eq!(run(&mut gate, &mut device, 1 + RETRY), [News::Joined]);
    }
}

#[test]
fn r54_a_read_that_is_refused_is_repeated_after_a_pause() {
    for command in [Command::ReadReservation, Command::ReadKeys] {
        let mut device = Device {
            wrong: vec![(command, Answer::Conflict)],
            ..Device::default()
        };
        let mut gate = MemberGate::new(SETUP, key(1, 7));
        assert_eq!(run(&mut gate, &mut device, 1), []);
        assert_eq!(gate.next_ns(true), Some(1 + RETRY));
        assert_eq!(run(&mut gate, &mut device, 1 + RETRY), [News::Joined]);
    }
}

#[test]
fn r54_a_key_that_is_missing_after_a_good_register_is_registered_again_after_a_pause() {
    let register = Command::Register {
        old: 0,
        new: key(1, 7).raw(),
    };
    let mut device = Device {
        wrong: vec![(register, Answer::Good)],
        held: Some(OURS),
        ..Device::default()
    };
    let mut gate = MemberGate::new(SETUP, key(1, 7));
    assert_eq!(run(&mut gate, &mut device, 1), []);
    assert_eq!(gate.next_ns(true), Some(1 + RETRY));
    assert_eq!(run(&mut gate, &mut device, 1 + RETRY), [News::Joined]);
}

#[test]
fn r54_a_host_whose_session_is_new_joins_again_when_its_evictions_conflict() {
    let victim = key(2, 1);
    let preempt = Command::Preempt { victim };
    let mut device = Device {
        others: vec![victim.raw()],
        held: Some(OURS),
        wrong: vec![(preempt, Answer::Conflict); 2],
        ..Device::default()
    };
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    assert_eq!(run(&mut gate, &mut device, 2), []);
    assert!(gate.is_joined(), "a conflict is no eviction");
    // The own key is still listed for the earlier session. This one has none.
    device.others.push(key(1, 7).raw());
    device.own = 0;
    let news = run(&mut gate, &mut device, 2 + RETRY);
    assert_eq!(news, [News::Lost]);
    let news = run(&mut gate, &mut device, 2 + 2 * RETRY);
    assert_eq!(news, [News::Joined]);
    assert_eq!(device.own, key(1, 7).raw());
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_a_path_that_changes_makes_the_watch_due() {
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    assert_eq!(gate.poll(2, true), None);
    gate.look_soon();
    assert!(gate.next_ns(true).is_some_and(|at_ns| at_ns <= 2));
    assert_eq!(gate.poll(2, true), Some(Command::ReadReservation));
}

#[test]
fn r54_a_host_that_leaves_while_it_registers_takes_that_key_away() {
    let mut device = Device::default();
    let mut gate = MemberGate::new(SETUP, key(1, 7));
    for _ in 0..2 {
        let command = gate.poll(1, true).unwrap();
        device.answer(&mut gate, command, 1);
    }
    let register = gate.poll(1, true).unwrap();
    gate.leave();
    device.answer(&mut gate, register, 1);
    assert!(!gate.has_left());
    run(&mut gate, &mut device, 1);
    assert_eq!(device.own, 0);
    assert!(gate.has_left());
}

#[test]
fn r54_a_term_after_a_forgotten_reservation_waits_for_d() {
    // The host was a secondary when it found the reservation missing.
    let mut device = Device::default();
    let mut gate = joined(SETUP, &mut device);
    (device.own, device.held) = (0, None);
    let news = run(&mut gate, &mut device, 1 + WATCH);
    assert_eq!(news, [News::Lost, News::Joined]);
    gate.own_epoch(Victims::new([], false));
    run(&mut gate, &mut device, 2 + WATCH);
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 1 + WATCH + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    // A new incarnation that has to make the reservation waits for D as well.
    gate.renew(key(1, 8));
    (device.own, device.held) = (0, None);
    run(&mut gate, &mut device, 2 * SETTLE);
    gate.own_epoch(Victims::new([], false));
    run(&mut gate, &mut device, 2 * SETTLE + 1);
    assert_eq!(round(&mut gate, true), None);
}

#[test]
fn r54_a_round_opens_no_member_whose_reservation_was_read_as_missing() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
    run(&mut gate, &mut device, 2);
    gate.begin_round();
    device.held = None;
    let command = gate.poll(2 + WATCH, true).unwrap();
    device.answer(&mut gate, command, 2 + WATCH);
    gate.end_round(true);
    assert!(!gate.is_open());
    assert_eq!(gate.take_news(), None);
}

#[test]
fn r54_news_that_nobody_takes_for_a_while_is_not_lost() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
    run(&mut gate, &mut device, 2);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    device.held = None;
    commands(&mut gate, &mut device, 2 + WATCH, 20);
    assert_eq!(gate.take_news(), Some(News::Lost));
    assert_eq!(gate.take_news(), Some(News::Joined));
    assert_eq!(gate.take_news(), None);
}

#[test]
fn r48_a_preempt_in_doubt_is_no_evidence() {
    let victim = key(2, 1);
    let preempt = Command::Preempt { victim };
    let mut device = Device {
        held: Some(OURS),
        others: vec![victim.raw()],
        wrong: vec![(preempt, Answer::Doubt)],
        ..Device::default()
    };
    let mut gate = owner(SETUP, &mut device, Victims::new([victim], false));
    run(&mut gate, &mut device, 2);
    // The member has removed the key, and has not ended the commands.
    device.others.clear();
    run(&mut gate, &mut device, 2 + RETRY);
    assert_eq!(gate.all_shut().count(), 0);
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 2 + RETRY + SETTLE);
    assert!(gate.all_shut().eq([(victim, ShutBy::Time)]));
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r54_a_host_whose_key_alone_is_gone_opens_the_member_by_a_round_after_register() {
    let mut device = Device::default();
    let mut gate = owner(SETUP, &mut device, Victims::new([], false));
    run(&mut gate, &mut device, 2);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
    device.own = 0;
    gate.begin_round();
    let news = run(&mut gate, &mut device, 2 + WATCH);
    assert_eq!(news, [News::Lost, News::Joined]);
    gate.end_round(true);
    assert!(!gate.is_open(), "that round began before REGISTER");
    // Another host may have made the reservation again, and there was none before.
    assert_eq!(round(&mut gate, true), None, "D comes first");
    run(&mut gate, &mut device, 2 + WATCH + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}

#[test]
fn r49_a_member_stays_closed_while_one_of_its_victims_may_have_commands() {
    let (listed, missing) = (key(2, 1), key(3, 1));
    let mut device = reserved(&[listed]);
    let mut gate = owner(SETUP, &mut device, Victims::new([listed, missing], false));
    run(&mut gate, &mut device, 2);
    assert!(gate.all_shut().eq([(listed, ShutBy::Eviction)]));
    run(&mut gate, &mut device, 2 + WATCH);
    assert_eq!(round(&mut gate, true), None);
    run(&mut gate, &mut device, 2 + SETTLE);
    assert_eq!(round(&mut gate, true), Some(News::Opened));
}
