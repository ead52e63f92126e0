// SPDX-License-Identifier: GPL-2.0
//! Draws lanes as SVG. Each controller and portion has a band in the colour of its role, the lease
//! and heartbeats (as ticks) above it, and refused operations below it.

use crate::timeline::record::{Lane, Lanes};
use dm_lease_proto::proto::words::status::Role;
use std::fmt::Write;

const WIDTH: u64 = 1400;
const LEFT: u64 = 150;
const RIGHT: u64 = 20;
const TOP: u64 = 56;
const ROW: u64 = 62;
/// The width of the text "epoch 1234", in pixels.
const EPOCH_WIDTH: f64 = 52.0;
/// The largest number of marks on the axis.
const MARKS: u64 = 10;
const NS_PER_S: f64 = 1e9;

/// A period of time, in nanoseconds.
struct Axis {
    begin_ns: u64,
    end_ns: u64,
}

impl Axis {
    /// The period of all lanes. Time before the first known moment is left out.
    fn of(lanes: &Lanes) -> Axis {
        let moments = || lanes.values().flat_map(moments).filter(|at_ns| *at_ns > 0);
        let begin_ns = moments().min().unwrap_or(0);
        let end_ns = moments().max().unwrap_or(0);
        Axis {
            begin_ns,
            end_ns: end_ns.max(begin_ns.saturating_add(1)),
        }
    }

    /// The x coordinate of a moment, in pixels.
    fn x(&self, at_ns: u64) -> f64 {
        let at_ns = at_ns.clamp(self.begin_ns, self.end_ns) - self.begin_ns;
        let length = (self.end_ns - self.begin_ns) as f64;
        LEFT as f64 + at_ns as f64 / length * (WIDTH - LEFT - RIGHT) as f64
    }

    /// The marks of the axis, at round numbers of nanoseconds: 1, 2 or 5 with zeros.
    fn step_ns(&self) -> u64 {
        let wanted = (self.end_ns - self.begin_ns) / MARKS;
        let mut ten = 1_000_000;
        loop {
            for factor in [1, 2, 5] {
                if ten * factor >= wanted {
                    return ten * factor;
                }
            }
            ten *= 10;
        }
    }
}

fn moments(lane: &Lane) -> impl Iterator<Item = u64> + '_ {
    let roles = lane.roles.iter().map(|(at, _)| *at);
    let leases = lane.leases.iter().flat_map(|&(begin, end)| [begin, end]);
    let marks = lane.refusals.iter().chain(&lane.epochs).map(|(at, _)| *at);
    let heartbeats = lane.heartbeats.iter().copied();
    roles.chain(leases).chain(marks).chain(heartbeats)
}

/// The drawing.
pub fn svg(lanes: &Lanes) -> String {
    let axis = Axis::of(lanes);
    let height = TOP + ROW * lanes.len() as u64 + 40;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    );
    legend(&mut svg);
    marks(&axis, height - 40, &mut svg);
    for (row, ((portion, controller), lane)) in lanes.iter().enumerate() {
        let top = TOP + ROW * row as u64;
        let _ = writeln!(
            svg,
            "<text x=\"8\" y=\"{}\">{}</text><text x=\"8\" y=\"{}\" fill=\"#6b7280\">controller \
             {controller}</text>",
            top + 24,
            shortened(portion),
            top + 40,
        );
        draw(lane, &axis, top, &mut svg);
    }
    svg.push_str("</svg>\n");
    svg
}

/// The text in the margin. A uuid is shortened; a name has no character that must be escaped.
fn shortened(portion: &str) -> String {
    match portion.chars().count() {
        0..=18 => portion.to_owned(),
        _ => portion.chars().take(17).chain(['…']).collect(),
    }
}

fn colour(role: Option<Role>) -> &'static str {
    match role {
        None => "#ffffff",
        Some(Role::Joining) => "#efe7fb",
        Some(Role::Secondary) => "#e5e7eb",
        Some(Role::Claiming) => "#fde68a",
        Some(Role::Owner) => "#93c5fd",
        Some(Role::Releasing) => "#fdba74",
        Some(Role::Failed) => "#fecaca",
    }
}

fn legend(svg: &mut String) {
    for (index, role) in Role::ALL.into_iter().enumerate() {
        let x = LEFT + 110 * index as u64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"12\" width=\"14\" height=\"12\" fill=\"{}\" stroke=\"#9ca3af\"/>\
             <text x=\"{}\" y=\"22\">{role}</text>",
            colour(Some(role)),
            x + 20,
        );
    }
    for (index, (colour, text)) in [
        ("#15803d", "lease"),
        ("#1f2937", "heartbeat"),
        ("#dc2626", "refused"),
    ]
    .into_iter()
    .enumerate()
    {
        let x = LEFT + 660 + 110 * index as u64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"15\" width=\"14\" height=\"6\" fill=\"{colour}\"/><text \
             x=\"{}\" y=\"22\">{text}</text>",
            x + 20,
        );
    }
}

