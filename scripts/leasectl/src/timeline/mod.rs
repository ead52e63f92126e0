// SPDX-License-Identifier: GPL-2.0
//! A drawing of recorded events: `record` reads them, `draw` draws them.

mod draw;
mod record;

use crate::cli::Timeline;
use anyhow::{bail, Context, Result};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// `leasectl timeline`
pub fn run(options: &Timeline, out: &mut impl Write) -> Result<()> {
    let mut record = record::Recording::default();
    for path in &options.files {
        let text = text(path)?;
        record
            .read(&text)
            .with_context(|| format!("{}", path.display()))?;
    }
    let lanes = record.lanes(&options.portions);
    if lanes.is_empty() {
        bail!("no event of a portion was recorded");
    }
    let svg = draw::svg(&lanes);
    match &options.output {
        Some(path) => {
            fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
        }
        None => Ok(out.write_all(svg.as_bytes())?),
    }
}

fn text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).map(drop),
        false => fs::read_to_string(path).map(|read| text = read),
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
