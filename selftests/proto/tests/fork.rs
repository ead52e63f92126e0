// SPDX-License-Identifier: GPL-2.0
//! A host is copied with its memory (a virtual host that is resumed twice from one memory
//! snapshot, a migration whose source goes on), or is put back to an earlier memory snapshot [R58].
//!
//! The hosts here have no simulated gate and no monitor: what a copy does to the lease that it
//! remembers is the question, and it is asked of the clock of each host directly.

mod world;

use dm_lease_proto::proto::controller::{Action, Controller, GateChange, Notice};
use dm_lease_proto::proto::words::status::Role;
use std::cell::RefCell;
use std::rc::Rc;
use world::bare::{self, blank, clocks, transfer, Ended};
use world::MS;

type Disks = Rc<RefCell<bare::Disks>>;

/// A host: the shipped controller, its gate as epoch and expiry, and a clock that is so far
/// behind true time.
#[derive(Clone)]
struct Vm {
    name: &'static str,
    slot: usize,
    controller: Controller,
    behind_ns: u64,
    phase_ns: u64,
    gate: Option<(u64, u64)>,
    ended: Vec<Ended>,
    disks: Disks,
    log: Vec<String>,
}

impl Vm {
    fn boot(name: &'static str, index: u8, inc: u128, phase_ns: u64, disks: &Disks) -> Self {
        Vm {
            name,
            slot: index.into(),
            controller: bare::controller(index, inc, 0, true),
            behind_ns: 0,
            phase_ns,
            gate: None,
            ended: vec![],
            disks: disks.clone(),
            log: vec![],
        }
    }

    fn step(&mut self, true_ns: u64) {
        let now = true_ns - self.behind_ns;
        self.controller.handle_clocks(clocks(now, 0));
        for ended in std::mem::take(&mut self.ended) {
            ended.tell(&mut self.controller, now);
            self.drain(true_ns);
        }
        if true_ns % (100 * MS) == self.phase_ns {
            self.controller.handle_tick(now);
            self.drain(true_ns);
        }
        if self
            .controller
            .poll_timeout_ns()
            .is_some_and(|at| at <= now)
        {
            self.controller.handle_timeout(now);
            self.drain(true_ns);
        }
    }

    fn drain(&mut self, true_ns: u64) {
        while let Some(action) = self.controller.poll_action() {
            match action {
                Action::Gate(GateChange::OpenEpoch { epoch, expiry_ns }) => {
                    self.gate = Some((epoch, expiry_ns))
                }
                Action::Gate(GateChange::Extend { from_ns, to_ns }) => {
                    if let Some((_, expiry)) = self.gate.as_mut().filter(|g| g.1 == from_ns) {
                        *expiry = to_ns;
                    }
                }
                Action::Gate(GateChange::Latch) => self.gate = None,
                Action::Io(io) => {
                    let ended = transfer(&mut self.disks.borrow_mut(), self.slot, io, 0);
                    self.ended.push(ended);
                }
                Action::Report(Notice::Transition(t)) => {
                    let line = format!(
                        "{:9} ms  {}: {} -> {}, epoch {}, {}",
                        true_ns / MS,
                        self.name,
                        t.from,
                        t.to,
                        t.epoch,
                        t.reason.token()
                    );
                    self.log.push(line);
                }
                Action::Gate(GateChange::SetLimit(_))
                | Action::Report(
                    Notice::Budget(_)
                    | Notice::Unreadable(_)
                    | Notice::Heartbeat(_)
                    | Notice::Outdated { .. }
                    | Notice::WentBack { .. },
                )
                | Action::Answer(_) => {}
            }
        }
    }

    fn is_valid(&self, true_ns: u64) -> bool {
        self.gate
            .is_some_and(|(_, expiry)| true_ns - self.behind_ns < expiry)
    }

    fn is_idle(&self) -> bool {
        self.ended.is_empty()
    }
}

/// Runs hosts for so long. Returns for how long two gates were open at once, and the names of
/// the hosts whose gate is open at the end.
fn run(vms: &mut [Vm], now: &mut u64, for_ns: u64) -> (u64, Vec<&'static str>) {
    let (end, mut both) = (*now + for_ns, 0);
    while *now < end {
        *now += MS;
        vms.iter_mut().for_each(|vm| vm.step(*now));
        both += u64::from(vms.iter().filter(|vm| vm.is_valid(*now)).count() > 1);
    }
    (
        both,
        vms.iter()
            .filter(|vm| vm.is_valid(*now))
            .map(|vm| vm.name)
            .collect(),
    )
}

fn setting() -> (Vec<Vm>, u64) {
    let disks: Disks = Rc::new(RefCell::new(blank()));
    let mut vms = vec![
        Vm::boot("vm1", 0, 11, 10 * MS, &disks),
        Vm::boot("vm2", 1, 22, 60 * MS, &disks),
    ];
    let mut now = 0;
    run(&mut vms, &mut now, 5_000 * MS);
    assert_eq!(vms[0].controller.role(), Role::Owner);
    while !vms[0].is_idle() {
        run(&mut vms, &mut now, MS);
    }
    (vms, now)
}

/// The copy goes on beside the original, its clock behind by as long as it stood still.
fn fork(behind_ms: u64, phase_ms: u64) {
    let (mut vms, mut now) = setting();
    let mut copy = vms[0].clone();
    copy.name = "vm1-copy";
    run(&mut vms, &mut now, behind_ms * MS);
    copy.behind_ns = behind_ms * MS;
    copy.phase_ns = phase_ms * MS;
    vms.push(copy);
    let (both, open) = run(&mut vms, &mut now, 60_000 * MS);
    assert!(
        both < 1_000 && open.len() < 2,
        "FAULT: two hosts own for {both} ms"
    );
}

#[test]
fn r58_a_copy_that_goes_on_at_once() {
    fork(0, 40);
}

#[test]
fn r58_a_copy_in_step_with_its_original_whose_clock_differs_by_a_millisecond() {
    fork(1, 10);
}

#[test]
fn r58_a_copy_that_goes_on_ten_seconds_later() {
    fork(10_000, 40);
}

#[test]
fn r58_a_copy_of_a_secondary() {
    let (mut vms, mut now) = setting();
    let mut copy = vms[1].clone();
    copy.name = "vm2-copy";
    copy.phase_ns = 90 * MS;
    vms.push(copy);
    run(&mut vms, &mut now, 3_000 * MS);
    vms.remove(0);
    let (both, open) = run(&mut vms, &mut now, 60_000 * MS);
    assert!(
        both == 0 && open.len() < 2,
        "FAULT: two hosts own for {both} ms"
    );
}

/// The snapshot is of 30 s ago, when the host owned; no other host owned since.
#[test]
fn r58_put_back_to_an_earlier_snapshot() {
    let (mut vms, mut now) = setting();
    let mut old = vms[0].clone();
    old.name = "vm1-reverted";
    run(&mut vms, &mut now, 30_000 * MS);
    old.behind_ns = 30_000 * MS;
    old.phase_ns = 40 * MS;
    vms[0] = old;
    let (first, _) = run(&mut vms, &mut now, 300 * MS);
    let (both, _) = run(&mut vms, &mut now, 20_000 * MS);
    assert!(first + both == 0, "FAULT: two hosts own for {both} ms");
}
