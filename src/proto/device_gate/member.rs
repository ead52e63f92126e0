// SPDX-License-Identifier: GPL-2.0
//! The device gate of one member.
//!
//! ```text
//!           quiet                REGISTER               RESERVE, look
//!   Out ----------> Look(Join) ------------> Reserve ------------------> Member
//!    ^                  |      (0, K), (old, K)                            |
//!    |                  +--> Refused: another type, another program's key  |
//!    +---------------------- own key or reservation lost ------------------+
//!
//!   as the owner:   Closed --PREEMPT each victim--> Closed --look--> Confirmed
//!                                                                       |
//!                   Open <--- a round that began after that look, ------+
//!                             and that shows no later claim
//! ```
//!
//! A *look* is READ RESERVATION and then READ KEYS. Every decision is made by a look: an answer to
//! a command that changes something says what the member did then, and not how the member is now.
//!
//! | event | rule |
//! |---|---|
//! | PREEMPT answered GOOD | the only evidence that a registered key is shut out |
//! | PREEMPT in conflict, or in doubt | a look: an own key that is missing was evicted |
//! | a victim's key is missing | no evidence; shut by a mark, or when D has passed [R48] |
//! | REGISTER | only while no own command can reach the member [R51] |
//! | own key or reservation missing | closed first, then joined again, then a round [R54] |
//! | another type of reservation | latched [R54] |

use super::command::{Answer, Command, Held, Kind};
use super::key::{Key, Keys};
use super::victims::{ShutBy, Victims};

/// What does not change while a device is the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// The type of reservation.
    pub kind: Kind,
    /// D on the local clock, `ceil((1 + rho) * D)`, in nanoseconds.
    pub settle_ns: u64,
    /// The time between two watches, in nanoseconds.
    pub watch_ns: u64,
    /// The pause before a command that failed is repeated, in nanoseconds.
    pub retry_ns: u64,
    /// Whether a host that leaves takes its key away.
    pub unregisters: bool,
}

/// Why the member takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A reservation of another type stands.
    ForeignReservation,
    /// Another program has registered a key.
    ForeignKey,
    /// This host is registered under a key that is none of this controller's.
    NexusInUse,
    /// The key is listed, and writes of this host conflict all the same.
    WritesRefused,
}

/// Why the portion must latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Another owner has removed the own key.
    Evicted,
    /// The own key stands, and the reservation does not, or refuses this host.
    ReservationLost,
    /// A reservation of another type stands.
    TypeChanged,
}

/// What the caller learns. The caller takes each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// The host is registered: the mailbox on the member may be written.
    Joined,
    /// The member takes no part.
    Refused(Refusal),
    /// The member is open for writes of the own term: the victims' marks may be published.
    Opened,
    /// The member is closed for writes: the key or the reservation is gone.
    Lost,
    /// The portion must latch at once.
    Latch(Loss),
}

