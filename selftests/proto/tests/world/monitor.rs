// SPDX-License-Identifier: GPL-2.0
//! The judge of a simulated run: sees true time and every host, believes none of them.
//!
//! | check | when |
//! |---|---|
//! | S1: no two gates valid at one true instant | after every event |
//! | S1': no valid lease of e once e + 1 is decided | after every event |
//! | S1'': a takeover after silence comes D after the old lease was last valid | first lease |
//! | S3: one value for each epoch, one lease-holder for each epoch, epochs increase | every event |
//! | rule 4: expiry is the previous stamp + L, after a majority of writes, then reads | heartbeat |
//! | the expiry in a gate moves by rule 4 only | every event |
//! | no operation is admitted without a valid lease | the gate itself, checked by S1 |
//! | S2: what may land, or landed, unrepaired is never more than redundancy repairs | every event |
//! | S4: no stray is acknowledged; what was acknowledged is overwritten by later writes and by
//! strays alone; nothing that landed within D of its permit is a stray | landing, acknowledgement |
//! | R15, R47: each report is new, and begins where the last one ended | report |
//! | R14: a gate opens, or its limit rises, when a majority carries a limit as high in both blocks,
//! and no write that was reported as lost can take it back | both |
//! | R35: no ballot takes a promise back | ballot write |
//! | R21: the limit in an owner's record is at least its number of open permits | ballot write |
//! | R21: nothing of a term is under way when its charge is dropped | `repaired` |
//! | R21: what is under way or landed of earlier terms is charged | first lease |
//! | R21: a new owner counts with as many failed members as the last one | first lease |
//! | R15: a risk that was accepted in an earlier term admits nothing | admission |
//! | R58: only a member that forgot something is said to have gone back | alarm |
//!
//! If a host is copied with its memory, or put back to an earlier memory, it holds a lease that it
//! remembers and has no right to. Until that lease ends, the rules above are checked for the other
//! hosts only; afterwards they are checked for all hosts. Of a host and its copy, at most one
//! extends the lease. R14 and R35 are not checked for the slot of such a host: before its next
//! read the host may overwrite a record of its later life, or of its copy, in one block of each
//! member.

use super::{Config, Host, Payload, What};
use dm_lease_proto::proto::clocks::LEAP_NS;
use dm_lease_proto::proto::codec::ballot::BallotRecord;
use dm_lease_proto::proto::codec::heartbeat::RecordRole;
use dm_lease_proto::proto::codec::ids::{Ballot, Decided, Value};
use dm_lease_proto::proto::controller::{
    Action, Budget, Command, GateChange, Heartbeat, Notice, Outcome, Transition,
};
use dm_lease_proto::proto::gate::lanes::UNLIMITED;
use dm_lease_proto::proto::time::majority;
use dm_lease_proto::proto::words::status::{Reason, Role};
use std::collections::BTreeMap;

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
}

/// Numbers that are added up over runs, by name.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What happened in a run, to see that something did.
        #[derive(Clone, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
            /// Demotions and claims that came to nothing, by reason.
            pub reasons: BTreeMap<&'static str, u64>,
        }

        impl Stats {
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)+
                for (reason, count) in &other.reasons {
                    *self.reasons.entry(reason).or_default() += count;
                }
            }

            /// All of them, in the order in which they are printed.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                let mut all = vec![$((stringify!($name), self.$name),)+];
                all.extend(self.reasons.iter().map(|(reason, count)| (*reason, *count)));
                all
            }
        }
    };
}

counters! {
    runs,
    simulated_ms,
    /// Heartbeats that any controller began to write, and those that reached a majority [R3].
    tried,
    succeeded,
    /// Of those the ones of owners that were also read back, so that they count for the lease.
    heartbeats,
    leases,
    takeovers,
    releases,
    /// Reports of changes of what an owner may have open [R15].
    budgets,
    /// Operations of users that got a permit, and what became of them.
    granted,
    acknowledged,
    not_acknowledged,
    /// Operations that landed in the term of a later owner, and acknowledged writes under them.
    strays,
    overwritten,
    /// Leases of owners that are charged for others, charges dropped, and refusals to drop them.
    charged,
    repaired,
    not_drained,
    /// False `confirm_dead` commands of operators: those that were accepted, and those that were
    /// refused.
    wrong_words,
    refused_words,
    /// Risks that were taken, and leases of owners that count with failed members.
    risks,
    degraded,
    /// Faults; see [`super::Faults`].
    stalls,
    crashes,
    errors,
    error_landed,
    torn,
    half,
    late,
    slow,
    broken,
    power_cuts,
    sleeps,
    steered,
    exchanged,
    /// Heartbeats that a member acknowledged and forgot.
    reverted,
    /// Members that were put back, controllers that noticed one, copies of hosts, and hosts
    /// that withdrew.
    rewound,
    alarms,
    copies,
    withdrew,
    /// Owners that were copied; hosts that were put back to a snapshot of their memory, and how
    /// many of those remembered a lease; hosts that noticed a copy [R58]; forks that a host was
    /// told of.
    copied_owners,
    put_back,
    put_back_owners,
    noticed,
    told_copied,
    /// Members that were replaced, and those of them while a controller owned; former disks that
    /// hosts found, and those that were dropped.
    replaced,
    replaced_owned,
    returned,
    outdated,
    /// Reads that brought what was no longer there when they completed.
    old_reads,
}

