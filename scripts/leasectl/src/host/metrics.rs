// SPDX-License-Identifier: GPL-2.0
//! The state of this host's portions as metrics, in the text format of Prometheus.
//!
//! The values come from the status line. Timings and histograms come from the message `histogram`.
//! Times are in seconds. A sample has the labels `portion` and `controller`. An unknown value has
//! no sample, and a missing limit is `+Inf`.

use crate::cli::Metrics;
use crate::kernel::mapped;
use crate::kernel::sessions::{Key, Look};
use anyhow::{anyhow, bail, Context, Result};
use dm_lease_proto::proto::histogram::{limit_us, Histogram, Report, BUCKETS};
use dm_lease_proto::proto::limit::Limit;
use dm_lease_proto::proto::words::status::{Reason, Role, Status};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;
use tiny_http::{Header, Request, Response, Server};

const NS_PER_S: f64 = 1e9;
const US_PER_S: f64 = 1e6;

/// One session, with its status and its histograms.
struct Session<'a> {
    labels: String,
    status: Status<'a>,
    report: Report,
}

/// A metric with one value for each session.
struct Plain {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Session<'_>) -> Option<f64>,
}

macro_rules! metrics {
    ($($kind:ident $name:literal $help:literal $value:expr;)+) => {
        &[$(Plain { name: $name, kind: stringify!($kind), help: $help, value: $value },)+]
    };
}

const PLAIN: &[Plain] = metrics! {
    gauge "dm_lease_epoch" "The highest epoch known to be decided."
        |s| s.status.epoch.map(|epoch| epoch as f64);
    gauge "dm_lease_owner" "The controller that owns this epoch."
        |s| s.status.owner.map(|owner| f64::from(owner.controller()));
    gauge "dm_lease_remaining_seconds" "How long the lease is still valid; 0 without a lease."
        |s| Some(s.status.lease_ms_left.unwrap_or(0) as f64 / 1e3);
    gauge "dm_lease_open_operations" "Admitted operations that have not completed."
        |s| Some(f64::from(s.status.open));
    gauge "dm_lease_limit_operations" "How many operations may be open."
        |s| Some(limit(s.status.limit));
    gauge "dm_lease_peak_operations" "The most open operations that counted against the limit."
        |s| Some(f64::from(s.status.peak));
    gauge "dm_lease_pending_operations" "State-changing operations that wait for room."
        |s| Some(s.status.pending as f64);
    gauge "dm_lease_charged_operations" "The charge of the limit for earlier owners."
        |s| Some(charged(s.status.charged));
    gauge "dm_lease_degraded_members" "How many members are failed or rebuilding."
        |s| Some(f64::from(s.status.degraded));
    gauge "dm_lease_exhausted" "Whether redundancy repairs no stray operation any more."
        |s| Some(f64::from(u8::from(s.status.reason == Reason::Exhausted)));
    counter "dm_lease_refused_operations_total" "State-changing operations that the gate failed."
        |s| Some(s.status.refused as f64);
    counter "dm_lease_late_operations_total" "Successes after the lease, reported as errors."
        |s| Some(s.status.late as f64);
    counter "dm_lease_lost_total" "Leases that ended without an order: by a lapse or a fault."
        |s| Some(s.report.lost as f64);
    gauge "dm_lease_members" "Members of the portion."
        |s| Some(f64::from(s.status.members));
    gauge "dm_lease_members_ok" "Members whose last mailbox write and read succeeded."
        |s| Some(f64::from(s.status.members_ok));
    gauge "dm_lease_duration_seconds" "How long a lease lasts (L)."
        |s| Some(s.report.lease_ns as f64 / NS_PER_S);
    gauge "dm_lease_window_seconds" "How long an owner must be silent before another claims (W)."
        |s| Some(s.report.window_ns as f64 / NS_PER_S);
    gauge "dm_lease_heartbeat_period_seconds" "The controller's heartbeat period (P)."
        |s| Some(s.report.period_ns as f64 / NS_PER_S);
};

/// `leasectl metrics`
pub fn run(options: &Metrics, out: &mut impl Write) -> Result<()> {
    if let Some(address) = options.listen {
        let server = Server::http(address).map_err(|error| anyhow!("{address}: {error}"))?;
        for request in server.incoming_requests() {
            // The client may have closed the connection.
            let _ = answer(request);
        }
        return Ok(());
    }
    let Some(file) = &options.textfile else {
        refuse_without_module()?;
        out.write_all(text()?.as_bytes())?;
        return Ok(());
    };
    let Some(every_s) = options.every_s else {
        refuse_without_module()?;
        return replace(file, &text()?);
    };
    loop {
        // A host without the module is a state to report: `dm_lease_module_loaded` is 0.
        replace(file, &text()?)?;
        thread::sleep(Duration::from_secs(every_s));
    }
}

fn answer(request: Request) -> io::Result<()> {
    if request.url() != "/metrics" {
        let elsewhere = Response::from_string("see /metrics\n");
        return request.respond(elsewhere.with_status_code(404));
    }
    match text() {
        Ok(text) => {
            let mut response = Response::from_string(text);
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            if let Ok(header) = Header::from_bytes("Content-Type", kind) {
                response.add_header(header);
            }
            request.respond(response)
        }
        Err(error) => {
            let response = Response::from_string(format!("{error:#}\n"));
            request.respond(response.with_status_code(500))
        }
    }
}

