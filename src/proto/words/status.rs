// SPDX-License-Identifier: GPL-2.0
//! The status line: printed by `dmsetup status` after the target name, and read by the tools.
//!
//! ```text
//! <portion> <member>/<members> <role> <epoch> <owner> <lease_ms_left> <heartbeat_seq>
//! <open>/<limit> <pending> <refused> <late> <members_ok> <reason> <charged> <peak>
//! <degraded>
//! ```
//!
//! One line, single tokens, this order, `-` for none. New fields are only appended, so a reader
//! ignores fields behind the last one that it knows. The tokens of [`Role`] and [`Reason`] are
//! never renamed. Printing takes no lock and waits for nothing: the caller fills a [`Status`] with
//! values that it may read at any time [R47].
//!
//! [`Reason`] says why a controller is not the owner: why it was demoted, why it does not claim, or
//! why it refused a message. The heartbeat record has its codes, too.
//!
//! Callers: the target's status function and the log (print), `leasectl status|watch` (read). No
//! state, no locking.

use super::table::{number, slot};
use crate::proto::codec::ids::Slot;
use crate::proto::limit::Limit;
use core::fmt;

/// The state of one mapped device and its portion, as one controller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// The name of the portion: one token, as the superblock guarantees.
    pub portion: &'a str,
    /// The index of the device's member in the portion, from 0.
    pub member: u8,
    /// How many members the portion has.
    pub members: u8,
    /// The role of this controller on the portion.
    pub role: Role,
    /// The highest epoch known to be decided; `None` while joining, or if there was none.
    pub epoch: Option<u64>,
    /// The owner of that epoch.
    pub owner: Option<Slot>,
    /// How long this controller's lease is still valid, in milliseconds, rounded down; `None` if it
    /// has no lease.
    pub lease_ms_left: Option<u64>,
    /// The number of the last heartbeat in the owner role; `None` before the first.
    pub heartbeat_seq: Option<u64>,
    /// Open permits.
    pub open: u32,
    /// The limit of open permits.
    pub limit: Limit,
    /// State-changing bios that wait for a permit.
    pub pending: u64,
    /// State-changing bios that the gate failed, since the session began.
    pub refused: u64,
    /// Successful completions that were reported as errors, since the session began [R18].
    pub late: u64,
    /// Members whose last mailbox write and read succeeded.
    pub members_ok: u8,
    /// Why the controller is not the owner or, for an owner, why it last was not.
    pub reason: Reason,
    /// The sum of the charges of earlier owners [R21]; `u32::MAX` if one of them had no limit.
    pub charged: u32,
    /// The highest number of open permits since the session began, counted as for the limit; 0 if
    /// there is no limit [R16].
    pub peak: u32,
    /// How many members are failed or rebuilding: the number in force if this controller is the
    /// owner, otherwise the number with which it would begin [R14].
    pub degraded: u32,
}

/// The role of a controller on a portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It reads its old records and listens to its own mailbox; it has written nothing yet [R36].
    Joining,
    /// It serves reads only.
    Secondary,
    /// It has written a claim for the next epoch.
    Claiming,
    /// It owns the current epoch, with a lease or about to get one.
    Owner,
    /// It drains, to give the portion up [R34].
    Releasing,
    /// It has withdrawn until an operator acts; the reason says why.
    Failed,
}

impl Role {
    /// All roles, in the order in which a controller takes them.
    pub const ALL: [Self; 6] = [
        Self::Joining,
        Self::Secondary,
        Self::Claiming,
        Self::Owner,
        Self::Releasing,
        Self::Failed,
    ];

    /// Whether it owns the epoch, with a valid lease or without.
    pub const fn owns(self) -> bool {
        matches!(self, Self::Owner | Self::Releasing)
    }

    /// The word in the status line.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Secondary => "secondary",
            Self::Claiming => "claiming",
            Self::Owner => "owner",
            Self::Releasing => "releasing",
            Self::Failed => "failed",
        }
    }

    /// The role with this word.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.token() == token)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// One line for each reason: documentation, name, code on disk, token, and the end of a sentence
