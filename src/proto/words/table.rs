// SPDX-License-Identifier: GPL-2.0
//! The words behind `lease` on a table line: grammar, errors, and printing.
//!
//! ```text
//! <device> <controller> [<#feature args> [<feature> [<value>]]...]
//! ```
//!
//! An *argument* is one word of the line. A *feature* is an optional setting: a name with or
//! without a value. The *count* is the number of arguments that the features take, names and values
//! together, as everywhere in device-mapper. All features and their values are in one table,
//! [`Row`], which parser, printer, error texts and the IMA form use. So a new feature is a new row.
//!
//! | feature | value; default | meaning |
//! |---|---|---|
//! | `heartbeat_ms` | 1..=60000; the portion's | the controller's heartbeat period [R1] |
//! | `claim` | `auto`, `manual`; `auto` | whether a free portion is claimed without a message |
//! | `batch` | 1..=65535; the portion's | a lower limit of open permits [R14] |
//! | `on_full` | `hold`, `fail`; `hold` | what happens to an operation beyond the limit [R17] |
//! | `fail_with` | [`FailWith`]; `resv_conflict` | the error that refused operations end with |
//! | `lapse_hold_ms` | 0..=600000; 0 | how long refused operations are kept after a lapse |
//! | `stateless` | none; off | openers cache nothing: they do not block a claim [R31] |
//!
//! Callers: the constructor of the target ([`TableLine::parse`], then [`TableLine::check`] against
//! the superblock), its status function ([`TableLine`] and [`Ima`] print), `leasectl table`. No
//! state, no locking.

use crate::proto::codec::ids::Slot;
use core::ffi::CStr;
use core::fmt::{self, Write as _};
use core::ops::RangeInclusive;

/// The allowed heartbeat periods of a controller, in milliseconds.
pub const HEARTBEAT_MS: RangeInclusive<u32> = 1..=60000;
/// The limits that a table can ask for, in permits.
pub const BATCH: RangeInclusive<u32> = 1..=65535;
/// How long refused operations may be kept after a lapse, in milliseconds.
pub const LAPSE_HOLD_MS: RangeInclusive<u32> = 0..=600000;

/// One table line, without start, length and target name.
///
/// It prints as the constructor reads it: only the features that differ from their defaults, in the
/// order of [`Feature`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLine<'a> {
    /// The member: a path or `major:minor`, in printable ASCII.
    pub device: &'a str,
    /// The controller that the mapped device belongs to.
    pub controller: Slot,
    /// The optional settings.
    pub features: FeatureArgs,
}

/// The optional settings of a table line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureArgs {
    /// The heartbeat period of the controller, in milliseconds; `None` leaves it as it is [R1].
    pub heartbeat_ms: Option<u32>,
    /// How a claim starts.
    pub claim: Claim,
    /// A limit of open permits below the portion's own; `None` keeps the portion's [R14].
    pub batch: Option<u32>,
    /// What happens to a state-changing operation beyond the limit.
    pub on_full: OnFull,
    /// The error that refused and late operations end with.
    pub fail_with: FailWith,
    /// How long refused and late operations are kept after a lapse, in milliseconds.
    pub lapse_hold_ms: u32,
    /// The openers of the mapped device cache nothing, so they do not block a claim [R31].
    pub stateless: bool,
}

/// How a claim of a free portion starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The controller claims by itself, as soon as the protocol allows it.
    Auto,
    /// Only the message `claim` starts it.
    Manual,
}

/// What happens to a state-changing operation beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// It waits for a permit; no operation fails because of waiting while the lease is valid [R17].
    Hold,
    /// It fails at once.
    Fail,
}

/// The error that refused and late operations end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailWith {
    /// `BLK_STS_RESV_CONFLICT`: the status of a reservation conflict.
    ResvConflict,
    /// `BLK_STS_IOERR`: the only error that LIO's initiators retry.
    IoErr,
    /// `BLK_STS_MEDIUM`: the only error that nvmet reports without "do not retry".
    Medium,
}

impl FeatureArgs {
    /// The settings of a line without features.
    pub const DEFAULT: Self = Self {
        heartbeat_ms: None,
        claim: Claim::Auto,
        batch: None,
        on_full: OnFull::Hold,
        fail_with: FailWith::ResvConflict,
        lapse_hold_ms: 0,
        stateless: false,
    };