/// Seconds since the first moment.
fn marks(axis: &Axis, bottom: u64, svg: &mut String) {
    let step_ns = axis.step_ns();
    let mut at_ns = 0_u64;
    while axis.begin_ns.saturating_add(at_ns) <= axis.end_ns {
        let x = axis.x(axis.begin_ns.saturating_add(at_ns));
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" \
             stroke=\"#d1d5db\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" \
             fill=\"#6b7280\">{} s</text>",
            bottom + 18,
            at_ns as f64 / NS_PER_S,
        );
        at_ns = at_ns.saturating_add(step_ns);
    }
}

fn draw(lane: &Lane, axis: &Axis, top: u64, svg: &mut String) {
    let ends = lane.roles.iter().skip(1).map(|(at, _)| *at);
    let ends = ends.chain([axis.end_ns]);
    for (&(begin_ns, role), end_ns) in lane.roles.iter().zip(ends) {
        let title = role.map_or("gone", Role::token);
        rect(
            svg,
            axis,
            (begin_ns, end_ns),
            (top + 16, 20),
            colour(role),
            title,
        );
    }
    for (begin_ns, end_ns) in joined(&held(lane)) {
        let length_s = (end_ns.saturating_sub(begin_ns)) as f64 / NS_PER_S;
        let title = format!("lease for {length_s:.3} s");
        rect(
            svg,
            axis,
            (begin_ns, end_ns),
            (top + 10, 5),
            "#15803d",
            &title,
        );
    }
    for &at_ns in &lane.heartbeats {
        tick(
            svg,
            axis.x(at_ns),
            (top + 16, top + 22),
            "#1f2937",
            "heartbeat",
        );
    }
    for &(at_ns, count) in &lane.refusals {
        let title = format!("{count} refused or late");
        tick(svg, axis.x(at_ns), (top + 37, top + 45), "#dc2626", &title);
    }
    let epochs = changed(&lane.epochs);
    for (index, &(at_ns, epoch)) in epochs.iter().enumerate() {
        let x = axis.x(at_ns);
        // If two texts would overlap, only the later one is drawn.
        let next = epochs.get(index + 1).map(|&(next_ns, _)| axis.x(next_ns));
        if next.is_some_and(|next| next - x < EPOCH_WIDTH) {
            continue;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" font-size=\"10\">epoch {epoch}</text>",
            x + 2.0,
            top + 32,
        );
    }
}

/// The epochs that differ from the one before.
fn changed(epochs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut changed: Vec<(u64, u64)> = Vec::new();
    for &(at_ns, epoch) in epochs {
        if changed.last().is_none_or(|&(_, last)| last != epoch) {
            changed.push((at_ns, epoch));
        }
    }
    changed
}

/// The leases, each up to the moment at which it was given up. The heartbeat that extended it
/// recorded a later end.
fn held(lane: &Lane) -> Vec<(u64, u64)> {
    let until = |(begin_ns, end_ns): (u64, u64)| {
        let gives_up = |role: Option<Role>| !role.is_some_and(Role::owns);
        let mut later = lane.roles.iter().skip_while(|(at, _)| *at <= begin_ns);
        let given_up = later.find(|(_, role)| gives_up(*role));
        (begin_ns, given_up.map_or(end_ns, |(at, _)| end_ns.min(*at)))
    };
    lane.leases.iter().copied().map(until).collect()
}

/// Joins leases that were extended before they ended.
fn joined(leases: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for &(begin_ns, end_ns) in leases {
        match joined.last_mut() {
            Some((_, last)) if begin_ns <= *last => *last = end_ns.max(*last),
            _ => joined.push((begin_ns, end_ns)),
        }
    }
    joined
}

fn rect(
    svg: &mut String,
    axis: &Axis,
    (begin_ns, end_ns): (u64, u64),
    (y, height): (u64, u64),
    fill: &str,
    title: &str,
) {
    let (from, to) = (axis.x(begin_ns), axis.x(end_ns));
    let _ = writeln!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{height}\" \
         fill=\"{fill}\"><title>{title}</title></rect>",
        to - from,
    );
}

fn tick(svg: &mut String, x: f64, (from, to): (u64, u64), colour: &str, title: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\" \
         stroke=\"{colour}\"><title>{title}</title></line>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_everything_that_was_recorded_is_drawn() {
        let second = 1_000_000_000;
        let lane = Lane {
            roles: vec![
                (0, Some(Role::Secondary)),
                (second, Some(Role::Owner)),
                (3 * second, None),
            ],
            // The last lease was given up before its end.
            leases: vec![(second, 2 * second), (2 * second - 1, 5 * second)],
            heartbeats: vec![second, 2 * second],
            refusals: vec![(4 * second, 2)],
            epochs: vec![
                (second, 7),
                (2 * second, 7),
                (11 * second - 1, 8),
                (11 * second, 9),
            ],
        };
        let lanes = Lanes::from([((String::from("alpha"), 1), lane)]);
        let svg = svg(&lanes);
        for (text, count) in [
            ("<title>owner</title>", 1),
            ("<title>gone</title>", 1),
            ("<title>lease for 2.000 s</title>", 1),
            ("<title>heartbeat</title>", 2),
            ("<title>2 refused or late</title>", 1),
            (">epoch 7<", 1),
            (">epoch 8<", 0),
            (">epoch 9<", 1),
            (">alpha<", 1),
            (">controller 1<", 1),
            // Ten seconds in steps of one.
            (" s</text>", 11),
        ] {
            assert_eq!(svg.matches(text).count(), count, "{text}: {svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