/// for logs and tools.
macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $code:literal, $token:literal, $text:literal;)+) => {
        /// Why a controller is not the owner of a portion, or why it refused a message.
        ///
        /// Heartbeat records store the codes, so a code is never reused.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            #[default]
            $($(#[$doc])+ $name = $code,)+
        }

        impl Reason {
            /// All reasons, by code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word in the status line.
            pub const fn token(self) -> &'static str {
                match self {
                    $(Self::$name => $token,)+
                }
            }

            /// The meaning, as the end of a log line.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// No reason yet.
    None = 0, "-", "no reason";

    // Reasons of a demotion.

    /// The lease ended before a heartbeat extended it: the gate or the heartbeat's start saw it
    /// [R9].
    Lapse = 1, "lapse", "the lease ended";
    /// A heartbeat completed too late: the lease had ended, or the lease that it would have granted
    /// was not in the future [R6].
    Continuity = 2, "continuity", "a heartbeat was judged too late";
    /// The first heartbeat of a won epoch was not judged within a lease time of the claim [R30].
    LateClaim = 3, "late_claim", "the first heartbeat came too late after the claim";
    /// Another controller completed the claim: it owns in name only and may not begin the lease.
    NameOnly = 4, "name_only", "the epoch was won through another controller's record";
    /// A later epoch is decided [R29].
    HigherEpoch = 5, "higher_epoch", "a later epoch is decided";
    /// Another controller claims the next epoch [R29].
    ClaimSeen = 6, "claim_seen", "another controller claims the next epoch";
    /// Its own mailbox has a write of another host, which uses its number [R36].
    ForeignIncarnation = 7, "foreign_incarnation", "another host writes the own mailbox";
    /// Message `release` [R34].
    Released = 8, "released", "the portion was released";
    /// Message `handoff` [R34].
    Handoff = 9, "handoff", "the portion was handed over";
    /// Message `fence`.
    Fence = 10, "fence", "an operator fenced it";
    /// A mapped device of the complete portion was removed.
    Removed = 11, "removed", "a device of the portion was removed";
    /// The system is about to suspend or hibernate [R43].
    Suspend = 12, "suspend", "the system suspends";
    /// The system shuts down.
    Reboot = 13, "reboot", "the system shuts down";
    /// The local clock stepped back or shows an impossible value [R43].
    Clock = 14, "clock", "the host slept, or its clock was exchanged or stepped back";

    // Reasons not to take part.

    /// While it was joining, another host wrote its mailbox [R36].
    Duplicate = 15, "duplicate", "another host uses this controller number";
    /// Fewer members answer than a majority: it cannot know the epoch, or cannot write [R42].
    NoMajority = 16, "no_majority", "no majority of the members answers";
    /// It has not finished joining.
    Joining = 17, "joining", "it has not joined yet";

    // Reasons not to claim.

    /// The table says `claim manual`.
    Manual = 18, "manual", "claims are left to messages";
    /// Every mapped device of the portion is read-only [R31].
    ReadOnly = 19, "read_only", "the mapped devices are read-only";
    /// A mapped device is held open since before another controller's epoch [R31].
    StaleOpeners = 20, "stale_openers", "a device is open since before another's epoch";
    /// The portion was never owned and its home is another controller.
    NotHome = 21, "not_home", "another controller is the portion's home";
    /// The portion was released to another controller.
    Successor = 22, "successor", "the portion was released to another controller";
    /// The owner's heartbeat changes: its silence is shorter than the window, or its death was
    /// confirmed while it was heard.
    OwnerAlive = 23, "owner_alive", "the owner was heard lately";
    /// Another candidate has a higher ballot; it tries again after a random time [R28].
    Outbid = 24, "outbid", "another candidate has a higher ballot";

    // Reasons to refuse a message.

    /// `confirm_dead` without `force` for a charge that stands for terms of several owners, while
    /// the message names only one of them [R21].
    SeveralTerms = 25, "several_terms", "the charge stands for several owners";
    /// Only the owner can do this.
    NotOwner = 26, "not_owner", "it does not own the portion";
    /// A permit did not close in time: ownership is now kept or lost by the lease alone [R34].
    ReleaseTimeout = 27, "release_timeout", "an operation did not complete in time";
    /// The portion is not formatted for the controller that the message names.
    UnknownController = 28, "unknown_controller", "the portion knows no such controller";
    /// The message names the controller that it was sent to.
    OwnNumber = 29, "own_number", "the message names this controller itself";
    /// The message names an epoch that it does not apply to.
    WrongEpoch = 30, "wrong_epoch", "the message names another epoch";
    /// `repaired` before the term is known to be drained [R21].
    NotDrained = 31, "not_drained", "the old owner is not known to have drained";
    /// `accept_risk` while the limit is not exhausted [R15].
    NotExhausted = 32, "not_exhausted", "the limit is not exhausted";
    /// The period does not fit the timings of the portion [R10].
    PeriodUnfit = 33, "period_unfit", "the period does not fit the portion's timings";
    /// A release or hand-over is under way.
    Busy = 34, "busy", "a release is under way";
    /// A hand-over was drained and published, but its successor was not decided in time; the
    /// portion stays released to it.
    Undecided = 35, "undecided", "the successor was not decided in time";

    // Reasons that hold up an owner.

    /// Redundancy can repair no more strays than old owners may have left: state-changing
    /// operations are held, or continue under time alone, as formatted [R15].
    Exhausted = 36, "exhausted", "the batch limit is exhausted";

    // Reasons not to believe that an owner is dead.

    /// `confirm_dead` while no majority of the members could be read lately, so that silence is no
    /// evidence [R21].
    Blind = 37, "blind", "no majority was read lately";
    /// `confirm_dead` while the owner states that operations are open, with `force` or without
    /// [R21].
    OwnerOpen = 38, "owner_open", "the owner says that operations are open";

    // Reasons to withdraw.

    /// Two records name different owners of one epoch [R57].
    Split = 39, "split", "two owners of one epoch are on the members";
    /// Its own mailbox has writes of its own incarnation that it never issued: a copy of this
    /// host's memory runs somewhere [R58].
    Copy = 40, "copy", "a copy of this host writes the own mailbox";
    /// The host was copied or put back to an earlier state, and joins anew.
    Fork = 41, "fork", "this host was copied or put back to an earlier state";

    // Reasons of an owner to cancel a hand-over.

    /// The successor says that it may not claim: openers, `claim manual`, read-only tables [R34].
    Unwilling = 42, "unwilling", "the successor may not claim";
    /// The successor did not begin its ballot in time [R34].
    Unprepared = 43, "unprepared", "the successor did not prepare itself in time";

    // Reasons for which no controller joins or claims.

    /// A majority of the members does not show the mailbox of a controller, and without it no
    /// controller joins or claims [R26].
    Unreadable = 44, "unreadable", "the mailbox of a controller cannot be read";

    // Faults of this code.

    /// An event led to more actions than the state machine has room for: a fault of this code.
    Overflow = 45, "overflow", "a fault of the module: an action found no room";
    // Reasons of a table on a former disk of its member.

    /// The device is a disk that was replaced: the module reads and writes nothing there [R56].
    Outdated = 46, "outdated", "the device is a former disk of its member";
}

impl Reason {
    /// Whether a demotion for this reason was requested, so that the owner gave the portion up.
    pub const fn is_wanted(self) -> bool {
        matches!(
            self,
            Self::Released
                | Self::Handoff
                | Self::Fence
                | Self::Removed
                | Self::Suspend
                | Self::Reboot
        )
    }

    /// The code in heartbeat records.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this code; `None` for codes of a later version.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.code() == code)
    }

    /// The reason with this word.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.token() == token)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// A value, or `-` for none.
struct OrNone<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for OrNone<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// A sum of charges; `u32::MAX` if one of the terms had no limit.
pub struct Charged(pub u32);

impl fmt::Display for Charged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u32::MAX => f.write_str("unlimited"),
            amount => amount.fmt(f),
        }
    }
}