    fn apply(&mut self, setting: Setting) {
        match setting {
            Setting::HeartbeatMs(period) => self.heartbeat_ms = Some(period),
            Setting::Claim(claim) => self.claim = claim,
            Setting::Batch(batch) => self.batch = Some(batch),
            Setting::OnFull(on_full) => self.on_full = on_full,
            Setting::FailWith(fail_with) => self.fail_with = fail_with,
            Setting::LapseHoldMs(hold) => self.lapse_hold_ms = hold,
            Setting::Stateless(stateless) => self.stateless = stateless,
        }
    }

    /// The value of one feature; `None` if the portion determines it.
    fn setting(&self, feature: Feature) -> Option<Setting> {
        match feature {
            Feature::HeartbeatMs => self.heartbeat_ms.map(Setting::HeartbeatMs),
            Feature::Claim => Some(Setting::Claim(self.claim)),
            Feature::Batch => self.batch.map(Setting::Batch),
            Feature::OnFull => Some(Setting::OnFull(self.on_full)),
            Feature::FailWith => Some(Setting::FailWith(self.fail_with)),
            Feature::LapseHoldMs => Some(Setting::LapseHoldMs(self.lapse_hold_ms)),
            Feature::Stateless => Some(Setting::Stateless(self.stateless)),
        }
    }

    /// The rows whose feature is not at its default, each with its value.
    fn chosen(&self) -> impl Iterator<Item = (&'static Row, Setting)> + '_ {
        ROWS.iter().filter_map(|row| {
            let setting = self.setting(row.feature)?;
            (Self::DEFAULT.setting(row.feature) != Some(setting)).then_some((row, setting))
        })
    }
}

impl Default for FeatureArgs {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The features, in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `heartbeat_ms <n>`
    HeartbeatMs,
    /// `claim auto|manual`
    Claim,
    /// `batch <n>`
    Batch,
    /// `on_full hold|fail`
    OnFull,
    /// `fail_with resv_conflict|ioerr|medium`
    FailWith,
    /// `lapse_hold_ms <n>`
    LapseHoldMs,
    /// `stateless`
    Stateless,
}

/// A feature together with a value of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    HeartbeatMs(u32),
    Claim(Claim),
    Batch(u32),
    OnFull(OnFull),
    FailWith(FailWith),
    LapseHoldMs(u32),
    Stateless(bool),
}

/// Prints the value alone. The names that arguments are compared with are defined here only.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HeartbeatMs(n) | Self::Batch(n) | Self::LapseHoldMs(n) => write!(f, "{n}"),
            named => f.write_str(named.name()),
        }
    }
}

impl Setting {
    /// The word for a value that is one of a few; empty for numbers, because no argument is empty.
    fn name(self) -> &'static str {
        match self {
            Self::Claim(Claim::Auto) => "auto",
            Self::Claim(Claim::Manual) => "manual",
            Self::OnFull(OnFull::Hold) => "hold",
            Self::OnFull(OnFull::Fail) => "fail",
            Self::FailWith(FailWith::ResvConflict) => "resv_conflict",
            Self::FailWith(FailWith::IoErr) => "ioerr",
            Self::FailWith(FailWith::Medium) => "medium",
            Self::Stateless(true) => "y",
            Self::Stateless(false) => "n",
            Self::HeartbeatMs(_) | Self::Batch(_) | Self::LapseHoldMs(_) => "",
        }
    }
}

/// One feature: its name, its value, and its error texts.
struct Row {
    feature: Feature,
    name: &'static str,
    takes: Takes,
    texts: Texts,
}