impl Stats {
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.token()).copied().unwrap_or(0)
    }
}

/// One heartbeat of an owner, as the members saw it.
#[derive(Clone, Debug, Default)]
struct Beat {
    first_issue_local_ns: u64,
    written: u16,
    majority_true_ns: Option<u64>,
}

/// A promise, in the order in which promises grow.
type Promised = (u64, Ballot, Ballot);

fn promised(record: &BallotRecord) -> Promised {
    (record.dec.epoch, record.mbal, record.bal)
}

/// What one ballot register on one member was made to say.
#[derive(Clone, Debug, Default)]
struct Counted {
    last: Option<Promised>,
    /// The decided epoch and the limit that each of the last two writes said, if both succeeded,
    /// one after the other: so much is in both blocks.
    limits: [Option<(u64, u32)>; 2],
    /// Likewise the decided epoch and the number of failed members.
    failed: [Option<(u64, u32)>; 2],
    /// Writes that were reported as lost: until when each may still land, and the epoch and limit
    /// that it says.
    doubts: Vec<(u64, (u64, u32))>,
    twice: Option<Promised>,
}

impl Counted {
    /// A write that says this much has come to its end.
    fn wrote(&mut self, says: (u64, u32), ok: bool, now_ns: u64, delay_ns: u64) {
        if ok {
            self.limits = [self.limits[1], Some(says)];
            return;
        }
        self.limits = [None; 2];
        self.doubts.retain(|(until_ns, _)| *until_ns > now_ns);
        self.doubts.push((now_ns + delay_ns, says));
    }

    /// Whether a reader finds this epoch with a limit as high, whatever may still land.
    fn says(&self, epoch: u64, limit: u32, now_ns: u64) -> bool {
        let enough = |(of, most): (u64, u32)| of == epoch && most >= limit;
        let mut doubts = self
            .doubts
            .iter()
            .filter(|(until_ns, _)| *until_ns > now_ns);
        self.limits.iter().all(|it| it.is_some_and(enough)) && doubts.all(|it| enough(it.1))
    }
}

/// What is remembered of one host.
#[derive(Clone, Debug, Default)]
struct Track {
    life: u32,
    /// Of the present epoch, by number.
    beats: BTreeMap<(u64, u64), Beat>,
    /// The last heartbeat judged a success: epoch and stamp.
    previous: Option<(u64, u64)>,
    /// The end of the lease that the gate got last; `None` once it was latched.
    extended_to_ns: Option<u64>,
    /// The heartbeat that is being written: the members it was sent to (`sent`), its sequence
    /// number on each of them (`seqs`), and the members that have acknowledged it (`kept`).
    sent: u16,
    seqs: [u64; 16],
    kept: u16,
    /// For each member when the last read that succeeded was issued, true time.
    read_issued: [u64; 16],
    /// Until when the gate is valid, or was, true time, and for which epoch.
    valid_until_ns: u64,
    epoch: u64,
    /// What it knows to be decided.
    decided: Option<Decided>,
    /// The last report: role and epoch, and since then what an owner may have open.
    told: Option<(Role, u64)>,
    told_budget: Option<Budget>,
    /// The number of failed members that a majority carried when it judged its last heartbeat.
    failed: Option<u32>,
    /// The decided epoch in which the host itself last got a `degraded` command.
    word_in: Option<u64>,
}

impl Track {
    /// Notes that a heartbeat is written to a member. Returns whether a new heartbeat begins: a
    /// member gets each heartbeat only once.
    fn sends(&mut self, member: u8, seq: u64) -> bool {
        let (bit, at) = (1 << member, usize::from(member));
        let begins = self.sent & bit != 0 || self.sent == 0;
        if begins {
            (self.sent, self.kept) = (0, 0);
        }
        self.sent |= bit;
        self.seqs[at] = seq;
        begins
    }

    /// Notes that a member has acknowledged the heartbeat. Returns whether this completed a
    /// majority.
    fn keeps(&mut self, member: u8, seq: u64, majority: u8) -> bool {
        let (bit, at) = (1 << member, usize::from(member));
        if self.sent & bit == 0 || self.seqs[at] != seq || self.kept & bit != 0 {
            return false;
        }
        self.kept |= bit;
        self.kept.count_ones() == u32::from(majority)
    }
}

/// An operation of a user that may still land: the epoch that admitted it, and when.
#[derive(Clone, Copy, Debug)]
struct Open {
    epoch: u64,
    from_ns: u64,
    /// Its host had a lease that it only remembered.
    is_void: bool,
    /// It was admitted without a limit, because an operator had accepted the risk, and no limit
    /// has covered it since.
    is_risked: bool,
}

/// What a block of the users' data says: whose write, of which epoch. Each write is unique.
#[derive(Clone, Copy, Debug)]
struct Written {
    host: usize,
    op: u64,
    epoch: u64,
    is_stray: bool,
    is_acknowledged: bool,
    /// Its host had a lease that it only remembered.
    is_void: bool,
    /// It was admitted without a limit, because an operator had accepted the risk, and no limit
    /// has covered it since.
    is_risked: bool,
}

/// Blocks of users' data: few, so that owners overwrite each other's.
const BLOCKS: usize = 16;