impl fmt::Display for Status<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} {} ",
            self.portion, self.member, self.members, self.role
        )?;
        write!(f, "{} {} ", OrNone(self.epoch), OrNone(self.owner))?;
        write!(
            f,
            "{} {} ",
            OrNone(self.lease_ms_left),
            OrNone(self.heartbeat_seq)
        )?;
        write!(f, "{}/{} {} ", self.open, self.limit, self.pending)?;
        write!(
            f,
            "{} {} {} {} ",
            self.refused, self.late, self.members_ok, self.reason
        )?;
        write!(f, "{} {} ", Charged(self.charged), self.peak)?;
        write!(f, "{}", self.degraded)
    }
}

/// Why a line is not a status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusError {
    /// The name of the first wrong field.
    pub field: &'static str,
    /// Whether the line ends before the field; otherwise the field cannot be read.
    pub missing: bool,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = if self.missing {
            "is missing from"
        } else {
            "cannot be read in"
        };
        write!(f, "field {} {} the status line", self.field, wrong)
    }
}

impl<'a> Status<'a> {
    /// Reads the part of a status line behind the target name.
    ///
    /// # Errors
    ///
    /// The first field that is missing or cannot be read.
    pub fn parse(line: &'a str) -> Result<Self, StatusError> {
        let mut tokens = Tokens(line.split_ascii_whitespace());
        let portion = tokens.read("portion", Some)?;
        let (member, members) = tokens.read("member", member)?;
        let role = tokens.read("role", Role::from_token)?;
        let epoch = tokens.read("epoch", |token| optional(token, unsigned))?;
        let owner = tokens.read("owner", |token| optional(token, controller))?;
        let lease_ms_left = tokens.read("lease_ms_left", |token| optional(token, unsigned))?;
        let heartbeat_seq = tokens.read("heartbeat_seq", |token| optional(token, unsigned))?;
        let (open, limit) = tokens.read("open", permits)?;
        Ok(Self {
            portion,
            member,
            members,
            role,
            epoch,
            owner,
            lease_ms_left,
            heartbeat_seq,
            open,
            limit,
            pending: tokens.read("pending", unsigned)?,
            refused: tokens.read("refused", unsigned)?,
            late: tokens.read("late", unsigned)?,
            members_ok: tokens.read("members_ok", |token| {
                unsigned(token).filter(|ok| *ok <= members)
            })?,
            reason: tokens.read("reason", Reason::from_token)?,
            charged: tokens.read_appended("charged", charged)?,
            peak: tokens.read_appended("peak", unsigned)?,
            degraded: tokens.read_appended("degraded", unsigned)?,
        })
    }
}

