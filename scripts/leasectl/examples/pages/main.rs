// SPDX-License-Identifier: GPL-2.0
//! Writes the man pages and the completion of bash for the package.
//!
//! ```text
//! cargo run --example pages -- DIRECTORY
//! ```
//!
//! The completion and `leasectl.8` are made from the command line (`src/cli.rs`), so that they
//! agree with `--help`. The page has a section for each command; its sections on files, units and
//! exit status are in this file. `dm-lease.7` is `scripts/doc/dm-lease.md`.

#[path = "../../src/cli.rs"]
#[allow(
    missing_docs,
    unused,
    reason = "the tool documents and reads all of it"
)]
mod cli;
mod manual;

use clap::CommandFactory;
use clap_complete::{generate_to, Shell};
use clap_mangen::roff::{bold, italic, roman, Roff};
use clap_mangen::Man;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: pages DIRECTORY");
        std::process::exit(2);
    };
    fs::create_dir_all(&directory)?;
    let mut command = cli::Cli::command();
    generate_to(Shell::Bash, &mut command, "leasectl", &directory)?;
    page(command, &directory)?;
    let text = manual::man_page("dm-lease", SUMMARY, 7, MANUAL);
    fs::write(directory.join("dm-lease.7"), text)
}

fn page(mut command: clap::Command, directory: &Path) -> io::Result<()> {
    command.build();
    let man = Man::new(command.clone()).section("8").title("LEASECTL");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name() != "help" {
            section(sub, &mut text)?;
        }
    }
    own_sections().to_writer(&mut text)?;
    fs::write(directory.join("leasectl.8"), text)
}

/// The section of one command: its purpose, its usage, its options.
fn section(command: &clap::Command, text: &mut Vec<u8>) -> io::Result<()> {
    let mut heading = Roff::new();
    heading.control("SH", [command.get_name().to_uppercase().as_str()]);
    let about = command.get_long_about().or(command.get_about());
    heading.text([roman(about.map(ToString::to_string).unwrap_or_default())]);
    let usage = command.clone().render_usage().to_string();
    heading.control("PP", []);
    heading.text([bold(usage.trim_start_matches("Usage: "))]);
    heading.to_writer(text)?;
    let hidden = |argument: clap::Arg| argument.hide(true);
    let command = command.clone().mut_arg("help", hidden);
    let man = Man::new(command.mut_arg("version", hidden));
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // The options of a command are part of its section.
    let options = String::from_utf8_lossy(&options).replace("\n.SH ", "\n.SS ");
    text.extend_from_slice(options.as_bytes());
    Ok(())
}

fn own_sections() -> Roff {
    let mut roff = Roff::new();
    for (heading, entries) in [
        ("FILES", FILES),
        ("UNITS", UNITS),
        ("EXIT STATUS", EXIT_STATUS),
    ] {
        roff.control("SH", [heading]);
        for (what, meaning) in entries {
            roff.control("TP", []);
            roff.text([italic(*what)]);
            roff.text([roman(*meaning)]);
        }
    }
    roff.control("SH", ["EXAMPLE"]);
    roff.text([roman("A declaration with all settings.")]);
    roff.control("EX", []);
    for line in EXAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("dm-lease(7), dmsetup(8), udev(7), systemd.unit(5)")]);
    roff
}

const FILES: &[(&str, &str)] = &[
    (
        "/etc/dm-lease/PORTION.toml",
        "the declaration of a portion that this host maps; the file has the name of the portion",
    ),
    (
        "/dev/disk/by-id/dm-lease-UUID-MEMBER",
        "the members that udev recognises, by the uuid of their portion; the number of a \
         replacement is followed by its generation, such as -1-2",
    ),
    ("/dev/mapper/lease-PORTION-MEMBER", "the mapped devices"),
    (
        "/etc/dm-lease/ana.conf",
        "GROUPS=\"PORTION=GROUP ...\" for dm-lease-ana.service",
    ),
    (
        "/etc/dm-lease/metrics.conf",
        "LISTEN=ADDRESS:PORT for dm-lease-metrics.service, instead of 127.0.0.1:9948",
    ),
    (
        "/usr/share/doc/dm-lease-tools",
        "the pages of the manual: installation, limits and repair, failures, error texts, ...",
    ),
    (
        "/usr/share/doc/dm-lease-tools/examples",
        "a declaration, alert rules for Prometheus, a dashboard for Grafana",
    ),
];

const UNITS: &[(&str, &str)] = &[
    (
        "dm-lease@PORTION.service",
        "maps the members of a declaration when the first of them appears; at shutdown it \
         releases the lease and removes the devices; reload it to map members that arrive later",
    ),
    (
        "dm-lease-follow.service",
        "raises a uevent for each change of role: mapped devices are ready for systemd, LVM and \
         md only while this host owns them",
    ),
    (
        "dm-lease-metrics.service",
        "metrics for Prometheus; has to be enabled",
    ),
    (
        "dm-lease-ana.service",
        "exports follow ownership (ana); has to be enabled",
    ),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "done"),
    ("1", "refused or failed; the reason is on standard error"),
    ("2", "wrong usage"),
    ("3", "the state is unknown (owns)"),
];

const EXAMPLE: &str = include_str!("../../../debian/portion.toml");

const SUMMARY: &str = "change shared block devices only while holding a lease";
const MANUAL: &str = include_str!("../../../doc/dm-lease.md");