/// The value that follows the name of a feature.
enum Takes {
    /// No value: the name alone chooses this setting.
    Nothing(Setting),
    /// A number in this range.
    Number(RangeInclusive<u32>, fn(u32) -> Setting),
    /// One of these words.
    OneOf(&'static [Setting]),
}

struct Texts {
    duplicate: &'static CStr,
    conflict: &'static CStr,
    missing: &'static CStr,
    invalid: &'static CStr,
    range: &'static CStr,
}

/// A static C string, joined from literals.
macro_rules! text {
    ($($part:expr),+) => {
        match CStr::from_bytes_with_nul(concat!($($part,)+ "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => c"",
        }
    };
}

/// A row of the feature table. `$expected` ends the sentences "needs ..." and "must be ...".
macro_rules! row {
    ($feature:ident, $name:literal, $expected:literal, $takes:expr) => {
        Row {
            feature: Feature::$feature,
            name: $name,
            takes: $takes,
            texts: Texts {
                duplicate: text!("Feature ", $name, " is given twice"),
                conflict: text!("Feature ", $name, " is given twice, with different values"),
                missing: text!("Feature ", $name, " needs ", $expected, " within the count"),
                invalid: text!("Feature ", $name, " must be ", $expected),
                range: text!("Feature ", $name, " is out of range: must be ", $expected),
            },
        }
    };
}

/// The feature table, in canonical order.
static ROWS: [Row; 7] = [
    row!(
        HeartbeatMs,
        "heartbeat_ms",
        "a number from 1 to 60000",
        Takes::Number(HEARTBEAT_MS, Setting::HeartbeatMs)
    ),
    row!(
        Claim,
        "claim",
        "auto or manual",
        Takes::OneOf(&[Setting::Claim(Claim::Auto), Setting::Claim(Claim::Manual)])
    ),
    row!(
        Batch,
        "batch",
        "a number from 1 to 65535",
        Takes::Number(BATCH, Setting::Batch)
    ),
    row!(
        OnFull,
        "on_full",
        "hold or fail",
        Takes::OneOf(&[Setting::OnFull(OnFull::Hold), Setting::OnFull(OnFull::Fail)])
    ),
    row!(
        FailWith,
        "fail_with",
        "resv_conflict, ioerr or medium",
        Takes::OneOf(&[
            Setting::FailWith(FailWith::ResvConflict),
            Setting::FailWith(FailWith::IoErr),
            Setting::FailWith(FailWith::Medium),
        ])
    ),
    row!(
        LapseHoldMs,
        "lapse_hold_ms",
        "a number from 0 to 600000",
        Takes::Number(LAPSE_HOLD_MS, Setting::LapseHoldMs)
    ),
    row!(
        Stateless,
        "stateless",
        "no value",
        Takes::Nothing(Setting::Stateless(true))
    ),
];

/// The number of arguments when every feature is given once.
const COUNT_MAX: u32 = 13;

/// Why a table line is refused. Every case has its own text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// There is no first argument.
    DeviceMissing,
    /// The first argument is empty or not printable ASCII.
    DeviceUnprintable,
    /// There is no second argument.
    ControllerMissing,
    /// The second argument is not a decimal number.
    ControllerInvalid,
    /// The second argument is not in 1..=64.
    ControllerRange,
    /// The third argument is not a decimal number.
    CountInvalid,
    /// The count is above the number of arguments of all features together.
    CountRange,
    /// The line ends before the counted arguments do.
    CountTooHigh,
    /// The line goes on behind the counted arguments.
    CountTooLow,
    /// A counted argument should be the name of a feature and is not.
    FeatureUnknown,
    /// This feature has this fault.
    Feature(Feature, Fault),
    /// [`TableLine::check`]: the table does not start at sector 0.
    StartNotZero,
    /// [`TableLine::check`]: the length is not that of the member's data area.
    LengthNotData,
    /// [`TableLine::check`]: the portion was not formatted for this controller.
    ControllerUnknown,
    /// [`TableLine::check`]: `batch` is above the portion's limit.
    BatchAboveLimit,
    /// [`TableLine::check`]: the controller already heartbeats at another period.
    HeartbeatDiffers,
}

/// The faults of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Given twice with the same value.
    Duplicate,
    /// Given twice with different values.
    Conflict,
    /// The counted arguments end before the value.
    Missing,
    /// Not a number, or not one of the words.
    Invalid,
    /// A number out of range.
    Range,
}

impl TableError {
    /// The text for `ti->error`.
    pub fn text(&self) -> &'static CStr {
        match self {
            Self::DeviceMissing => c"Device is missing",
            Self::DeviceUnprintable => c"Device must be a name in printable ASCII",
            Self::ControllerMissing => c"Controller number is missing",
            Self::ControllerInvalid => c"Controller must be a number from 1 to 64",
            Self::ControllerRange => c"Controller is out of range: must be a number from 1 to 64",
            Self::CountInvalid => c"Number of feature arguments must be a number from 0 to 13",
            Self::CountRange => c"Number of feature arguments is out of range: at most 13",
            Self::CountTooHigh => c"Fewer feature arguments than their number says",
            Self::CountTooLow => c"More arguments than the number of feature arguments says",
            Self::FeatureUnknown => c"Unknown feature",
            Self::Feature(feature, fault) => fault_text(*feature, *fault),
            Self::StartNotZero => c"Start must be 0",
            Self::LengthNotData => c"Length must be that of the member's data area",
            Self::ControllerUnknown => c"Portion is not formatted for this controller",
            Self::BatchAboveLimit => c"Feature batch may only lower the limit of the portion",
            Self::HeartbeatDiffers => c"Feature heartbeat_ms differs from the controller's period",
        }
    }
}

