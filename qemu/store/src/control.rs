// SPDX-License-Identifier: GPL-2.0

//! The control channel: one stream to the rig, one line per message.
//!
//! | from the rig | answer |
//! |---|---|
//! | `rule <id> <rule>` | `ok <id>`, or `bad <id> <reason>` |
//! | `release <id>`, `drop <id>` | `ok <id>` |
//!
//! Unasked, the array tells `held <rule> <number of requests that wait for it>` for every request
//! that begins to wait. Identifiers grow and are never used twice. When the stream ends, so does
//! the array: it cannot be left behind.

use std::{
    io::{
        BufRead,
        BufReader,
        Write, //
    },
    os::unix::net::UnixStream,
    sync::Mutex,
    thread,
};

use crate::{
    lock,
    Array, //
};

static STREAM: Mutex<Option<UnixStream>> = Mutex::new(None);

/// Sends one line; a rig that is gone ends the process by the reader, not here.
pub(crate) fn tell(line: &str) {
    if let Some(stream) = lock(&STREAM).as_mut() {
        let _ = stream.write_all(format!("{line}\n").as_bytes());
    }
}

fn obey(array: &Array, line: &str) -> Result<u64, (u64, String)> {
    let mut words = line.splitn(3, ' ');
    let verb = words.next().unwrap_or_default();
    let id = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match (verb, words.next()) {
        ("rule", Some(text)) => {
            let rule = text.parse().map_err(|reason| (id, reason))?;
            array.log.fault("rule", &format!("{id} {text}"));
            array.rules.add(id, rule);
        }
        ("release" | "drop", None) => {
            array.log.fault("gone", &format!("{id} {verb}"));
            array.rules.remove(id, verb == "drop");
        }
        _ => return Err((id, format!("not understood: {line}"))),
    }
    Ok(id)
}

/// Connects to the rig and starts to listen. Called once, when the exports are served.
pub(crate) fn start(array: &'static Array, path: &str) -> std::io::Result<()> {
    let stream = UnixStream::connect(path)?;
    let reader = BufReader::new(stream.try_clone()?);
    *lock(&STREAM) = Some(stream);
    thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            match obey(array, &line) {
                Ok(id) => tell(&format!("ok {id}")),
                Err((id, reason)) => tell(&format!("bad {id} {reason}")),
            }
        }
        std::process::exit(0);
    });
    Ok(())
}