fn block(op: u64) -> usize {
    op as usize % BLOCKS
}

/// Sees everything.
pub struct Monitor {
    members: u8,
    slot_of: Vec<u8>,
    /// For each slot and member the promise that is in both blocks.
    promised: Vec<[Counted; 16]>,
    lease_ns: u64,
    delay_ns: u64,
    tracks: Vec<Track>,
    /// What each epoch was decided to be.
    decided: BTreeMap<u64, Value>,
    highest: u64,
    /// The leases in their order: epoch, host, true time.
    pub leases: Vec<(u64, usize, u64)>,
    /// Epochs that ended by command, so that no controller waits for the window.
    told: Vec<u64>,
    /// Operations that may still land, by host and number.
    open: BTreeMap<(usize, u64), Open>,
    /// Operations that have landed, and whose users know nothing yet.
    landed: BTreeMap<(usize, u64), Written>,
    medium: [Option<Written>; BLOCKS],
    /// Strays that are not repaired: the epoch of each, and whether it was risked.
    spoilt: Vec<(u64, bool)>,
    /// How many strays redundancy repairs; `None` if there is no limit.
    repairable: Option<usize>,
    /// Epochs in which an operator let operations go on beyond that.
    risked: Vec<u64>,
    /// For each epoch the number of failed members that a majority carried when the owner began a
    /// heartbeat that succeeded: every later owner must find it.
    told_failed: BTreeMap<u64, u32>,
    /// Whether every clock runs within the bound: S1 by time alone needs it.
    pub clocks_are_sound: bool,
    /// For each host that was put back to a snapshot of its memory: when the lease ends that it
    /// remembers, and when its last own lease ended.
    remembered_until_ns: Vec<u64>,
    own_until_ns: Vec<u64>,
    /// For each slot whether its host was copied or put back.
    forgets: Vec<bool>,
    /// For each slot when the lease has ended that a host and its copy share.
    twice_until_ns: Vec<u64>,
    /// For each host what was remembered of it when the snapshot was taken.
    images: Vec<Track>,
    pub stats: Stats,
    broken: Option<Violation>,
}

macro_rules! ensure {
    ($self:expr, $holds:expr, $rule:literal, $($text:tt)+) => {
        if !$holds && $self.broken.is_none() {
            $self.broken = Some(Violation { rule: $rule, text: format!($($text)+) });
        }
    };
}

/// Whether the writer of a record owned its epoch.
fn is_owner(role: RecordRole) -> bool {
    matches!(role, RecordRole::Owner | RecordRole::HandingOver { .. })
}

impl Monitor {
    pub fn new(config: &Config) -> Self {
        Self {
            members: config.members,
            lease_ns: config.timing.lease_ns,
            delay_ns: config.timing.device_delay_ns,
            tracks: vec![Track::default(); config.slot_of.len()],
            slot_of: config.slot_of.clone(),
            promised: vec![Default::default(); config.controllers.into()],
            decided: BTreeMap::new(),
            leases: Vec::new(),
            told: Vec::new(),
            open: BTreeMap::new(),
            landed: BTreeMap::new(),
            medium: [None; BLOCKS],
            highest: 0,
            spoilt: Vec::new(),
            risked: Vec::new(),
            told_failed: BTreeMap::new(),
            repairable: config.redundancy.healthy_limit().map(|m| m as usize),
            clocks_are_sound: true,
            remembered_until_ns: vec![0; config.slot_of.len()],
            forgets: vec![false; config.controllers.into()],
            own_until_ns: vec![0; config.slot_of.len()],
            twice_until_ns: vec![0; config.controllers.into()],
            images: vec![Track::default(); config.slot_of.len()],
            stats: Stats::default(),
            broken: None,
        }
    }

    /// A host has answered the command of an operator.
    pub fn commanded(
        &mut self,
        host: usize,
        command: &Command,
        result: Result<Outcome, Reason>,
        charges: usize,
    ) {
        match (command, result) {
            (Command::ConfirmDead { epoch, .. }, Ok(_)) => self.told.push(*epoch),
            (Command::Repaired { epoch }, Ok(_)) if self.repairable.is_some() => {
                let old = |&(&(who, _), of): &(&(usize, u64), &Open)| {
                    of.epoch <= *epoch && self.is_foreign(who, of.epoch)
                };
                let late: Vec<_> = self.open.iter().filter(old).collect();
                ensure!(
                    self,
                    late.is_empty(),
                    "R21",
                    "host {host} takes {epoch} for repaired, {late:?} may still land"
                );
                self.spoilt.retain(|(of, _)| of > epoch);
                self.stats.repaired += u64::from(charges > 0);
            }
            (Command::Repaired { .. }, Err(Reason::NotDrained)) => self.stats.not_drained += 1,
            (Command::AcceptRisk { epoch }, Ok(_)) => {
                self.stats.risks += 1;
                self.risked.push(*epoch);
            }
            // If the number of failed members is lowered, a new owner may find the lower one at
            // once.
            (Command::Degraded { failed }, Ok(_)) => {
                let decided = self.tracks[host].decided;
                self.tracks[host].word_in = decided.map(|decided| decided.epoch);
                if let Some(told) = self.told_failed.get_mut(&self.tracks[host].epoch) {
                    *told = (*told).min(*failed);
                }
            }
            _ => {}
        }
    }

