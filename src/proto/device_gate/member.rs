// SPDX-License-Identifier: GPL-2.0
//! The device gate of one member.
//!
//! ```text
//!           quiet            REGISTER               RESERVE, look
//!   Out ----------> look ----------------> Reserve ---------------> Member
//!    ^               |    (0, K), (old, K)                           |  |
//!    |               +--> Refused: what stands there is not ours     |  |
//!    +------------------- own key or reservation missing ------------+  |
//!    +--- renew -- Latched: evicted, reservation lost, type changed ----+
//!
//!   as the owner:   Closed --PREEMPT each victim--> Closed --look--> Confirmed
//!                                                                       |
//!                   Open <--- a round that began after that look, ------+
//!                             and that shows no later claim
//! ```
//!
//! K is the own key. `(x, K)` is the REGISTER that replaces the key x by K; 0 is no key.
//! [`poll`](MemberGate::poll) says when a host is *quiet*. A *look* is READ RESERVATION and then
//! READ KEYS. A *nexus* is what a member takes for one host: an initiator with its port or session
//! (SCSI), or a host identifier (NVMe). A key belongs to a nexus. A *victim* is a key that the
//! owner has to shut out.
//!
//! A refused member is looked at again after `watch_ns`, unless its nexus is in use.
//!
//! Two answers are used by themselves: PREEMPT with GOOD shuts its victim out, and REGISTER with a
//! conflict shows that the nexus has another key. Everything else is decided by a look that began
//! afterwards.
//!
//! | event | rule |
//! |---|---|
//! | PREEMPT answered GOOD | the only evidence that a registered key is shut out [R48] |
//! | PREEMPT in conflict, or in doubt | a look; an own key that is missing was evicted [R50] |
//! | PREEMPT in conflict twice, and the look shows both keys | the host joins again [R54] |
//! | a victim's key is missing | no evidence; shut by a mark, or when D has passed [R48] |
//! | a victim's key is listed again | closed, and evicted again [R48] |
//! | the reservation has another holder (LIO) | closed, and that holder is evicted first [R48] |
//! | REGISTER | only while no own command can reach the member [R51] |
//! | a read fails, or a look after RESERVE shows no reservation | repeated after a pause [R54] |
//! | a write in conflict | closed, then a look, then latched [R50] |
//! | the same, first write of a join, key listed | REGISTER with the new key 0, join again, once |
//! | own key or reservation missing | closed, joined again, opened D later by a round [R54] |
//! | a reservation that is not dm-lease's | refused by a new member; latched by others [R54] |
//!
//! # How it is driven
//!
//! After each event the caller takes the news, asks [`poll`](MemberGate::poll) for a command, and
//! asks [`next_ns`](MemberGate::next_ns) for a time. One command is under way at a time.

use super::command::{Answer, Command, Held, Kind};
use super::key::{Key, Keys};
use super::news::Pending;
pub use super::news::{Loss, News, Refusal};
use super::victims::{Look, ShutBy, Victims};

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
    /// Whether this host can remove its registration. The NVMe driver of 7.3 replaces the key by
    /// zero instead, and nvmet keeps the registration.
    pub unregisters: bool,
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
    /// PREEMPT of this key was in conflict, or in doubt.
    Evict { victim: Key, is_conflict: bool },
    /// A write met a conflict.
    Conflict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The host has not joined, and no look of the next join has begun.
    Out,
    /// READ RESERVATION is next.
    Look(Why),
    /// READ KEYS is next.
    LookKeys(Why),
    /// REGISTER is next. It takes effect if `old` is the key of the nexus; 0 is none.
    Register {
        old: u64,
    },
    /// RESERVE is next.
    Reserve,
    /// Registered.
    Member,
    /// PREEMPT is next.
    Evict(Key),
    /// REGISTER with the new key 0 is next. Then the host has left, or it joins again.
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

