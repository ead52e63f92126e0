// SPDX-License-Identifier: GPL-2.0

//! The controller behind a write that came through another machine.
//!
//! A connection may belong to a machine that passes the writes of several controllers on, such as a
//! target of NVMe/TCP or iSCSI. The store sees all of them as writes of that machine. But
//! controllers write blocks that begin in a way of their own, and the rig gives these beginnings to
//! the store: `author=<connection>:<controller>:<beginning>`, in hexadecimal, with `..` for any
//! byte. A write on that connection counts as one of the controller if an aligned 4 KiB block in it
//! has such a beginning. Every other request keeps the name of the connection.

use std::str::FromStr;

use crate::log::BLOCK;

/// One beginning of blocks.
pub(crate) struct Author {
    connection: String,
    controller: String,
    /// `None` matches any byte.
    beginning: Vec<Option<u8>>,
}

/// Parses a beginning as the rig spells it. Returns `None` if the text is not one.
fn beginning(text: &str) -> Option<Vec<Option<u8>>> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2));
    let found = pairs
        .map(|pair| match pair? {
            ".." => Some(None),
            digits => u8::from_str_radix(digits, 16).ok().map(Some),
        })
        .collect::<Option<Vec<_>>>()?;
    found.iter().any(Option::is_some).then_some(found)
}

fn begins(block: &[u8], beginning: &[Option<u8>]) -> bool {
    let fits = |(byte, wanted): (&u8, &Option<u8>)| wanted.is_none_or(|it| it == *byte);
    block.len() >= beginning.len() && block.iter().zip(beginning).all(fits)
}

impl FromStr for Author {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(':').collect();
        let [connection, controller, pattern] = words[..] else {
            return Err(format!("an author has three words, not {}", words.len()));
        };
        let beginning =
            beginning(pattern).ok_or_else(|| format!("{pattern}: not the beginning of a block"))?;
        Ok(Self {
            connection: connection.to_owned(),
            controller: controller.to_owned(),
            beginning,
        })
    }
}

/// The controller that a write of `data` at `offset` counts for: the author of one of its blocks,
/// or else `connection`, the machine that sent the write.
pub(crate) fn author<'a>(
    authors: &'a [Author],
    connection: &'a str,
    data: &[u8],
    offset: u64,
) -> &'a str {
    let first = (BLOCK - (offset % BLOCK as u64) as usize) % BLOCK;
    let data = data.get(first..).unwrap_or_default();
    authors
        .iter()
        .filter(|author| author.connection == connection)
        .find(|author| {
            data.chunks(BLOCK)
                .any(|block| begins(block, &author.beginning))
        })
        .map_or(connection, |author| &author.controller)
}