    /// An operation of this epoch got a permit, under this limit.
    pub fn admitted(&mut self, host: usize, op: u64, epoch: u64, limit: u32, from_ns: u64) {
        self.stats.granted += 1;
        if self.repairable.is_some() && !self.risked.contains(&epoch) {
            let open = self.open.iter().any(|((who, _), it)| {
                it.epoch < epoch && it.is_risked && self.is_foreign(*who, it.epoch)
            });
            let spoilt = self.spoilt.iter().any(|(_, is_risked)| *is_risked);
            ensure!(
                self,
                !open && !spoilt,
                "R15",
                "host {host} admits an operation beside what was risked before: {:?} {:?}",
                self.open,
                self.spoilt
            );
        }
        let is_void = self.only_remembers(host, from_ns);
        let is_risked = self.risked.contains(&epoch) && limit == UNLIMITED;
        let it = Open {
            epoch,
            from_ns,
            is_void,
            is_risked,
        };
        self.open.insert((host, op), it);
    }

    /// An operation reached the medium; whether it is a stray.
    pub fn landed(&mut self, host: usize, op: u64, lives: bool, now_ns: u64) -> bool {
        let Some(it) = self.open.remove(&(host, op)) else {
            return false;
        };
        let (epoch, from_ns) = (it.epoch, it.from_ns);
        let write = Written {
            host,
            op,
            epoch,
            is_stray: self.is_foreign(host, epoch),
            is_acknowledged: false,
            is_void: it.is_void,
            is_risked: it.is_risked,
        };
        if write.is_stray {
            self.stats.strays += 1;
            self.spoilt.push((epoch, write.is_risked));
            // If the epoch ended by silence, an operation that landed within D is no stray.
            ensure!(
                self,
                !self.clocks_are_sound
                    || write.is_void
                    || now_ns - from_ns > self.delay_ns
                    || self.told.contains(&epoch),
                "S4",
                "{write:?} was admitted at {from_ns} and landed at {now_ns}"
            );
        }
        if let Some(before) = self.medium[block(op)].replace(write) {
            self.overwrites(write, before);
        }
        if lives {
            self.landed.insert((host, op), write);
        }
        write.is_stray
    }

    /// What was acknowledged may be overwritten by what came later, and by strays. An operation of
    /// an earlier epoch of the same controller is no stray, also if a copy of the host owns now.
    fn overwrites(&mut self, write: Written, before: Written) {
        let is_other = self.slot_of[before.host] != self.slot_of[write.host];
        if before.is_acknowledged && before.epoch > write.epoch && is_other {
            self.stats.overwritten += 1;
            ensure!(
                self,
                write.is_stray || before.is_void,
                "S4",
                "{before:?} is lost under {write:?}"
            );
        }
    }

    /// An operation that has landed is acknowledged as a success, or is not.
    pub fn answered(&mut self, host: usize, op: u64, is_acknowledged: bool) {
        let Some(write) = self.landed.remove(&(host, op)) else {
            return;
        };
        if !is_acknowledged {
            self.stats.not_acknowledged += 1;
            return;
        }
        self.stats.acknowledged += 1;
        // An owner whose clock stood still may acknowledge a stray: it cannot know of the takeover.
        ensure!(
            self,
            !self.clocks_are_sound || write.is_void || !write.is_stray,
            "S4",
            "{write:?} landed under a later owner and is acknowledged"
        );
        let Some(there) = self.medium[block(op)].as_mut() else {
            return;
        };
        if (there.host, there.op) == (host, op) {
            there.is_acknowledged = true;
            return;
        }
        let (there, write) = (
            *there,
            Written {
                is_acknowledged: true,
                ..write
            },
        );
        let one_owner = there.host == host || self.is_copy(there, write);
        ensure!(
            self,
            !self.clocks_are_sound
                || one_owner
                || write.is_void
                || there.is_void
                || there.epoch < write.epoch,
            "S4",
            "{write:?} is acknowledged when {there:?} stands in its place"
        );
        self.overwrites(there, write);
    }

    /// An operation will never reach the medium.
    pub fn forgotten(&mut self, host: usize, op: u64) {
        self.open.remove(&(host, op));
    }

    /// A host takes a member for one that went back.
    pub fn alarmed(&mut self, host: usize, forgot: bool) {
        self.stats.alarms += 1;
        ensure!(
            self,
            forgot,
            "R58",
            "host {host} says that a member went back which forgot nothing"
        );
    }

    /// A host has the memory of another one from now on.
    pub fn copied(&mut self, original: usize, copy: usize, life: u32) {
        self.tracks[copy] = Track {
            life,
            ..self.tracks[original].clone()
        };
        self.forgets[usize::from(self.slot_of[copy])] = true;
    }

    /// A host and its copy run with one lease from now on.
    pub fn runs_twice(&mut self, copy: usize, now_ns: u64) {
        let slot = usize::from(self.slot_of[copy]);
        self.twice_until_ns[slot] = now_ns + self.longest_ns();
    }

    /// A snapshot of a host's memory is taken.
    pub fn remember(&mut self, host: usize) {
        self.images[host] = self.tracks[host].clone();
    }