/// The wait for commands that belong to no victim: those of this owner's own earlier term, those
/// of terms that a full list of charges does not name, and those of hosts that wrote while there
/// was no reservation. It ends with a look that begins D or more after the look with which it
/// began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wait {
    Over,
    /// It begins with the next look that shows the own key and the reservation.
    Begins,
    Since(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Term {
    victims: Victims,
    access: Access,
    /// The owner must evict the holder of the reservation first, and no look since the epoch was
    /// decided has shown who that is.
    needs_holder: bool,
    /// The last PREEMPT met a conflict although both keys were listed.
    is_refused: bool,
}

/// The device gate of one member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberGate {
    setup: Setup,
    key: Key,
    stage: Stage,
    /// A command is under way.
    flies: Option<Command>,
    /// The stage was changed from outside while that command was under way: its answer counts for
    /// nothing.
    is_outdated: bool,
    /// No command before this local time.
    not_before_ns: u64,
    /// An own reservation command may reach the member until this local time.
    doubt_until_ns: u64,
    watch_at_ns: u64,
    /// When the look under way began.
    look_ns: u64,
    /// The `old` of the last REGISTER, if that met a conflict. The next REGISTER tries the next
    /// higher key of this controller.
    tried: Option<u64>,
    /// How many keys of this controller were listed before the first REGISTER of this join.
    own_keys: usize,
    /// The other controllers that had a key before REGISTER, a bit each. REGISTER must not remove
    /// the key of another controller. If one of these controllers has no key afterwards, this host
    /// cannot tell what removed that key, and the join begins anew.
    others: u64,
    held: Option<Held>,
    term: Option<Term>,
    wait: Wait,
    /// The host has joined at least once, under this key or an earlier one.
    was_member: bool,
    /// The host had joined under this key, and a look has shown that the key or the reservation is
    /// gone.
    is_lost: bool,
    /// No write has succeeded since the host joined.
    is_fresh: bool,
    /// The key was taken away once, because writes met conflicts although it was listed.
    was_mended: bool,
    /// The refusal that was told last.
    told: Option<Refusal>,
    news: Pending,
}

impl MemberGate {
    /// The gate of a member that this incarnation has not used. The caller begins to poll when the
    /// controller has listened, or when D has passed since this host last used the device.
    pub fn new(setup: Setup, key: Key) -> MemberGate {
        MemberGate {
            setup,
            key,
            stage: Stage::Out,
            flies: None,
            is_outdated: false,
            not_before_ns: 0,
            doubt_until_ns: 0,
            watch_at_ns: 0,
            look_ns: 0,
            tried: None,
            own_keys: 0,
            others: 0,
            held: None,
            term: None,
            wait: Wait::Over,
            was_member: false,
            is_lost: false,
            is_fresh: true,
            was_mended: false,
            told: None,
            news: Pending::default(),
        }
    }

    /// Whether the mailbox on the member may be written.
    pub fn is_joined(&self) -> bool {
        match self.stage {
            Stage::Member | Stage::Evict(_) => true,
            Stage::Look(why) | Stage::LookKeys(why) => {
                matches!(why, Why::Watch | Why::Evict { .. })
            }
            _ => false,
        }
    }

    /// Whether the owner may write to the member.
    pub fn is_open(&self) -> bool {
        let term = self.term.as_ref();
        self.is_joined() && term.is_some_and(|term| term.access == Access::Open)
    }

    /// Whether the host has left: the gate does nothing more.
    pub fn has_left(&self) -> bool {
        self.stage == Stage::Left
    }

