// SPDX-License-Identifier: GPL-2.0
//! Breadth-first search of everything a [`Portion`] can come to, on two threads.
//!
//! stateright explores the same [`stateright::Model`] and must count the same states (there is a
//! test); it keeps the path to every waiting state and copies it for every step, which these
//! models, tens of steps deep and tens of millions of states wide, have no room for. Here a visited
//! state is 16 bytes. A violation stops the search at the end of its level, so that it is one of
//! the shortest; the path to it comes from a second search that remembers where each state came
//! from.

use crate::portion::{Portion, State, Step};
use crate::print::Shards;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const THREADS: usize = 2;

/// States that a thread takes at a time.
const CHUNK: usize = 256;

/// How much memory of this computer the search may use.
const MEMORY_MIB: u64 = 8_000;

/// How an exploration ended.
#[derive(Debug)]
pub struct Report {
    pub states: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
    pub elapsed: Duration,
    pub memory_mib: u64,
    /// The rule that is broken, and after how many steps.
    pub broken: Option<(&'static str, usize)>,
    /// Whether everything was seen.
    pub is_complete: bool,
}

/// A search: the states seen (and where each came from, if wanted), and those to go on from.
struct Search<'a, const N: usize> {
    portion: &'a Portion<N>,
    seen: Shards<()>,
    ways: Option<Shards<u128>>,
    broken: Mutex<Option<State<N>>>,
}

/// Explores everything, or up to `limit` states.
pub fn explore<const N: usize>(portion: &Portion<N>, limit: usize) -> Report {
    let begun = Instant::now();
    let search = Search::new(portion, false);
    let (depth, is_complete) = search.run(limit, portion.config.name);
    let broken = search.broken.lock().expect("no thread panicked").take();
    let states = search.seen.len();
    let memory_mib = resident_mib();
    drop(search);
    let broken = broken.map(|state| {
        let steps = way(portion, &state, depth);
        println!("{}: {} after:", portion.config.name, rule(&state));
        for (number, step) in (1..).zip(&steps) {
            println!("  {number:3} {step:?}");
        }
        (rule(&state), steps.len())
    });
    Report {
        states,
        depth,
        elapsed: begun.elapsed(),
        memory_mib,
        broken,
        is_complete,
    }
}

fn rule<const N: usize>(state: &State<N>) -> &'static str {
    state
        .broken
        .unwrap_or("L2: whoever is alone does not come to own")
}

impl<'a, const N: usize> Search<'a, N> {
    fn new(portion: &'a Portion<N>, keeps_ways: bool) -> Self {
        Self {
            portion,
            seen: Shards::default(),
            ways: keeps_ways.then(Shards::default),
            broken: Mutex::new(None),
        }
    }

    /// Level by level; returns the number of levels and whether that is everything.
    fn run(&self, limit: usize, name: &str) -> (usize, bool) {
        let start = self.portion.start();
        self.seen.insert(start.print(), ());
        let mut level = vec![start];
        let mut depth = 0;
        let mut told = Instant::now();
        while !level.is_empty() {
            level = self.step(&level);
            depth += 1;
            let is_broken = self.broken.lock().expect("no thread panicked").is_some();
            if is_broken || self.seen.len() > limit || resident_mib() > MEMORY_MIB {
                return (depth, false);
            }
            if told.elapsed() > Duration::from_secs(20) {
                told = Instant::now();
                let (states, width) = (self.seen.len(), level.len());
                let (nodes, known) = self.portion.sizes();
                let memory = resident_mib();
                println!(
                    "  {name}: {states} states, {width} at depth {depth}, {nodes} nodes, \
                     {known} steps, {memory} MiB"
                );
            }
        }
        (depth - 1, true)
    }

    /// All that one step leads to from `level` and was not seen before.
    fn step(&self, level: &[State<N>]) -> Vec<State<N>> {
        let next_chunk = AtomicUsize::new(0);
        let work = || {
            let mut found = Vec::new();
            loop {
                let at = next_chunk.fetch_add(1, Ordering::Relaxed) * CHUNK;
                let Some(rest) = level.get(at..).filter(|rest| !rest.is_empty()) else {
                    return found;
                };
                for state in &rest[..CHUNK.min(rest.len())] {
                    self.expand(state, &mut found);
                }
            }
        };
        if level.len() < CHUNK {
            return work();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let parts = threads
                .into_iter()
                .map(|it| it.join().expect("no thread panicked"));
            parts.flatten().collect()
        })
    }

    fn expand(&self, state: &State<N>, found: &mut Vec<State<N>>) {
        let mut steps = Vec::new();
        self.portion.steps(state, &mut steps);
        for step in steps {
            let next = self.portion.next(state, step);
            let Some(next) = next.filter(|next| self.portion.is_within(next)) else {
                continue;
            };
            let print = next.print();
            if self.seen.insert(print, ()).is_some() {
                continue;
            }
            if let Some(ways) = &self.ways {
                ways.insert(print, state.print());
            }
            if next.broken.is_some() || !self.portion.is_live(&next) {
                *self.broken.lock().expect("no thread panicked") = Some(next);
            } else {
                found.push(next);
            }
        }
    }
}

/// The steps that lead to a broken state, found by a second search.
fn way<const N: usize>(portion: &Portion<N>, end: &State<N>, depth: usize) -> Vec<Step> {
    let search = Search::new(portion, true);
    let mut level = vec![portion.start()];
    search.seen.insert(level[0].print(), ());
    for _ in 0..depth {
        level = search.step(&level);
    }
    let mut prints = vec![end.print()];
    let ways = search.ways.unwrap_or_default();
    while let Some(from) = prints.last().and_then(|print| ways.get(print)) {
        prints.push(*from);
    }
    let mut state = portion.start();
    let mut way = Vec::new();
    for print in prints.iter().rev().skip(1) {
        let mut steps = Vec::new();
        portion.steps(&state, &mut steps);
        let step = steps
            .into_iter()
            .find(|step| portion.take(&state, *step).print() == *print);
        let step = step.expect("a state that was reached is reached again");
        state = portion.take(&state, step);
        way.push(step);
    }
    way
}

/// Memory in use by this process.
pub fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