    /// A host has the memory of that snapshot from now on, in another life. The lease that it
    /// remembers seems to be valid until `until_ns`.
    pub fn put_back(&mut self, host: usize, life: u32, until_ns: u64, now_ns: u64) {
        self.landed.retain(|(who, _), _| *who != host);
        self.own_until_ns[host] = self.tracks[host].valid_until_ns.min(now_ns);
        self.tracks[host] = Track {
            life,
            ..self.images[host].clone()
        };
        self.remembered_until_ns[host] = until_ns;
        self.forgets[usize::from(self.slot_of[host])] = true;
    }

    /// How long a whole lease is at most, in true time.
    fn longest_ns(&self) -> u64 {
        self.lease_ns + self.lease_ns / 500
    }

    /// Whether the host may hold a lease that was granted to an earlier life of it, or that it
    /// shares with its copy.
    fn only_remembers(&self, host: usize, now_ns: u64) -> bool {
        self.remembered_until_ns[host] > now_ns || self.is_twice(host, now_ns)
    }

    fn is_twice(&self, host: usize, now_ns: u64) -> bool {
        self.twice_until_ns[usize::from(self.slot_of[host])] > now_ns
    }

    /// Whether two hosts wrote as one owner: a host and its copy.
    fn is_copy(&self, one: Written, other: Written) -> bool {
        self.slot_of[one.host] == self.slot_of[other.host] && one.epoch == other.epoch
    }

    /// Whether something of this epoch may still land.
    pub fn is_open(&self, epoch: u64) -> bool {
        self.open.values().any(|of| of.epoch == epoch)
    }

    /// Whether another host had a lease after this epoch of this host.
    fn is_foreign(&self, host: usize, epoch: u64) -> bool {
        let later = |&&(of, who, _): &&(u64, usize, u64)| of > epoch && who != host;
        self.leases
            .iter()
            .rev()
            .take_while(|l| l.0 > epoch)
            .any(|l| later(&l))
    }

    /// A command goes out.
    pub fn issued(&mut self, host: usize, member: u8, what: &What, local_ns: u64, it: &Host) {
        let track = &mut self.tracks[host];
        match what {
            What::Read { .. } => {}
            What::Write {
                payload: Payload::Ballot(record),
                ..
            } => {
                let floor = self.counted(host);
                let forgot = self.forgets[usize::from(self.slot_of[host])];
                ensure!(
                    self,
                    forgot || Some(promised(record)) >= floor,
                    "R35",
                    "host {host} writes {record:?} after promising {floor:?}"
                );
                let own = record.dec.value.is_some_and(|value| value.inc.0 == it.inc);
                let open = it.gate.count().open;
                ensure!(
                    self,
                    !own || record.limit >= open,
                    "R21",
                    "host {host} has {open} open and says at most {}",
                    record.limit
                );
            }
            What::Write {
                payload: Payload::Heartbeat(record),
                ..
            } => {
                self.stats.tried += u64::from(track.sends(member, record.seq));
                if is_owner(record.role) {
                    let beat = track
                        .beats
                        .entry((record.dec.epoch, record.hb))
                        .or_default();
                    if beat.first_issue_local_ns == 0 {
                        beat.first_issue_local_ns = local_ns;
                    }
                }
                if matches!(record.role, RecordRole::Released { .. }) {
                    self.told.push(record.dec.epoch);
                    let open = it.ops.len();
                    ensure!(self, open == 0, "R34", "released with {open} permits open");
                }
            }
        }
    }

    /// The highest promise of a slot that is in both blocks on a majority.
    fn counted(&self, host: usize) -> Option<Promised> {
        let slot = usize::from(self.slot_of[host]);
        let mut all: Vec<_> = self.promised[slot]
            .iter()
            .filter_map(|it| it.twice)
            .collect();
        all.sort_unstable();
        all.reverse();
        all.get(usize::from(majority(self.members)) - 1).copied()
    }

    /// The member is another disk now: what it was made to promise is gone.
    pub fn replaced(&mut self, member: u8) {
        self.stats.replaced += 1;
        for slot in &mut self.promised {
            let counted = &mut slot[usize::from(member)];
            (counted.last, counted.twice) = (None, None);
        }
    }

    /// A write has come to its end.
    #[allow(clippy::too_many_arguments, reason = "what a completion is")]
    pub fn completed(
        &mut self,
        host: usize,
        life: u32,
        member: u8,
        is_current: bool,
        payload: &Payload,
        ok: bool,
        now_ns: u64,
    ) {
        let (members, track) = (self.members, &mut self.tracks[host]);
        let record = match payload {
            Payload::Heartbeat(record) => record,
            Payload::Ballot(record) => {
                let slot = usize::from(self.slot_of[host]);
                let counted = &mut self.promised[slot][usize::from(member)];
                // A write that ended on a former disk is no promise of the present member.
                let now = ok.then(|| promised(record)).filter(|_| is_current);
                if now.is_some() && now == counted.last {
                    counted.twice = now;
                }
                counted.last = now;
                let says = (record.dec.epoch, record.limit);
                counted.wrote(says, ok, now_ns, self.delay_ns);
                let failed = ok.then_some((record.dec.epoch, record.failed));
                counted.failed = [counted.failed[1].filter(|_| ok), failed];
                return;
            }
        };
        if !ok || track.life != life {
            return;
        }
        let succeeds = track.keeps(member, record.seq, majority(members));
        self.stats.succeeded += u64::from(succeeds);
        if !is_owner(record.role) {
            return;
        }
        let beat = track
            .beats
            .entry((record.dec.epoch, record.hb))
            .or_default();
        beat.written |= 1 << member;
        if beat.written.count_ones() >= u32::from(majority(members)) {
            beat.majority_true_ns.get_or_insert(now_ns);
        }
    }

