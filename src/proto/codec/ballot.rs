// SPDX-License-Identifier: GPL-2.0
//! The ballot record: the promises of a controller about a portion.
//!
//! Callers: [`super::record`] for the common head. Pure functions, no locking.

use super::bytes::{FieldReader, FieldWriter};
use super::charge_list::{put_charges, take_charges, Charges};
use super::generations::{take_generations, Generations};
use super::ids::{Ballot, Decided, Incarnation, Register, Value};
use super::record::sealed::Fields;
use super::record::{ensure, put_decided, put_value, take_decided, take_value, Record, Reject};

/// The batch limit "unlimited" in [`BallotRecord::limit`].
pub const LIMIT_UNLIMITED: u32 = u32::MAX;

/// The ballot register: all promises of a controller about a portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BallotRecord {
    /// Writes of this register of this member so far, counted over restarts.
    pub seq: u64,
    /// The writer's incarnation.
    pub inc: Incarnation,
    /// The kernel's boot id on the writer's host, for people who search its logs.
    pub boot_id: [u8; 16],
    /// The highest epoch the writer knows to be decided.
    pub dec: Decided,
    /// The highest ballot the writer has started for epoch `dec.epoch + 1`.
    pub mbal: Ballot,
    /// The heartbeat of the owner of `dec.epoch` that offered the next epoch to the writer, if
    /// `mbal` was begun on nothing but that offer; 0 if it was begun on other evidence [R34].
    pub offer: u64,
    /// The highest ballot of that epoch in which the writer has accepted `val`; never above `mbal`.
    pub bal: Ballot,
    /// The accepted value; there is one exactly when `bal` is not [`Ballot::NONE`].
    pub val: Option<Value>,
    /// The batch limit in force at the writer; [`LIMIT_UNLIMITED`] if there is none.
    pub limit: u32,
    /// The charges of earlier terms.
    pub charges: Charges,
    /// How many members are failed or rebuilding, as reported to the writer.
    pub failed: u32,
    /// Tells two writes with the same sequence number apart: the writer's clock at the beginning of
    /// the write's round [R58].
    pub mark: u64,
    /// The member generations that the writer knows [R56].
    pub generations: Generations,
}

impl Record for BallotRecord {
    const REGISTER: Register = Register::Ballot;

    fn seq(&self) -> u64 {
        self.seq
    }

    fn inc(&self) -> Incarnation {
        self.inc
    }

    fn mark(&self) -> u64 {
        self.mark
    }

    fn generations(&self) -> &Generations {
        &self.generations
    }
}

impl Fields for BallotRecord {
    fn put(&self, out: &mut FieldWriter<'_>) {
        out.bytes(&self.boot_id);
        put_decided(out, &self.dec);
        put_ballot(out, &self.mbal);
        put_ballot(out, &self.bal);
        put_value(out, self.val);
        out.u32(self.limit);
        put_charges(out, &self.charges);
        out.u32(self.failed);
        out.u64(self.offer);
    }

    fn take(seq: u64, inc: Incarnation, from: &mut FieldReader<'_>) -> Result<Self, Reject> {
        let boot_id = from.bytes();
        let dec = take_decided(from)?;
        let mbal = take_ballot(from)?;
        let bal = take_ballot(from)?;
        let val = take_value(from)?;
        ensure(bal <= mbal && bal.is_some() == val.is_some(), Reject::Field)?;
        let limit = from.u32();
        let charges = take_charges(from)?;
        let failed = from.u32();
        let offer = from.u64();
        // Only an owner can make an offer, and only a ballot can answer it.
        let answers = mbal.is_some() && dec.epoch != 0;
        ensure(offer == 0 || answers, Reject::Field)?;
        let mark = from.u64();
        let generations = take_generations(from);
        Ok(Self {
            seq,
            inc,
            boot_id,
            dec,
            mbal,
            offer,
            bal,
            val,
            limit,
            charges,
            failed,
            mark,
            generations,
        })
    }
}

fn put_ballot(out: &mut FieldWriter<'_>, ballot: &Ballot) {
    out.u64(ballot.round);
    let value = Value {
        slot: ballot.slot,
        inc: ballot.inc,
    };
    put_value(out, ballot.is_some().then_some(value));
}

fn take_ballot(from: &mut FieldReader<'_>) -> Result<Ballot, Reject> {
    let round = from.u64();
    match take_value(from)? {
        Some(Value { slot, inc }) if round != 0 => Ok(Ballot { round, slot, inc }),
        None if round == 0 => Ok(Ballot::NONE),
        _ => Err(Reject::Field),
    }
}
