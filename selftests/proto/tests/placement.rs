// SPDX-License-Identifier: GPL-2.0
//! [R20] The batch limit is exactly what redundancy can repair. The tests try every placement of
//! strays over every row layout of small geometries.
//!
//! A row is a codeword: data shards and parity shards (a mirror is one data shard with copies), one
//! on each member. A stray leaves an older content on its member, or nothing (a discard). A repair
//! sees only the content of the members that are left. If a layer above recognises old content
//! (`--detect yes`), those shards are erased. Otherwise the repair knows only how many shards can
//! be wrong at most, and looks for every row that could have been written. The repair is correct if
//! it finds exactly one row, and that is the row that was acknowledged.

use dm_lease_proto::proto::limit::{Counting, Exhausted, Limit, Redundancy, RedundancyKind};
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::collections::BTreeSet;

/// The highest number of shards of a row.
const MAX_SHARDS: usize = 7;

type Row = Vec<u8>;

/// An erasure code over the members of a portion.
struct Code {
    code: ReedSolomon,
    data: usize,
    parity: usize,
}

impl Code {
    fn new(data: usize, parity: usize) -> Self {
        Self {
            code: ReedSolomon::new(data, parity).unwrap(),
            data,
            parity,
        }
    }

    fn shards(&self) -> usize {
        self.data + self.parity
    }

    /// The row that has these shards; `None` if there are too few of them, or if no row has them.
    fn complete(&self, shards: &[Option<u8>]) -> Option<Row> {
        let mut shards: Vec<_> = shards
            .iter()
            .map(|shard| shard.map(|it| vec![it]))
            .collect();
        self.code.reconstruct(&mut shards).ok()?;
        let shards: Vec<Vec<u8>> = shards.into_iter().flatten().collect();
        let fits = self.code.verify(&shards).unwrap();
        fits.then(|| shards.into_iter().flatten().collect())
    }

    fn row(&self, data: &[u8]) -> Row {
        let missing = std::iter::repeat_n(None, self.parity);
        let shards: Vec<_> = data.iter().copied().map(Some).chain(missing).collect();
        self.complete(&shards).unwrap()
    }

    /// Every row that explains what is seen, if at most `wrong` shards are wrong.
    fn explanations(&self, seen: &[Option<u8>], wrong: usize) -> BTreeSet<Row> {
        let there: Vec<_> = (0..seen.len()).filter(|&at| seen[at].is_some()).collect();
        let mut found = BTreeSet::new();
        for suspects in subsets(&there, wrong.min(there.len())) {
            let mut trusted = seen.to_vec();
            suspects.iter().for_each(|&at| trusted[at] = None);
            found.extend(self.complete(&trusted));
        }
        found
    }

    /// A row other than zero that is zero except in these shards and the lost ones.
    fn difference(&self, places: &[usize], lost: &[usize]) -> Row {
        let mut shards = vec![Some(0); self.shards()];
        places.iter().chain(lost).for_each(|&at| shards[at] = None);
        shards[places[0]] = Some(1);
        self.complete(&shards).unwrap()
    }
}

/// All subsets of `count` elements.
fn subsets(of: &[usize], count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![vec![]];
    }
    let mut found = Vec::new();
    for (index, &first) in of.iter().enumerate() {
        for mut rest in subsets(&of[index + 1..], count - 1) {
            rest.insert(0, first);
            found.push(rest);
        }
    }
    found
}

/// A geometry: the code, its lost members, and the limit of the shipped formula.
struct Geometry {
    code: Code,
    lost: Vec<usize>,
    left: Vec<usize>,
    detect: bool,
    limit: usize,
}

/// Every geometry, with every choice of lost members.
fn geometries() -> Vec<Geometry> {
    let mut all = Vec::new();
    for (data, parity) in (1..MAX_SHARDS).flat_map(|n| (1..=MAX_SHARDS - n).map(move |m| (n, m))) {
        let members: Vec<_> = (0..data + parity).collect();
        for (detect, failed) in (0..=parity).flat_map(|f| [(false, f), (true, f)]) {
            for lost in subsets(&members, failed) {
                let left = members.iter().copied().filter(|it| !lost.contains(it));
                all.push(Geometry {
                    code: Code::new(data, parity),
                    left: left.collect(),
                    lost,
                    detect,
                    limit: limit(data, parity, failed, detect),
                });
            }
        }
    }
    all
}