/// What a look is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Why {
    /// Before REGISTER.
    Join,
    /// After RESERVE.
    Verify,
    /// Once in a while, and before an owner opens the member.
    Watch,
    /// A PREEMPT was not answered with GOOD.
    Evict,
    /// A write met a conflict.
    Conflict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Not registered, and not asked yet.
    Out,
    /// READ RESERVATION is next.
    Look(Why),
    /// READ KEYS is next.
    LookKeys(Why),
    /// REGISTER is next; the host may have this key already, or none.
    Register {
        old: u64,
    },
    /// RESERVE is next.
    Reserve,
    /// Registered.
    Member,
    /// PREEMPT is next.
    Evict(Key),
    /// REGISTER of no key is next; the host joins again then, or leaves.
    Unregister {
        leaves: bool,
    },
    /// The host has left.
    Left,
    Refused(Refusal),
    Latched(Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Access {
    Closed,
    /// The last look showed everything as it must be; a round has to begin.
    Confirmed,
    /// A round that began after that look is under way.
    InRound,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Term {
    victims: Victims,
    access: Access,
    /// A look since the decision has shown which key holds the reservation.
    knows_holder: bool,
}

/// The device gate of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberGate {
    setup: Setup,
    key: Key,
    stage: Stage,
    /// A command is under way.
    flies: Option<Command>,
    /// No command before this local time.
    not_before_ns: u64,
    /// An own reservation command may reach the member until this local time.
    doubt_until_ns: u64,
    watch_at_ns: u64,
    /// The key that the last REGISTER supposed to be the host's, if it met a conflict.
    tried: Option<u64>,
    /// The controllers that had a key before REGISTER, a bit each: none of them may vanish by it.
    others: u64,
    held: Option<Held>,
    term: Option<Term>,
    /// The key was taken away once, because writes met conflicts although it was listed.
    retried: bool,
    news: Option<News>,
}

impl MemberGate {
    /// A member that knows nothing yet of this incarnation.
    pub fn new(setup: Setup, key: Key) -> MemberGate {
        MemberGate {
            setup,
            key,
            stage: Stage::Out,
            flies: None,
            not_before_ns: 0,
            doubt_until_ns: 0,
            watch_at_ns: 0,
            tried: None,
            others: 0,
            held: None,
            term: None,
            retried: false,
            news: None,
        }
    }

    /// Whether the mailbox on the member may be written.
    pub fn is_joined(&self) -> bool {
        matches!(
            self.stage,
            Stage::Member
                | Stage::Evict(_)
                | Stage::Look(Why::Watch | Why::Evict)
                | Stage::LookKeys(Why::Watch | Why::Evict)
        )
    }

    /// Whether the owner may write to the member.
    pub fn is_open(&self) -> bool {
        let term = self.term.as_ref();
        self.is_joined() && term.is_some_and(|term| term.access == Access::Open)
    }

    /// The command to carry out now. `quiet` says that no own command, of data or of a mailbox, can
    /// reach the member any more [R51].
    pub fn poll(&mut self, now_ns: u64, quiet: bool) -> Option<Command> {
        if self.flies.is_some() || now_ns < self.not_before_ns {
            return None;
        }
        let quiet = quiet && now_ns >= self.doubt_until_ns;
        if self.stage == Stage::Out && quiet {
            self.tried = None;
            self.stage = Stage::Look(Why::Join);
        }
        if self.stage == Stage::Member {
            self.stage = self.next(now_ns);
        }
        let command = match self.stage {
            Stage::Look(_) => Command::ReadReservation,
            Stage::LookKeys(_) => Command::ReadKeys,
            Stage::Register { old } if quiet => Command::Register {
                old,
                new: self.key.raw(),
            },
            Stage::Reserve => Command::Reserve,
            Stage::Evict(victim) => Command::Preempt { victim },
            Stage::Unregister { .. } if quiet => Command::Register {
                old: self.key.raw(),
                new: 0,
            },
            _ => return None,
        };
        self.flies = Some(command);
        Some(command)
    }

    /// When [`poll`](Self::poll) may return a command without another event.
    pub fn next_ns(&self) -> Option<u64> {
        if self.flies.is_some() {
            return None;
        }
        let at_ns = match self.stage {
            Stage::Left | Stage::Refused(_) | Stage::Latched(_) => return None,
            Stage::Member => self.due_ns(),
            Stage::Out | Stage::Register { .. } | Stage::Unregister { .. } => self.doubt_until_ns,
            _ => 0,
        };
        Some(at_ns.max(self.not_before_ns))
    }

    /// What the caller has not been told yet.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// An epoch of this controller is decided: the member is closed until these keys are shut out.
    pub fn own_epoch(&mut self, victims: Victims) {
        self.term = Some(Term {
            victims,
            access: Access::Closed,
            knows_holder: self.setup.kind == Kind::AllRegistrants,
        });
    }

    /// The own term is over.
    pub fn end_epoch(&mut self) {
        self.term = None;
    }

    /// There is evidence from elsewhere that a key is shut out of the member.
    pub fn mark_shut(&mut self, key: Key) {
        if let Some(term) = self.term.as_mut() {
            term.victims.shut(key, ShutBy::Mark);
        }
    }

    /// The keys that are shut out, and how that is known: what an owner publishes.
    pub fn all_shut(&self) -> impl Iterator<Item = (Key, ShutBy)> + '_ {
        self.term.iter().flat_map(|term| term.victims.all_shut())
    }

    /// A heartbeat round begins now.
    pub fn begin_round(&mut self) {
        if let Some(term) = self.term.as_mut() {
            if term.access == Access::Confirmed {
                term.access = Access::InRound;
            }
        }
    }

    /// The heartbeat round has ended: `clean` if it succeeded and showed no later epoch or claim.
    pub fn end_round(&mut self, clean: bool) {
        let Some(term) = self.term.as_mut() else {
            return;
        };
        if term.access == Access::InRound {
            term.access = match clean {
                true => Access::Open,
                false => Access::Confirmed,
            };
            if clean {
                self.news = Some(News::Opened);
            }
        }
    }

    /// A write of this host met a reservation conflict on the member. `first` if it was the first
    /// mailbox write after the host joined.
    pub fn handle_conflict(&mut self, first: bool) {
        if !self.is_joined() {
            return;
        }
        if let Some(term) = self.term.as_mut() {
            term.access = Access::Closed;
        }
        self.stage = match (first, core::mem::replace(&mut self.retried, first)) {
            (true, false) => Stage::Unregister { leaves: false },
            (true, true) => return self.refuse(Refusal::WritesRefused),
            (false, _) => Stage::Look(Why::Conflict),
        };
    }

    /// The host joins anew under another key: it was an owner that lost its term.
    pub fn renew(&mut self, key: Key) {
        self.key = key;
        self.term = None;
        if !matches!(self.stage, Stage::Refused(_) | Stage::Left) {
            self.stage = Stage::Out;
        }
    }

    /// The host leaves.
    pub fn leave(&mut self) {
        self.term = None;
        self.stage = match self.is_joined() && self.setup.unregisters {
            true => Stage::Unregister { leaves: true },
            false => Stage::Left,
        };
    }

    /// The command that was under way has ended.
    pub fn handle(&mut self, answer: Answer<'_>, now_ns: u64) {
        let Some(command) = self.flies.take() else {
            return;
        };
        if answer == Answer::Doubt {
            self.not_before_ns = now_ns.saturating_add(self.setup.retry_ns);
            if !matches!(command, Command::ReadKeys | Command::ReadReservation) {
                self.doubt_until_ns = now_ns.saturating_add(self.setup.settle_ns);
            }
        }
        match (self.stage, command, answer) {
            (Stage::Look(why), Command::ReadReservation, Answer::Reservation(held)) => {
                self.held = held;
                self.stage = Stage::LookKeys(why);
            }
            (Stage::LookKeys(why), Command::ReadKeys, Answer::Keys(keys)) => {
                self.judge(why, keys, now_ns);
            }
            // The two reads of a look are repeated together.
            (Stage::LookKeys(why), Command::ReadKeys, _) => self.stage = Stage::Look(why),
            (Stage::Register { old }, Command::Register { .. }, answer) => match answer {
                Answer::Good => self.stage = Stage::Reserve,
                Answer::Conflict => {
                    self.tried = Some(old);
                    self.stage = Stage::Look(Why::Join);
                }
                _ => self.stage = Stage::Out,
            },
            // Whether it was refused or is in doubt, a look shows the reservation.
            (Stage::Reserve, Command::Reserve, _) => self.stage = Stage::Look(Why::Verify),
            (Stage::Evict(key), Command::Preempt { victim }, answer) if key == victim => {
                self.evicted(victim, answer);
            }
            (Stage::Unregister { leaves }, Command::Register { .. }, _) => {
                self.stage = match leaves {
                    true => Stage::Left,
                    false => Stage::Out,
                };
            }
            // The stage has changed since the command was issued.
            _ => {}
        }
    }

    fn evicted(&mut self, victim: Key, answer: Answer<'_>) {
        self.stage = match answer {
            Answer::Good => Stage::Member,
            _ => Stage::Look(Why::Evict),
        };
        if let (Some(term), Answer::Good) = (self.term.as_mut(), answer) {
            term.victims.shut(victim, ShutBy::Eviction);
        }
    }

    /// The next thing to do for a host that is registered.
    fn next(&self, now_ns: u64) -> Stage {
        if let Some(term) = self.term.as_ref().filter(|it| it.access == Access::Closed) {
            let next = term.victims.next(self.holder());
            if let Some(key) = next.filter(|_| term.knows_holder) {
                return Stage::Evict(key);
            }
            if !term.knows_holder || term.victims.are_shut() {
                return Stage::Look(Why::Watch);
            }
        }
        match now_ns >= self.due_ns() {
            true => Stage::Look(Why::Watch),
            false => Stage::Member,
        }
    }

    fn due_ns(&self) -> u64 {
        let absent = self.term.as_ref().map(|term| &term.victims);
        let absent_ns = absent.and_then(|victims| victims.due_ns(self.setup.settle_ns));
        absent_ns.map_or(self.watch_at_ns, |due| due.min(self.watch_at_ns))
    }

    /// The key of another host that holds the reservation, if its type has a holder.
    fn holder(&self) -> Option<Key> {
        let held = self
            .held
            .filter(|held| held.kind == Some(Kind::RegistrantsOnly))?;
        Key::from_raw(held.holder).filter(|holder| *holder != self.key)
    }

    /// Acts on a look, whose two answers are in.
    fn judge(&mut self, why: Why, keys: &Keys, now_ns: u64) {
        self.watch_at_ns = now_ns.saturating_add(self.setup.watch_ns);
        let is_foreign = self
            .held
            .is_some_and(|held| held.kind != Some(self.setup.kind));
        match why {
            Why::Join if is_foreign => self.refuse(Refusal::ForeignReservation),
            Why::Verify if is_foreign => self.refuse(Refusal::ForeignReservation),
            _ if is_foreign => self.latch(Loss::TypeChanged),
            Why::Join => self.judge_join(keys),
            Why::Verify => self.judge_verify(keys),
            Why::Watch | Why::Evict | Why::Conflict => self.judge_member(why, keys, now_ns),
        }
    }

    /// The host has no key yet, or one that its controller had before: it is replaced by the new
    /// one only if the member still has it. (To overwrite any key would also take the key of
    /// another host that shares this one's nexus.)
    fn judge_join(&mut self, keys: &Keys) {
        if keys.is_cut() || keys.all().any(|raw| Key::from_raw(raw).is_none()) {
            return self.refuse(Refusal::ForeignKey);
        }
        let slot = self.key.slot();
        self.others = slots(keys.of(slot, false));
        let own = keys.of(slot, true).map(Key::raw);
        let next = match self.tried {
            None => Some(0),
            Some(tried) => own.filter(|raw| *raw > tried).min(),
        };
        match next {
            Some(old) => self.stage = Stage::Register { old },
            None => self.refuse(Refusal::NexusInUse),
        }
    }

    fn judge_verify(&mut self, keys: &Keys) {
        let now = slots(keys.of(self.key.slot(), false));
        let is_kept = self.others & !now == 0;
        self.stage = match (keys.has(self.key.raw()) && is_kept, self.held) {
            (false, _) => Stage::Out,
            (true, None) => Stage::Reserve,
            (true, Some(_)) => {
                (self.others, self.tried) = (0, None);
                self.news = Some(News::Joined);
                Stage::Member
            }
        };
    }

    fn judge_member(&mut self, why: Why, keys: &Keys, now_ns: u64) {
        let is_listed = keys.has(self.key.raw());
        if !is_listed && keys.is_cut() {
            // The list was too long to show the own key.
            self.stage = Stage::Look(why);
            self.not_before_ns = now_ns.saturating_add(self.setup.retry_ns);
            return;
        }
        match (why, is_listed) {
            (Why::Conflict | Why::Evict, false) => self.latch(Loss::Evicted),
            (Why::Conflict, true) => self.latch(Loss::ReservationLost),
            (_, listed) if !listed || self.held.is_none() => self.lost(),
            _ => {
                self.stage = Stage::Member;
                self.review(keys, now_ns);
            }
        }
    }

    /// The own key is listed and the reservation stands: compares the victims with the list.
    fn review(&mut self, keys: &Keys, now_ns: u64) {
        let (slot, settle_ns, holder) = (self.key.slot(), self.setup.settle_ns, self.holder());
        let Some(term) = self.term.as_mut() else {
            return;
        };
        term.victims.observe(keys, slot, now_ns, settle_ns);
        // The owner must hold a reservation that has a holder, and takes it from its holder first:
        // LIO ends only the commands that were accepted while the victim was the holder [R48].
        term.knows_holder = true;
        if let Some(holder) = holder.filter(|holder| keys.has(holder.raw())) {
            term.victims.add_found(holder);
        }
        term.access = match (term.victims.are_shut(), term.access) {
            (true, Access::Closed) => Access::Confirmed,
            (true, access) => access,
            (false, Access::Open) => {
                self.news = Some(News::Lost);
                Access::Closed
            }
            (false, _) => Access::Closed,
        };
    }

    /// The key or the reservation is gone: the member is closed before anything else happens.
    fn lost(&mut self) {
        if let Some(term) = self.term.as_mut() {
            term.access = Access::Closed;
            term.victims.forget_absence();
        }
        self.news = Some(News::Lost);
        self.stage = Stage::Out;
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.news = Some(News::Refused(refusal));
        self.stage = Stage::Refused(refusal);
    }

    fn latch(&mut self, loss: Loss) {
        self.term = None;
        self.news = Some(News::Latch(loss));
        self.stage = Stage::Latched(loss);
    }
}

/// The controllers of some keys, a bit each.
fn slots(keys: impl Iterator<Item = Key>) -> u64 {
    keys.fold(0, |set, key| set | key.slot().bit())
}

#[cfg(test)]
mod tests;