/// Replaces a file at once: a reader sees the old or the new content.
fn replace(path: &Path, text: &str) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written = File::create(part).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(part, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether the kernel has the target: the module is loaded.
fn is_module_loaded() -> Result<bool> {
    let targets = mapped::dmsetup(&["targets"])?;
    let mut names = targets
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next());
    Ok(names.any(|name| name == "lease"))
}

fn refuse_without_module() -> Result<()> {
    if !is_module_loaded()? {
        bail!("the kernel has no target \"lease\": the module dm_lease is not loaded");
    }
    Ok(())
}

fn text() -> Result<String> {
    let look = Look::take()?;
    let mut sessions = Vec::new();
    for (key, line) in look.sessions()? {
        let answer = mapped::dmsetup(&["message", line.device, "0", "histogram"])?;
        let report = Report::parse(&answer);
        let report =
            report.map_err(|line| anyhow!("the answer to message histogram has no line {line}"))?;
        sessions.push(Session::new(&key, line.status, report));
    }
    Ok(encode(&sessions, is_module_loaded()?))
}

impl<'a> Session<'a> {
    fn new(key: &Key, status: Status<'a>, report: Report) -> Session<'a> {
        // The name of a portion has no character that would have to be escaped.
        let labels = format!(
            "portion=\"{}\",controller=\"{}\"",
            key.portion, key.controller
        );
        Session {
            labels,
            status,
            report,
        }
    }
}

fn limit(limit: Limit) -> f64 {
    match limit {
        Limit::Count(count) => f64::from(count),
        Limit::Unlimited | Limit::Window => f64::INFINITY,
    }
}

fn charged(charged: u32) -> f64 {
    match charged {
        u32::MAX => f64::INFINITY,
        charged => f64::from(charged),
    }
}

fn encode(sessions: &[Session<'_>], is_module_loaded: bool) -> String {
    let mut text = String::new();
    let name = "dm_lease_module_loaded";
    head(
        &mut text,
        name,
        "gauge",
        "Whether the kernel has the target lease.",
    );
    let _ = writeln!(text, "{name} {}", u8::from(is_module_loaded));
    for metric in PLAIN {
        head(&mut text, metric.name, metric.kind, metric.help);
        for session in sessions {
            if let Some(value) = (metric.value)(session) {
                sample(&mut text, metric.name, &session.labels, value);
            }
        }
    }
    let help = "The role of this controller in the portion: 1 for the present role.";
    head(&mut text, "dm_lease_role", "gauge", help);
    for session in sessions {
        for role in Role::ALL {
            let labels = format!("{},role=\"{role}\"", session.labels);
            let is = f64::from(u8::from(role == session.status.role));
            sample(&mut text, "dm_lease_role", &labels, is);
        }
    }
    let help = "Why the controller is not the owner, or what limits an owner.";
    head(&mut text, "dm_lease_reason", "gauge", help);
    for session in sessions {
        let labels = format!("{},reason=\"{}\"", session.labels, session.status.reason);
        sample(&mut text, "dm_lease_reason", &labels, 1.0);
    }
    let name = "dm_lease_heartbeat_latency_seconds";
    let help = "The time from the stamp of a heartbeat to its judgement: a write and all reads.";
    head(&mut text, name, "histogram", help);
    for session in sessions {
        histogram(&mut text, name, &session.labels, &session.report.latency);
    }
    let name = "dm_lease_heartbeat_margin_seconds";
    let help = "How much of the lease was left when a heartbeat extended it.";
    head(&mut text, name, "histogram", help);
    for session in sessions {
        histogram(&mut text, name, &session.labels, &session.report.margin);
    }
    let name = "dm_lease_check_margin_seconds";
    let help = "How much of the lease was left when sampled operations passed the gate.";
    head(&mut text, name, "histogram", help);
    for session in sessions {
        histogram(&mut text, name, &session.labels, &session.report.check);
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &str, value: f64) {
    let _ = match value.is_infinite() {
        true => writeln!(text, "{name}{{{labels}}} +Inf"),
        false => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

/// Prints a histogram. The kernel counts each bucket by itself; Prometheus wants the sum of all
/// buckets up to a limit.
fn histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut sum = 0_u64;
    for (index, count) in histogram.buckets.iter().enumerate() {
        sum = sum.saturating_add(*count);
        let limit = match index + 1 < BUCKETS {
            true => (limit_us(index) as f64 / US_PER_S).to_string(),
            false => String::from("+Inf"),
        };
        sample(
            text,
            &bucket,
            &format!("{labels},le=\"{limit}\""),
            sum as f64,
        );
    }
    let seconds = histogram.sum_ns as f64 / NS_PER_S;
    sample(text, &format!("{name}_sum"), labels, seconds);
    let count = histogram.count as f64;
    sample(text, &format!("{name}_count"), labels, count);
}