    /// A read that was issued at `issued_ns` has succeeded.
    pub fn read_ok(&mut self, host: usize, life: u32, member: u8, issued_ns: u64) {
        let track = &mut self.tracks[host];
        if track.life == life {
            track.read_issued[usize::from(member)] = issued_ns;
        }
    }

    /// A host does something.
    pub fn performed(&mut self, host: usize, action: &Action, now_ns: u64, it: &Host) {
        match action {
            Action::Gate(GateChange::OpenEpoch { epoch, expiry_ns }) => {
                self.tracks[host].extended_to_ns = Some(*expiry_ns);
                // What a stalled host opens too late is no lease.
                self.published(host, *epoch, it.gate.count().limit, now_ns);
                if it.gate_ns(now_ns) < *expiry_ns {
                    self.opened(host, *epoch, now_ns);
                    let charges = it.controller.as_ref().map(|c| c.charges().len());
                    self.stats.charged += u64::from(charges > Some(0));
                    self.carries(host, *epoch, it);
                }
            }
            Action::Gate(GateChange::Extend { to_ns, .. }) => {
                self.tracks[host].extended_to_ns = Some(*to_ns)
            }
            Action::Gate(GateChange::Latch) => self.tracks[host].extended_to_ns = None,
            Action::Gate(GateChange::SetLimit(limit)) => {
                let (expiry_ns, before) = (it.gate.expiry_ns(), it.gate.count().limit);
                // A gate that was closed to drain opens with the limit that it had.
                if expiry_ns != 0 && before != 0 && *limit > before {
                    self.published(host, it.gate.epoch(), *limit, now_ns);
                }
            }
            Action::Report(Notice::Heartbeat(beat)) => self.heartbeat(host, beat, it),
            Action::Report(Notice::Transition(change)) => self.transition(host, change),
            Action::Report(Notice::Budget(budget)) => {
                let before = self.tracks[host].told_budget.replace(*budget);
                let is_news = before != Some(*budget);
                ensure!(
                    self,
                    it.role() == Role::Owner && is_news,
                    "R15",
                    "host {host}, {}, tells {budget:?} after {before:?}",
                    it.role()
                );
                self.stats.budgets += 1;
            }
            Action::Report(
                Notice::Unreadable(_) | Notice::Outdated { .. } | Notice::WentBack { .. },
            )
            | Action::Io(_)
            | Action::Answer(_) => {}
        }
    }

    /// A new owner is charged for all operations of earlier terms that may land or have landed, and
    /// counts with the failed members of the last owner.
    fn carries(&mut self, host: usize, epoch: u64, it: &Host) {
        let Some(controller) = it.controller.as_ref() else {
            return;
        };
        let failed = controller.degraded();
        self.stats.degraded += u64::from(failed > 0);
        let told = self.told_failed.get(&(epoch - 1)).copied().unwrap_or(0);
        ensure!(
            self,
            failed >= told || self.tracks[host].word_in == Some(epoch),
            "R21",
            "host {host} counts with {failed} failed members in epoch {epoch}, {told} are"
        );
        let charges = controller.charges();
        if self.repairable.is_none() || charges.iter().any(|charge| charge.several) {
            return;
        }
        let mut left: BTreeMap<u128, u32> = BTreeMap::new();
        let open = self.open.values().map(|it| it.epoch);
        for of in open.chain(self.spoilt.iter().map(|(of, _)| *of)) {
            let owner = self.decided.get(&of).map_or(it.inc, |value| value.inc.0);
            if owner != it.inc {
                *left.entry(owner).or_default() += 1;
            }
        }
        for (inc, count) in left {
            let of_it = charges.iter().filter(|charge| charge.inc.0 == inc);
            let charged = of_it.fold(0_u32, |sum, charge| sum.saturating_add(charge.amount));
            ensure!(
                self,
                count <= charged,
                "R21",
                "host {host} is charged {charged} for {inc:x}, of which {count} are left"
            );
        }
    }

    /// When an owner has judged a heartbeat, a majority carries its number of failed members. A
    /// reader that reads after the owner's next heartbeat began finds that number, or a lower one
    /// that the owner got since.
    fn note_failed(&mut self, host: usize, epoch: u64, told: u32) {
        let slot = usize::from(self.slot_of[host]);
        let known = self.promised[slot].iter().filter_map(|it| match it.failed {
            [Some((of, one)), Some((_, two))] if of == epoch && one == two => Some(one),
            _ => None,
        });
        let known: Vec<u32> = known.collect();
        let on = |failed: &&u32| known.iter().filter(|it| it == failed).count();
        let enough = usize::from(majority(self.members));
        let now = known.iter().find(|failed| on(failed) >= enough).copied();
        let before = std::mem::replace(&mut self.tracks[host].failed, now);
        if let Some((before, now)) = before.zip(now) {
            self.told_failed.insert(epoch, before.min(now).min(told));
        }
    }