fn fault_text(feature: Feature, fault: Fault) -> &'static CStr {
    let Some(row) = ROWS.iter().find(|row| row.feature == feature) else {
        return c"Invalid feature";
    };
    match fault {
        Fault::Duplicate => row.texts.duplicate,
        Fault::Conflict => row.texts.conflict,
        Fault::Missing => row.texts.missing,
        Fault::Invalid => row.texts.invalid,
        Fault::Range => row.texts.range,
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().to_str().unwrap_or_default())
    }
}

/// The values that a table line must agree with: those of the superblock and of the controller's
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The length of the member's data area, in sectors.
    pub data_sectors: u64,
    /// The limit of the portion in permits; `None` if it has none.
    pub limit: Option<u32>,
    /// The controllers that the portion was formatted for, one bit for each slot.
    pub controllers: u64,
}

impl FeatureArgs {
    /// Compares `heartbeat_ms` with the period of the controller, which its first table set.
    ///
    /// # Errors
    ///
    /// [`TableError::HeartbeatDiffers`].
    pub fn check_heartbeat(&self, period_ms: u32) -> Result<(), TableError> {
        match self.heartbeat_ms {
            Some(asked) if asked != period_ms => Err(TableError::HeartbeatDiffers),
            _ => Ok(()),
        }
    }
}

impl<'a> TableLine<'a> {
    /// Reads the arguments of a table line, as split by device-mapper.
    ///
    /// # Errors
    ///
    /// The first error, from left to right.
    pub fn parse<I>(arguments: I) -> Result<Self, TableError>
    where
        I: IntoIterator<Item = &'a [u8]>,
    {
        let mut arguments = arguments.into_iter();
        let device = device(arguments.next().ok_or(TableError::DeviceMissing)?)?;
        let controller = controller(arguments.next().ok_or(TableError::ControllerMissing)?)?;
        let features = features(&mut arguments)?;
        Ok(Self {
            device,
            controller,
            features,
        })
    }

    /// Compares the line with the superblock and the session. `heartbeat_ms` is not checked here:
    /// [`FeatureArgs::check_heartbeat`] compares it with the controller's period, and the timings
    /// check whether it fits the portion [R10].
    ///
    /// # Errors
    ///
    /// The first disagreement, see [`TableError`].
    pub fn check(
        &self,
        start_sectors: u64,
        length_sectors: u64,
        at: &Surroundings,
    ) -> Result<(), TableError> {
        if start_sectors != 0 {
            return Err(TableError::StartNotZero);
        }
        if length_sectors != at.data_sectors {
            return Err(TableError::LengthNotData);
        }
        if !self.controller.is_in(at.controllers) {
            return Err(TableError::ControllerUnknown);
        }
        let raises = |batch: u32| at.limit.is_some_and(|limit| batch > limit);
        if self.features.batch.is_some_and(raises) {
            return Err(TableError::BatchAboveLimit);
        }
        Ok(())
    }

    /// The line as the integrity measurement architecture records it.
    pub fn ima(&self) -> Ima<'_> {
        Ima(self)
    }
}

fn device(word: &[u8]) -> Result<&str, TableError> {
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
    match core::str::from_utf8(word) {
        Ok(name) if !name.is_empty() && word.iter().all(is_printable) => Ok(name),
        _ => Err(TableError::DeviceUnprintable),
    }
}

fn controller(word: &[u8]) -> Result<Slot, TableError> {
    slot(word)
        .map_err(|error| error.pick(TableError::ControllerInvalid, TableError::ControllerRange))
}

/// Reads the counted group, if there is one, up to the end of the line.
fn features<'a>(arguments: &mut impl Iterator<Item = &'a [u8]>) -> Result<FeatureArgs, TableError> {
    let mut features = FeatureArgs::DEFAULT;
    let Some(count) = arguments.next() else {
        return Ok(features);
    };
    let mut counted = Counted {
        left: count_of(count)?,
        arguments,
    };
    let mut seen = [false; ROWS.len()];
    while let Some(name) = counted.next()? {
        let (row, seen) = ROWS
            .iter()
            .zip(seen.iter_mut())
            .find(|(row, _)| row.name.as_bytes() == name)
            .ok_or(TableError::FeatureUnknown)?;
        let fault = |fault| TableError::Feature(row.feature, fault);
        let before = features;
        features.apply(row.value(&mut counted)?);
        if core::mem::replace(seen, true) {
            let same = before == features;
            return Err(fault(if same {
                Fault::Duplicate
            } else {
                Fault::Conflict
            }));
        }
    }
    match counted.arguments.next() {
        Some(_) => Err(TableError::CountTooLow),
        None => Ok(features),
    }
}

fn count_of(word: &[u8]) -> Result<u32, TableError> {
    ranged(word, 0..=COUNT_MAX)
        .map_err(|error| error.pick(TableError::CountInvalid, TableError::CountRange))
}