    /// The command to carry out now. `quiet` says that no own command of data or of a mailbox, of
    /// this incarnation or an earlier one, can reach the member any more [R51]: none is open, and D
    /// has passed since the last one ended in doubt.
    pub fn poll(&mut self, now_ns: u64, quiet: bool) -> Option<Command> {
        if self.flies.is_some() || now_ns < self.not_before_ns {
            return None;
        }
        let quiet = quiet && now_ns >= self.doubt_until_ns;
        if matches!(self.stage, Stage::Refused(_)) && now_ns >= self.again_ns()? {
            (self.stage, self.was_mended) = (Stage::Out, false);
        }
        if self.stage == Stage::Out && quiet {
            self.tried = None;
            self.stage = Stage::Look(Why::Join);
        }
        if self.stage == Stage::Member {
            let is_due = now_ns >= self.due_ns();
            let watch = is_due.then_some(Stage::Look(Why::Watch));
            self.stage = self.next().or(watch)?;
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
        if command == Command::ReadReservation {
            self.look_ns = now_ns;
        }
        self.flies = Some(command);
        Some(command)
    }

    /// The time from which [`poll`](Self::poll) returns a command if nothing else happens. `None`
    /// if there is no such time. When this host becomes quiet, the caller has to poll without being
    /// told a time.
    pub fn next_ns(&self, quiet: bool) -> Option<u64> {
        if self.flies.is_some() {
            return None;
        }
        let at_ns = match self.stage {
            Stage::Left | Stage::Latched(_) => return None,
            Stage::Refused(_) => self.again_ns()?,
            Stage::Out | Stage::Register { .. } | Stage::Unregister { .. } if !quiet => {
                return None
            }
            Stage::Out | Stage::Register { .. } | Stage::Unregister { .. } => self.doubt_until_ns,
            Stage::Member if self.next().is_none() => self.due_ns(),
            _ => 0,
        };
        Some(at_ns.max(self.not_before_ns))
    }

    /// What the caller has not been told yet, one at a time.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// An epoch of this controller is decided: the member is closed until these keys are shut out.
    pub fn own_epoch(&mut self, mut victims: Victims) {
        // Commands of the own key cannot be ended. Those that are in doubt end within D.
        if victims.take(self.key) || victims.are_more() {
            self.wait = Wait::Begins;
        }
        self.term = Some(Term {
            victims,
            access: Access::Closed,
            needs_holder: self.setup.kind == Kind::RegistrantsOnly,
            is_refused: false,
        });
        if self.is_joined() {
            // What was asked before the decision counts for nothing.
            self.turn(Stage::Member);
        }
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

    /// A heartbeat round begins now. There is one round at a time.
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
                self.news.tell(News::Opened);
            }
        }
    }

    /// A write to the mailbox on the member has succeeded.
    pub fn wrote(&mut self) {
        if self.is_joined() {
            (self.is_fresh, self.was_mended) = (false, false);
        }
    }

    /// A write of this host met a reservation conflict on the member. The caller reports only
    /// writes that were issued after the last [`renew`](Self::renew). The member is closed at once;
    /// a look decides what follows.
    pub fn handle_conflict(&mut self) {
        let is_asked = matches!(
            self.stage,
            Stage::Look(Why::Conflict) | Stage::LookKeys(Why::Conflict)
        );
        if is_asked || !self.is_joined() && !self.is_lost {
            return;
        }
        self.close();
        self.turn(Stage::Look(Why::Conflict));
    }

    /// A path or the generation of the device has changed, or a command failed: the next watch is
    /// due now.
    pub fn look_soon(&mut self) {
        self.watch_at_ns = 0;
    }

    /// The host joins anew under another key: it was an owner that lost its term.
    pub fn renew(&mut self, key: Key) {
        if self.stage == Stage::Left {
            return;
        }
        (self.key, self.term, self.told) = (key, None, None);
        (self.is_lost, self.was_mended) = (false, false);
        self.turn(Stage::Out);
    }

    /// The host leaves. Its key stays if the type of the reservation has a holder, or if the key
    /// cannot be removed.
    pub fn leave(&mut self) {
        let goes = self.setup.unregisters && self.setup.kind == Kind::AllRegistrants;
        let is_out = match self.stage {
            Stage::Out | Stage::Look(Why::Join) | Stage::LookKeys(Why::Join) => !self.was_member,
            Stage::Refused(refusal) => refusal != Refusal::WritesRefused,
            stage => stage == Stage::Left,
        };
        self.term = None;
        self.is_lost = false;
        self.turn(match goes && !is_out {
            true => Stage::Unregister { leaves: true },
            false => Stage::Left,
        });
    }

    /// The command that was under way has ended.
    pub fn handle(&mut self, answer: Answer<'_>, now_ns: u64) {
        let Some(command) = self.flies.take() else {
            return;
        };
        if answer == Answer::Doubt {
            self.pause(now_ns);
            if !matches!(command, Command::ReadKeys | Command::ReadReservation) {
                self.doubt_until_ns = now_ns.saturating_add(self.setup.settle_ns);
            }
        }
        if core::mem::take(&mut self.is_outdated) {
            return;
        }
        match (self.stage, answer) {
            (Stage::Look(why), Answer::Reservation(held)) => {
                self.held = held;
                self.stage = Stage::LookKeys(why);
                if held.is_none() || self.is_foreign() {
                    // A round that ends before the keys are read must not open the member.
                    self.close();
                }
            }
            (Stage::LookKeys(why), Answer::Keys(keys)) => self.judge(why, keys, now_ns),
            // The two reads of a look are repeated together.
            (Stage::Look(why) | Stage::LookKeys(why), _) => {
                self.pause(now_ns);
                self.stage = Stage::Look(why);
            }
            (Stage::Register { .. }, Answer::Good) => self.stage = Stage::Reserve,
            (Stage::Register { old }, Answer::Conflict) => {
                self.tried = Some(old);
                self.stage = Stage::Look(Why::Join);
            }
            (Stage::Register { .. }, _) => self.stage = Stage::Out,
            (Stage::Reserve, answer) => {
                // A look shows what became of it.
                self.stage = Stage::Look(Why::Verify);
                if answer != Answer::Conflict && self.was_member {
                    // The reservation may not have stood until now.
                    self.wait = Wait::Begins;
                }
            }
            (Stage::Evict(victim), answer) => self.evicted(victim, answer),
            (Stage::Unregister { leaves }, _) => {
                self.stage = match leaves {
                    true => Stage::Left,
                    false => Stage::Out,
                };
            }
            // No command is under way in these stages.
            (Stage::Out | Stage::Member, _) => {}
            (Stage::Left | Stage::Refused(_) | Stage::Latched(_), _) => {}
        }
    }

    /// The caller has changed the stage, whatever is under way.
    fn turn(&mut self, stage: Stage) {
        self.stage = stage;
        self.is_outdated = self.flies.is_some();
    }

    fn pause(&mut self, now_ns: u64) {
        self.not_before_ns = now_ns.saturating_add(self.setup.retry_ns);
    }

    fn evicted(&mut self, victim: Key, answer: Answer<'_>) {
        if answer != Answer::Good {
            let is_conflict = answer == Answer::Conflict;
            self.stage = Stage::Look(Why::Evict {
                victim,
                is_conflict,
            });
            return;
        }
        self.stage = Stage::Member;
        if let Some(term) = self.term.as_mut() {
            term.is_refused = false;
            term.victims.shut(victim, ShutBy::Eviction);
        }
    }

    /// The next thing to do for a host that is registered, if that need not wait.
    fn next(&self) -> Option<Stage> {
        let term = self.term.as_ref()?;
        if term.access != Access::Closed {
            return None;
        }
        let victims = &term.victims;
        let next = victims.next(self.holder()).filter(|_| !term.needs_holder);
        let is_clear = victims.are_shut() && self.wait == Wait::Over;
        let begins = self.wait == Wait::Begins;
        let looks = term.needs_holder || begins || is_clear || victims.want_look();
        let look = looks.then_some(Stage::Look(Why::Watch));
        next.map(Stage::Evict).or(look)
    }

    /// When a registered host looks at the member next.
    fn due_ns(&self) -> u64 {
        let settle_ns = self.setup.settle_ns;
        let Some(term) = self.term.as_ref() else {
            return self.watch_at_ns;
        };
        let absent_ns = term.victims.due_ns(settle_ns).unwrap_or(u64::MAX);
        let waited_ns = match self.wait {
            Wait::Since(since_ns) => since_ns.saturating_add(settle_ns),
            Wait::Over | Wait::Begins => u64::MAX,
        };
        self.watch_at_ns.min(absent_ns).min(waited_ns)
    }

    /// When a member that was refused is looked at again. A nexus that another host uses is left
    /// alone: if that host is evicted, its commands must not become legal by a key of this one.
    fn again_ns(&self) -> Option<u64> {
        match self.stage {
            Stage::Refused(Refusal::NexusInUse) => None,
            _ => Some(self.watch_at_ns),
        }
    }

    /// The key of another host that holds the reservation, if its type has a holder.
    fn holder(&self) -> Option<Key> {
        let held = self
            .held
            .filter(|held| held.kind == Some(Kind::RegistrantsOnly))?;
        Key::from_raw(held.holder).filter(|holder| *holder != self.key)
    }

    /// Whether this host holds the reservation. Under a type without a holder this is always true.
    fn holds(&self) -> bool {
        let is_holder = self.held.is_some_and(|it| it.holder == self.key.raw());
        self.setup.kind == Kind::AllRegistrants || is_holder
    }

    /// Whether a reservation stands that dm-lease did not make.
    fn is_foreign(&self) -> bool {
        self.held.is_some_and(|held| match held.kind {
            Some(Kind::RegistrantsOnly) if held.kind == Some(self.setup.kind) => {
                Key::from_raw(held.holder).is_none()
            }
            kind => kind != Some(self.setup.kind),
        })
    }

    /// Acts on a look, whose two answers are in.
    fn judge(&mut self, why: Why, keys: &Keys, now_ns: u64) {
        self.watch_at_ns = now_ns.saturating_add(self.setup.watch_ns);
        let is_new = matches!(why, Why::Join | Why::Verify) && !self.is_lost;
        match why {
            _ if self.is_foreign() && is_new => self.refuse(Refusal::ForeignReservation),
            _ if self.is_foreign() => self.latch(Loss::TypeChanged),
            Why::Join => self.judge_join(keys, now_ns),
            Why::Verify => self.judge_verify(keys, now_ns),
            Why::Watch | Why::Evict { .. } | Why::Conflict => self.judge_member(why, keys, now_ns),
        }
    }

    /// Chooses the key that REGISTER replaces: none at first, and after a conflict one that this
    /// controller had before. (REGISTER could overwrite any key without asking. Then it would also
    /// take the key of another host that shares this one's nexus.)
    fn judge_join(&mut self, keys: &Keys, now_ns: u64) {
        if keys.is_cut() || keys.all().any(|raw| Key::from_raw(raw).is_none()) {
            return self.refuse(Refusal::ForeignKey);
        }
        let slot = self.key.slot();
        self.others = slots(keys.of(slot, false));
        let own = keys.of(slot, true).map(Key::raw);
        let listed = own.clone().count();
        let next = match self.tried {
            None => {
                self.own_keys = listed;
                Some(0)
            }
            Some(tried) => own.filter(|raw| *raw > tried).min(),
        };
        match next {
            Some(old) => self.stage = Stage::Register { old },
            // A key of this controller was evicted after the first look of this join. If it was
            // that of the nexus, the nexus has none now.
            None if listed < self.own_keys => {
                self.pause(now_ns);
                self.stage = Stage::Out;
            }
            None => self.refuse(Refusal::NexusInUse),
        }
    }

    fn judge_verify(&mut self, keys: &Keys, now_ns: u64) {
        let now = slots(keys.of(self.key.slot(), false));
        let is_kept = self.others & !now == 0;
        match (keys.has(self.key.raw()) && is_kept, self.held) {
            (false, _) => {
                self.pause(now_ns);
                self.stage = Stage::Out;
            }
            (true, None) => {
                self.pause(now_ns);
                self.stage = Stage::Reserve;
            }
            (true, Some(_)) => {
                (self.others, self.tried) = (0, None);
                (self.was_member, self.is_lost, self.is_fresh) = (true, false, true);
                self.told = None;
                self.advance_wait(now_ns);
                self.news.tell(News::Joined);
                self.stage = Stage::Member;
            }
        }
    }

    fn judge_member(&mut self, why: Why, keys: &Keys, now_ns: u64) {
        let is_listed = keys.has(self.key.raw());
        if keys.is_cut() {
            self.pause(now_ns);
            if !is_listed {
                // The list was too long to show the own key.
                self.stage = Stage::Look(why);
                return;
            }
        }
        match (why, is_listed) {
            (Why::Conflict | Why::Evict { .. }, false) => self.latch(Loss::Evicted),
            (Why::Conflict, true) if self.is_fresh => self.mend(),
            (Why::Conflict, true) => self.latch(Loss::ReservationLost),
            (_, listed) if !listed || self.held.is_none() => {
                self.wait = Wait::Begins;
                self.lost();
            }
            (
                Why::Evict {
                    victim,
                    is_conflict,
                },
                _,
            ) if is_conflict && keys.has(victim.raw()) => {
                self.stage = Stage::Member;
                self.review(keys, now_ns);
                self.preempt_refused(now_ns);
            }
            _ => {
                self.stage = Stage::Member;
                self.review(keys, now_ns);
            }
        }
    }

    /// The first write after a join met a conflict although the key is listed. LIO does that when
    /// the key of an earlier session of this host was removed. REGISTER with the new key 0, and
    /// then REGISTER with the new key K, mends it. A holder must not do so: the reservation would
    /// end with its key.
    fn mend(&mut self) {
        let is_holder = self.setup.kind == Kind::RegistrantsOnly && self.holds();
        if self.was_mended || is_holder || !self.setup.unregisters {
            return self.refuse(Refusal::WritesRefused);
        }
        (self.was_mended, self.is_lost) = (true, false);
        self.stage = Stage::Unregister { leaves: false };
    }

    /// PREEMPT met a conflict, and both keys are listed. PREEMPT is repeated once. If it conflicts
    /// again, the own key that is listed is that of an earlier session of this host, and the host
    /// joins again.
    fn preempt_refused(&mut self, now_ns: u64) {
        self.pause(now_ns);
        let Some(term) = self.term.as_mut() else {
            return;
        };
        if core::mem::replace(&mut term.is_refused, true) {
            term.is_refused = false;
            self.lost();
        }
    }

    /// The own key is listed and the reservation stands: compares the victims with the list.
    fn review(&mut self, keys: &Keys, now_ns: u64) {
        self.advance_wait(now_ns);
        let (holder, holds) = (self.holder(), self.holds());
        let Some(term) = self.term.as_mut() else {
            return;
        };
        term.victims.observe(Look {
            keys,
            own: self.key,
            began_ns: self.look_ns,
            ended_ns: now_ns,
            settle_ns: self.setup.settle_ns,
        });
        // If the type of the reservation has a holder, the owner must be that holder. It evicts the
        // present holder before any other key: LIO ends only the commands that were accepted while
        // the victim was the holder [R48].
        term.needs_holder = false;
        if let Some(holder) = holder.filter(|holder| keys.has(holder.raw())) {
            term.victims.add_found(holder);
        }
        let is_clear = term.victims.are_shut() && self.wait == Wait::Over;
        match is_clear && holds {
            true if term.access == Access::Closed => term.access = Access::Confirmed,
            true => {}
            false => self.close(),
        }
        if is_clear && !holds {
            // The holder's key is not listed: most likely it was removed between the two reads, as
            // when another host takes the reservation.
            self.pause(now_ns);
        }
    }

    fn advance_wait(&mut self, now_ns: u64) {
        let waited_ns = |since_ns| self.look_ns.saturating_sub(since_ns);
        self.wait = match self.wait {
            Wait::Begins => Wait::Since(now_ns),
            Wait::Since(since_ns) if waited_ns(since_ns) >= self.setup.settle_ns => Wait::Over,
            wait => wait,
        };
    }

    /// Closes the member for writes of the own term.
    fn close(&mut self) {
        if let Some(term) = self.term.as_mut() {
            if core::mem::replace(&mut term.access, Access::Closed) == Access::Open {
                self.news.tell(News::Lost);
            }
        }
    }

    /// The host must join again: the member is closed before anything else happens.
    fn lost(&mut self) {
        self.close();
        if let Some(term) = self.term.as_mut() {
            term.victims.forget_absence();
        }
        self.is_lost = true;
        self.news.tell(News::Lost);
        self.stage = Stage::Out;
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.is_lost = false;
        self.stage = Stage::Refused(refusal);
        if self.told.replace(refusal) != Some(refusal) {
            self.news.tell(News::Refused(refusal));
        }
    }

    fn latch(&mut self, loss: Loss) {
        (self.term, self.is_lost) = (None, false);
        self.stage = Stage::Latched(loss);
        self.news.tell(News::Latch(loss));
    }
}

/// The controllers of some keys, a bit each.
fn slots(keys: impl Iterator<Item = Key>) -> u64 {
    keys.fold(0, |set, key| set | key.slot().bit())
}

#[cfg(test)]
mod tests;
