// SPDX-License-Identifier: GPL-2.0
//! Programs of the system that the tool runs.

use std::env;
use std::process::Command;

/// The search path if the environment has none, as for programs that udev runs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that runs a program of the system.
pub fn program(name: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut command = Command::new(name);
    command.env("PATH", path);
    command
}