/// The arguments that the count covers.
struct Counted<'i, I> {
    left: u32,
    arguments: &'i mut I,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Counted<'_, I> {
    /// The next counted argument; `None` after the last one.
    fn next(&mut self) -> Result<Option<&'a [u8]>, TableError> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        self.arguments
            .next()
            .map(Some)
            .ok_or(TableError::CountTooHigh)
    }
}

impl Row {
    /// Reads the value of this feature.
    fn value<'a, I>(&self, counted: &mut Counted<'_, I>) -> Result<Setting, TableError>
    where
        I: Iterator<Item = &'a [u8]>,
    {
        let fault = |fault| TableError::Feature(self.feature, fault);
        if let Takes::Nothing(setting) = self.takes {
            return Ok(setting);
        }
        let word = counted.next()?.ok_or(fault(Fault::Missing))?;
        match &self.takes {
            Takes::Nothing(setting) => Ok(*setting),
            Takes::Number(range, setting) => ranged(word, range.clone())
                .map(setting)
                .map_err(|error| fault(error.pick(Fault::Invalid, Fault::Range))),
            Takes::OneOf(settings) => {
                let named = settings
                    .iter()
                    .find(|setting| setting.name().as_bytes() == word);
                named.copied().ok_or(fault(Fault::Invalid))
            }
        }
    }

    /// The number of arguments that this feature takes, its name included.
    fn arguments(&self) -> usize {
        match self.takes {
            Takes::Nothing(_) => 1,
            _ => 2,
        }
    }
}

/// Why a word is not the required number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum NumberError {
    /// The word has other characters than decimal digits.
    Invalid,
    /// The number is too small or too large.
    Range,
}

impl NumberError {
    /// The caller's error for it.
    pub(super) fn pick<T>(self, invalid: T, range: T) -> T {
        match self {
            Self::Invalid => invalid,
            Self::Range => range,
        }
    }
}

/// Reads a decimal number: digits only, no sign, no white space.
pub(in crate::proto) fn number(word: &[u8]) -> Result<u64, NumberError> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return Err(NumberError::Invalid);
    }
    word.iter()
        .map(|digit| u64::from(digit.wrapping_sub(b'0')))
        .try_fold(0u64, |number, digit| {
            number.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(NumberError::Range)
}

/// Reads a decimal number that must be in `range`.
pub(super) fn ranged(word: &[u8], range: RangeInclusive<u32>) -> Result<u32, NumberError> {
    match u32::try_from(number(word)?) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(NumberError::Range),
    }
}

/// Reads the number of a controller, 1..=64.
pub(super) fn slot(word: &[u8]) -> Result<Slot, NumberError> {
    let number = u8::try_from(number(word)?).map_err(|_| NumberError::Range)?;
    Slot::from_controller(number).ok_or(NumberError::Range)
}

/// A name with a backslash before each character that would be a separator.
struct Escaped<'a>(&'a str, &'static [char]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if self.1.contains(&character) {
                f.write_char('\\')?;
            }
            f.write_char(character)?;
        }
        Ok(())
    }
}

impl fmt::Display for TableLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The characters that dm_split_args() of drivers/md/dm-table.c treats as separators or
        // escapes.
        write!(
            f,
            "{} {}",
            Escaped(self.device, &[' ', '\\']),
            self.controller
        )?;
        let count: usize = self.features.chosen().map(|(row, _)| row.arguments()).sum();
        if count > 0 {
            write!(f, " {count}")?;
        }
        for (row, setting) in self.features.chosen() {
            write!(f, " {}", row.name)?;
            if row.arguments() > 1 {
                write!(f, " {setting}")?;
            }
        }
        Ok(())
    }
}

/// Prints `,device_name=...,controller=...` and every feature, defaults included, then `;`.
///
/// It continues the text that `DMEMIT_TARGET_NAME_VERSION` of drivers/md/dm-ima.h begins. A
/// measurement records the settings in force, so it includes defaults; `-` means "as the portion
/// says".
pub struct Ima<'a>(&'a TableLine<'a>);

impl fmt::Display for Ima<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0;
        // The separators that drivers/md/dm-ima.c escapes in names.
        let device = Escaped(line.device, &['\\', ';', '=', ',']);
        write!(f, ",device_name={device},controller={}", line.controller)?;
        for row in &ROWS {
            match line.features.setting(row.feature) {
                Some(setting) => write!(f, ",{}={setting}", row.name)?,
                None => write!(f, ",{}=-", row.name)?,
            }
        }
        f.write_str(";")
    }
}

#[cfg(test)]
mod tests;