/// The tokens that are still to be read.
struct Tokens<'a>(core::str::SplitAsciiWhitespace<'a>);

impl<'a> Tokens<'a> {
    /// Reads the next token with `read` as the field of this name.
    fn read<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, StatusError> {
        let token = self.0.next().ok_or(StatusError {
            field,
            missing: true,
        })?;
        read(token).ok_or(StatusError {
            field,
            missing: false,
        })
    }

    /// Reads a number that an older module does not print; it is 0 then.
    fn read_appended(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&'a str) -> Option<u32>,
    ) -> Result<u32, StatusError> {
        match self.0.next() {
            None => Ok(0),
            Some(token) => read(token).ok_or(StatusError {
                field,
                missing: false,
            }),
        }
    }
}

/// A sum of charges.
fn charged(token: &str) -> Option<u32> {
    match token {
        "unlimited" => Some(u32::MAX),
        amount => unsigned(amount),
    }
}

/// A decimal number that fits its field.
fn unsigned<T: TryFrom<u64>>(token: &str) -> Option<T> {
    T::try_from(number(token.as_bytes()).ok()?).ok()
}

fn controller(token: &str) -> Option<Slot> {
    slot(token.as_bytes()).ok()
}

/// `Some(None)` for `-`.
fn optional<T>(token: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    match token {
        "-" => Some(None),
        value => read(value).map(Some),
    }
}

fn member(token: &str) -> Option<(u8, u8)> {
    let (member, members) = token.split_once('/')?;
    let pair: (u8, u8) = (unsigned(member)?, unsigned(members)?);
    (pair.0 < pair.1).then_some(pair)
}

fn limit(token: &str) -> Option<Limit> {
    match token {
        "unlimited" => Some(Limit::Unlimited),
        "window" => Some(Limit::Window),
        count => unsigned(count).map(Limit::Count),
    }
}

fn permits(token: &str) -> Option<(u32, Limit)> {
    let (open, limit) = token.split_once('/')?;
    Some((unsigned(open)?, self::limit(limit)?))
}

#[cfg(test)]
mod tests;