/// M, as the module computes it.
fn limit(data: usize, parity: usize, failed: usize, detect: bool) -> usize {
    let kind = match data {
        1 => RedundancyKind::Mirror(parity as u8 + 1),
        _ => RedundancyKind::Parity(parity as u8),
    };
    let mut redundancy = Redundancy {
        kind,
        detect,
        batch: 0,
        counting: Counting::Ops,
        exhausted: Exhausted::Stop,
        drain_ns: None,
    };
    redundancy.batch = redundancy.healthy_limit().unwrap();
    match redundancy.limit(failed as u32, 0, None) {
        Limit::Count(limit) => limit as usize,
        other => panic!("{other:?}"),
    }
}

impl Geometry {
    /// The shards on the members after the strays have landed. With detection, the strays are
    /// recognised.
    fn seen(&self, row: &Row, strays: &[(usize, u8)]) -> Vec<Option<u8>> {
        let mut seen: Vec<_> = row.iter().copied().map(Some).collect();
        self.lost.iter().for_each(|&at| seen[at] = None);
        for &(at, content) in strays {
            let is_old = content != row[at];
            seen[at] = Some(content).filter(|_| !(self.detect && is_old));
        }
        seen
    }

    /// Whether a repair finds the row that was acknowledged, and no other.
    fn is_repaired(&self, row: &Row, strays: &[(usize, u8)]) -> bool {
        let wrong = if self.detect { 0 } else { strays.len() };
        let rows = self.code.explanations(&self.seen(row, strays), wrong);
        rows.len() == 1 && rows.contains(row)
    }
}

/// Rows to be acknowledged, and their former content, so that each shard differs in every possible
/// way.
fn contents(code: &Code) -> [(Row, Row); 3] {
    let row = |seed: u8| -> Row {
        let data: Vec<_> = (0..code.data as u8)
            .map(|i| (i + 1).wrapping_mul(seed))
            .collect();
        code.row(&data)
    };
    [(row(37), row(91)), (row(91), row(0)), (row(3), row(201))]
}

#[test]
fn r20_every_placement_of_m_strays_is_repaired() {
    let mut tried = 0;
    for it in geometries() {
        for (row, old) in contents(&it.code) {
            for places in subsets(&it.left, it.limit.min(it.left.len())) {
                // Each stray is a late write or a discard.
                for discards in 0..1_u32 << places.len() {
                    let content = |(index, &at): (usize, &usize)| match (discards >> index) & 1 {
                        0 => (at, old[at]),
                        _ => (at, 0),
                    };
                    let strays: Vec<_> = places.iter().enumerate().map(content).collect();
                    assert!(
                        it.is_repaired(&row, &strays),
                        "{} data, {} parity, lost {:?}, detect {}, strays {strays:?}",
                        it.code.data,
                        it.code.parity,
                        it.lost,
                        it.detect,
                    );
                    tried += 1;
                }
            }
        }
    }
    println!("{tried} placements of M strays, all repaired");
    assert!(tried > 10_000);
}

#[test]
fn r20_every_placement_of_one_more_can_be_fatal() {
    let mut tried = 0;
    for it in geometries() {
        let more = it.limit + 1;
        // The number of members in which the two closest rows differ: one more than the parity that
        // is left.
        let apart = it.code.parity - it.lost.len() + 1;
        for places in subsets(&it.left, more.min(it.left.len())) {
            let others = it.left.iter().filter(|at| !places.contains(at));
            let support: Vec<_> = places.iter().chain(others).copied().take(apart).collect();
            let difference = it.code.difference(&support, &it.lost);
            let (row, _) = contents(&it.code)[0].clone();
            // An older row of which exactly these shards come back.
            let strays: Vec<_> = places
                .iter()
                .map(|&at| (at, row[at] ^ difference[at]))
                .collect();
            assert!(strays.iter().all(|&(at, content)| content != row[at]));
            assert!(
                !it.is_repaired(&row, &strays),
                "{} data, {} parity, lost {:?}, detect {}: {more} strays {strays:?} are repaired",
                it.code.data,
                it.code.parity,
                it.lost,
                it.detect,
            );
            tried += 1;
        }
    }
    println!("{tried} placements of M + 1 strays, none repaired");
    assert!(tried > 1_000);
}
