// SPDX-License-Identifier: GPL-2.0
//! leasectl: formats, shows, checks and watches portions of the device-mapper target `lease`.
//!
//! The tool shares the codecs and the arithmetic with the module (`src/proto`), so what it accepts
//! is what the module accepts. It talks to the module through `dmsetup` only.
//!
//! | module | task |
//! |---|---|
//! | [`cli`] | the words of the command line |
//! | [`device`] | opening, reading and writing a block device or an image file |
//! | [`foreign`] | what else may already be on a device |
//! | [`plan`] | from options to timings and redundancy, and what they mean in practice |
//! | [`format`] | writing a portion or one replacement member |
//! | [`member`] | what a member says: superblocks and mailboxes |
//! | [`show`], [`check`], [`raid`] | telling it, and judging it |
//! | [`suspects`], [`rows`] | after an unclean takeover: where strays can be, where they are |
//! | [`array`], [`bitmap`], [`gf`] | the md array in the data areas: places, marks, parity |
//! | [`table`], [`mapped`], [`status`], [`watch`] | the words of `dmsetup` |
//! | [`config`], [`activate`] | what a machine shall have mapped, and doing it |
//! | [`ana`] | exports follow ownership |
//! | [`udev`], [`events`] | what udev is told of members, and of each change of role |
//!
//! Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage.

mod activate;
mod ana;
mod array;
mod bitmap;
mod check;
mod cli;
mod config;
mod device;
mod events;
mod foreign;
mod format;
mod gf;
mod mapped;
mod member;
mod plan;
mod raid;
mod rows;
mod show;
mod status;
mod suspects;
mod table;
mod text;
mod udev;
mod watch;

use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    match run(command) {
        Ok(code) => code,
        // Whoever reads the output has seen enough: `leasectl watch | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "leasectl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: cli::Command) -> anyhow::Result<ExitCode> {
    let out = &mut io::stdout().lock();
    match command {
        cli::Command::Format(options) => format::run(&options, out)?,
        cli::Command::Show(options) => show::run(&options, out)?,
        cli::Command::Check(options) => return check::run(&options, out),
        cli::Command::Suspects(options) => suspects::run(&options, out)?,
        cli::Command::Rows(options) => return rows::run(&options, out),
        cli::Command::Table(options) => table::run(&options, out)?,
        cli::Command::Status(options) => status::run(&options, out)?,
        cli::Command::Watch(options) => watch::run(&options, out)?,
        cli::Command::Activate(options) => return activate::activate(&options, out),
        cli::Command::Deactivate(options) => return activate::deactivate(&options, out),
        cli::Command::Udev(what) => return udev::run(&what, out),
        cli::Command::Ana(options) => ana::run(&options, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