    /// A change is reported. It begins where the last report ended.
    fn transition(&mut self, host: usize, change: &Transition) {
        let (told, now) = (&mut self.tracks[host].told, (change.to, change.epoch));
        let before = told.replace(now).unwrap_or((Role::Joining, 0));
        self.tracks[host].told_budget = None;
        let grows = now.1 >= before.1 && now.0 != Role::Joining;
        ensure!(
            self,
            change.from == before.0 && now != before && (grows || change.reason == Reason::Fork),
            "R47",
            "host {host} tells {change:?} after {before:?}"
        );
        ensure!(
            self,
            change.reason != Reason::Overflow,
            "R47",
            "host {host} has no room for an action"
        );
        self.stats.withdrew += u64::from(change.to == Role::Failed);
        self.stats.noticed += u64::from(change.reason == Reason::Copy);
        if change.to == Role::Releasing {
            self.stats.releases += 1;
        }
        let from_higher = matches!(change.from, Role::Owner | Role::Claiming | Role::Releasing);
        if from_higher && change.to == Role::Secondary {
            *self.stats.reasons.entry(change.reason.token()).or_default() += 1;
        }
    }

    /// The gate has this limit from now on: a reader of a majority must find it, whatever may still
    /// land there.
    fn published(&mut self, host: usize, epoch: u64, limit: u32, now_ns: u64) {
        let slot = usize::from(self.slot_of[host]);
        let says = |it: &&Counted| it.says(epoch, limit, now_ns);
        let members = self.promised[slot].iter().filter(says).count();
        // A host and its copy write over each other's records.
        let is_enough = self.forgets[slot] || members >= usize::from(majority(self.members));
        ensure!(
            self,
            is_enough,
            "R14",
            "host {host} has a limit of {limit} in epoch {epoch}, {members} members say so"
        );
    }

    fn opened(&mut self, host: usize, epoch: u64, true_ns: u64) {
        let last = self.leases.last().copied();
        let higher = last.is_none_or(|(before, old, _)| {
            let is_copy = self.slot_of[old] == self.slot_of[host] && old != host;
            epoch > before || epoch == before && is_copy && self.is_twice(host, true_ns)
        });
        ensure!(self, higher, "S3", "lease of epoch {epoch} after {last:?}");
        self.stats.leases += 1;
        if let Some((before, old, _)) = last {
            if old != host {
                self.stats.takeovers += 1;
            }
            let of_slot = |other: &usize| self.slot_of[*other] == self.slot_of[old];
            let of_slot = (0..self.tracks.len()).filter(of_slot);
            let ended_ns = of_slot.map(|other| self.tracks[other].valid_until_ns);
            let ended_ns = ended_ns.max().unwrap_or(0);
            // A lease that a host only remembers was no lease: the one before it counts.
            let is_remembered = ended_ns <= self.remembered_until_ns[old];
            let ended_ns = match is_remembered {
                true => self.own_until_ns[old],
                false => ended_ns,
            };
            let is_own = self.inc_of(before) == self.inc_of(epoch);
            let by_silence = old != host && !is_own && !self.told.contains(&before);
            let waited = true_ns >= ended_ns.saturating_add(self.delay_ns);
            ensure!(
                self,
                !by_silence || waited,
                "S1''",
                "epoch {epoch} begins at {true_ns}, epoch {before} ended at {ended_ns}"
            );
        }
        self.leases.push((epoch, host, true_ns));
    }

    fn inc_of(&self, epoch: u64) -> Option<u128> {
        self.decided.get(&epoch).map(|value| value.inc.0)
    }

    /// Rule 4, with the evidence of what the members did.
    fn heartbeat(&mut self, host: usize, beat: &Heartbeat, it: &Host) {
        self.stats.heartbeats += 1;
        let Some(controller) = it.controller.as_ref() else {
            return;
        };
        let epoch = controller.decided().epoch;
        self.note_failed(host, epoch, controller.degraded());
        let (lease_ns, members) = (self.lease_ns, self.members);
        let track = &mut self.tracks[host];
        let previous = track
            .previous
            .filter(|(of, _)| *of == epoch)
            .map(|(_, stamp)| stamp);
        track.previous = Some((epoch, beat.stamp_ns));
        let granted = previous.map(|stamp| stamp + lease_ns);
        let seen = track
            .beats
            .get(&(epoch, beat.hb))
            .cloned()
            .unwrap_or_default();
        // Earlier ones are judged.
        track.beats.retain(|&of, _| of >= (epoch, beat.hb));
        let read_issued = track.read_issued;
        let extended = track.extended_to_ns;
        // The gate gets the time of its own clock, which leaps.
        let is_told = extended
            .zip(granted)
            .is_none_or(|(to_ns, granted_ns)| (to_ns - granted_ns) % LEAP_NS == 0);
        // The first grant waits until a majority carries the ballot record of the epoch [R21].
        let opened = self.leases.iter().rev().any(|(of, ..)| *of == epoch);
        let withheld = beat.expiry_ns.is_none() && extended.is_none() && !opened;
        ensure!(
            self,
            withheld || beat.expiry_ns == granted && is_told,
            "R4",
            "heartbeat {} grants {:?}, the gate got {extended:?}, rule 4 says {granted:?}",
            beat.hb,
            beat.expiry_ns
        );
        ensure!(
            self,
            beat.stamp_ns <= seen.first_issue_local_ns,
            "R2",
            "heartbeat {} was issued at {}, stamped {}",
            beat.hb,
            seen.first_issue_local_ns,
            beat.stamp_ns
        );
        let Some(at) = seen.majority_true_ns else {
            ensure!(
                self,
                false,
                "R3",
                "heartbeat {} is on {:b} only",
                beat.hb,
                seen.written
            );
            return;
        };
        let later = read_issued
            .iter()
            .filter(|&&issued_ns| issued_ns >= at)
            .count();
        ensure!(
            self,
            later >= usize::from(majority(members)),
            "barrier",
            "heartbeat {}: {later} reads were issued after its majority",
            beat.hb
        );
    }

