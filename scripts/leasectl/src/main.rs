// SPDX-License-Identifier: GPL-2.0
//! leasectl: formats, shows, checks and watches portions of the device-mapper target `lease`.
//!
//! The tool shares the codecs and the arithmetic with the module (`src/proto`), so what it accepts
//! is what the module accepts. It talks to the module through `dmsetup` only.
//!
//! | module | task |
//! |---|---|
//! | [`cli`] | the options and arguments of the command line |
//! | [`disk`] | the members: formatting, showing, checking, repairing |
//! | [`md`] | the md array above, after an unclean takeover: locating strays and repairing them |
//! | [`kernel`] | the input and output of `dmsetup`, and the events of device-mapper |
//! | [`timeline`] | a drawing of recorded events |
//! | [`host`] | the mapped devices of this host, udev, exports that follow ownership, metrics |
//! | [`program`], [`text`], [`output`] | what several of these use |
//!
//! Imports run one way: host, kernel and md import disk, and host imports kernel.
//!
//! Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage, and
//! for `owns` 3, cannot tell. A command that ends by itself does its work even if nobody reads its
//! output ([`output`]); a command that runs until it is interrupted ends when its pipe is closed.

mod cli;
mod disk;
mod host;
mod kernel;
mod md;
mod output;
mod program;
mod text;
mod timeline;

use anyhow::Context;
use clap::Parser;
use output::Output;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    let stdout = io::stdout().lock();
    let result = match command.is_endless() {
        true => run(command, &mut { stdout }),
        false => {
            let mut out = Output::new(stdout);
            let result = run(command, &mut out);
            let written = out.finish().context("cannot write the output");
            result.and_then(|code| written.map(|()| code))
        }
    };
    match result {
        Ok(code) => code,
        // The reader has closed the pipe: `leasectl watch | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "leasectl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: cli::Command, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match command {
        cli::Command::Format(options) => disk::format::run(&options, out)?,
        cli::Command::Advise(options) => disk::advise::run(&options, out)?,
        cli::Command::Show(options) => disk::show::run(&options, out)?,
        cli::Command::Check(options) => return disk::check::run(&options, out),
        cli::Command::Repair(options) => disk::repair::run(&options, out)?,
        cli::Command::Upgrade(options) => disk::upgrade::run(&options, out)?,
        cli::Command::Suspects(options) => md::suspects::run(&options, out)?,
        cli::Command::Rows(options) => return md::rows::run(&options, out),
        cli::Command::Table(options) => kernel::table::run(&options, out)?,
        cli::Command::Status(options) => kernel::status::run(&options, out)?,
        cli::Command::Owns(options) => return kernel::status::owns(&options, out),
        cli::Command::Fence(options) => kernel::fence::run(&options, out)?,
        cli::Command::Watch(options) => kernel::watch::run(&options, out)?,
        cli::Command::Events(options) => kernel::follow::run(&options, out)?,
        cli::Command::Timeline(options) => timeline::run(&options, out)?,
        cli::Command::Metrics(options) => host::metrics::run(&options, out)?,
        cli::Command::Activate(options) => return host::activate::activate(&options, out),
        cli::Command::Deactivate(options) => return host::activate::deactivate(&options, out),
        cli::Command::Udev(cli::Udev::Member { device }) => {
            return host::udev::member(&device, out)
        }
        cli::Command::Udev(cli::Udev::Mapped { name }) => host::udev::mapped(&name, out)?,
        cli::Command::Udev(cli::Udev::Follow) => host::follow::run()?,
        cli::Command::Ana(options) => host::ana::run(&options, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
