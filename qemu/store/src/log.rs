// SPDX-License-Identifier: GPL-2.0

//! The log of the array: what every controller asked, when, and what became of it.
//!
//! One line per step, words separated by blanks, times in nanoseconds of the host's
//! `CLOCK_MONOTONIC` (one clock for all controllers, and for the rig):
//!
//! | line | meaning |
//! |---|---|
//! | `open <ns> <controller> <member>`, `close ...` | a connection began, ended |
//! | `recv <id> <ns> <controller> <member> <op> <fua> <offset> <len>` | a request came in |
//! | `wait <id> <ns> <rule>` | a rule holds or delays it |
//! | `done <id> <ns> <len> <heads>` | it was applied; a member's `done` lines are in its order |
//! | `send <id> <ns> <errno>` | the answer left, 0 for success |
//! | `rule <ns> <text>`, `gone <ns> <text>` | faults changed |
//!
//! `<controller>` of a request is the one that its data tell apart, if there are authors (see
//! [`crate::authors`]), and otherwise that of the connection.
//!
//! A request without `send` was never answered; one without `done` never reached the medium.
//! `op` is R, W, F (flush), T (trim) or Z (zero). `heads` shows the first 256 bytes of every
//! aligned 4 KiB block of a write in hexadecimal without the zeroes at their end, separated by
//! commas, `0` for all zeroes and `-` for no such block: enough for a checker to know who wrote it,
//! in which epoch, in which order.

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    sync::{
        atomic::{
            AtomicU64,
            Ordering, //
        },
        Mutex, //
    },
};

use nix::time::{
    clock_gettime,
    ClockId, //
};

use crate::lock;

pub(crate) const BLOCK: usize = 4096;
const HEAD: usize = 256;

/// One request of one controller, while it is in the array.
pub(crate) struct Request<'a> {
    pub(crate) id: u64,
    pub(crate) controller: &'a str,
    pub(crate) member: &'a str,
    pub(crate) op: char,
    pub(crate) fua: bool,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// The file, and the number of the next request.
pub(crate) struct Log {
    file: Mutex<File>,
    next: AtomicU64,
}

/// Nanoseconds of the host's monotonic clock.
fn now_ns() -> u128 {
    // The monotonic clock exists on every Linux; 0 in a log is plain to see.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| std::time::Duration::from(t).as_nanos())
}

/// The first bytes of every aligned block in `data`, which is written at `offset`.
pub(crate) fn heads(data: &[u8], offset: u64) -> String {
    let mut text = String::new();
    let first = (BLOCK - (offset % BLOCK as u64) as usize) % BLOCK;
    for block in data.get(first..).unwrap_or_default().chunks(BLOCK) {
        if !text.is_empty() {
            text.push(',');
        }
        let head = &block[..block.len().min(HEAD)];
        let end = head
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        if end == 0 {
            text.push('0');
            continue;
        }
        for byte in &head[..end] {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

impl Log {
    pub(crate) fn open(path: &str) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(file),
            next: AtomicU64::new(1),
        })
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// One line, stamped and written while the lock is held, so that stamps never go backwards.
    fn line(&self, what: &str, subject: &str, rest: &str) {
        let mut file = lock(&self.file);
        let space = if subject.is_empty() { "" } else { " " };
        let line = format!("{what}{space}{subject} {} {rest}\n", now_ns());
        // An arbiter that cannot write must not let the run go on unseen.
        if file.write_all(line.as_bytes()).is_err() {
            std::process::abort();
        }
    }

    pub(crate) fn connection(&self, what: &str, controller: &str, member: &str) {
        self.line(what, "", &format!("{controller} {member}"));
    }

    pub(crate) fn received(&self, r: &Request<'_>) {
        let fua = u8::from(r.fua);
        let rest = format!(
            "{} {} {} {fua} {} {}",
            r.controller, r.member, r.op, r.offset, r.len
        );
        self.line("recv", &r.id.to_string(), &rest);
    }

    pub(crate) fn waits(&self, request: &Request<'_>, rule: u64) {
        self.line("wait", &request.id.to_string(), &rule.to_string());
    }

    /// Called while the member is locked: the order of these lines is the order on the medium.
    pub(crate) fn applied(&self, request: &Request<'_>, len: u32, heads: &str) {
        let heads = if heads.is_empty() { "-" } else { heads };
        self.line("done", &request.id.to_string(), &format!("{len} {heads}"));
    }

    pub(crate) fn answered(&self, request: &Request<'_>, errno: Option<i32>) {
        self.line(
            "send",
            &request.id.to_string(),
            &errno.unwrap_or(0).to_string(),
        );
    }

    pub(crate) fn fault(&self, what: &str, text: &str) {
        self.line(what, "", text);
    }
}