    /// If the limit of a host is at least its number of open operations, they are no risk any more:
    /// a successor is charged with each of them.
    fn bound_risk(&mut self, host: usize, it: &Host) {
        let (epoch, limit) = (it.gate.epoch(), it.gate.count().limit);
        let mut own: Vec<_> = self
            .open
            .iter_mut()
            .map(|((of, _), open)| (*of, open))
            .collect();
        own.retain(|(of, open)| *of == host && open.epoch == epoch);
        if limit < UNLIMITED && own.len() <= limit as usize {
            own.iter_mut().for_each(|(_, open)| open.is_risked = false);
        }
    }

    /// Checks every invariant at one true instant. Only the hosts in `touched` are read again:
    /// without an event a lease can only end, and the time of its end is known.
    pub fn check(&mut self, now_ns: u64, hosts: &[Host], touched: u64) -> Result<(), Violation> {
        for (index, it) in hosts.iter().enumerate() {
            if touched & (1 << index) != 0 {
                self.follow(index, it, now_ns);
                self.bound_risk(index, it);
            }
        }
        if self.clocks_are_sound {
            self.check_time(now_ns);
        }
        let mut open = self.open.values();
        let is_risked = open.any(|it| it.is_risked) || self.spoilt.iter().any(|it| it.1);
        if let Some(m) = self.repairable.filter(|_| !is_risked) {
            let (open, spoilt) = (self.open.len(), self.spoilt.len());
            ensure!(
                self,
                open + spoilt <= m,
                "S2",
                "{open} operations may land, {spoilt} strays did, {m} are repaired: {:?} {:?}",
                self.open,
                self.spoilt
            );
        }
        match self.broken.take() {
            None => Ok(()),
            Some(violation) => Err(violation),
        }
    }

    fn check_time(&mut self, now_ns: u64) {
        let (mut valid, mut slots) = (0_u32, 0_u64);
        for host in 0..self.tracks.len() {
            let track = &self.tracks[host];
            if track.valid_until_ns <= now_ns || self.remembered_until_ns[host] > now_ns {
                continue;
            }
            let (epoch, highest) = (track.epoch, self.highest);
            let slot = 1 << self.slot_of[host];
            let is_second = slots & slot != 0 && self.is_twice(host, now_ns);
            valid += u32::from(!is_second);
            slots |= slot;
            // The host or its copy may have lapsed and, as the former owner, claimed already.
            let later = self.decided.get(&highest).map(|value| value.slot.index());
            let by_copy = self.is_twice(host, now_ns) && later == Some(self.slot_of[host]);
            ensure!(
                self,
                epoch == highest || by_copy || self.told.contains(&epoch),
                "S1'",
                "a host may write in epoch {epoch}, {highest} is decided"
            );
        }
        ensure!(
            self,
            valid <= 1,
            "S1",
            "{valid} hosts may write at {now_ns}"
        );
    }

    fn follow(&mut self, index: usize, it: &Host, now_ns: u64) {
        if self.tracks[index].life != it.life {
            let ended_ns = self.tracks[index].valid_until_ns.min(now_ns);
            self.landed.retain(|(host, _), _| *host != index);
            self.tracks[index] = Track {
                life: it.life,
                valid_until_ns: ended_ns,
                ..Track::default()
            };
        }
        let valid = it.is_valid(now_ns);
        let expiry_ns = it.gate.expiry_ns();
        let track = &mut self.tracks[index];
        track.epoch = it.gate.epoch();
        track.valid_until_ns = match valid {
            true => it.clock.true_ns(expiry_ns - it.steering.leaps_ns),
            false => track.valid_until_ns.min(now_ns),
        };
        let told = track.extended_to_ns;
        ensure!(
            self,
            expiry_ns == 0 || Some(expiry_ns) == told,
            "R8",
            "the gate of host {index} ends at {expiry_ns}, it was told {told:?}"
        );
        let Some(decided) = it
            .controller
            .as_ref()
            .map(|controller| controller.decided())
        else {
            return;
        };
        if self.tracks[index].decided.replace(decided) != Some(decided) {
            self.decides(decided);
        }
    }

    /// A host knows of a decision.
    fn decides(&mut self, decided: Decided) {
        let Some(value) = decided.value else { return };
        self.highest = self.highest.max(decided.epoch);
        let known = *self.decided.entry(decided.epoch).or_insert(value);
        ensure!(
            self,
            known == value,
            "S3",
            "epoch {} is {known:?} and {value:?}",
            decided.epoch
        );
    }
}
