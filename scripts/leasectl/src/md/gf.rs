// SPDX-License-Identifier: GPL-2.0
//! The arithmetic of md RAID-6: finds the wrong shard of a row, and computes its right content.
//!
//! A row has data shards `D0, D1, ...` and two parity shards, byte by byte
//!
//! ```text
//! P = D0 + D1 + ...          Q = D0 + g D1 + g^2 D2 + ...
//! ```
//!
//! in GF(2^8) with the polynomial 0x11d and g = 2 (H. P. Anvin, "The mathematics of RAID-6"). If
//! one shard is wrong by `e`, the stored parity differs from the parity of the stored data, in P by
//! `p` and in Q by `q`. A wrong P shows as (e, 0), a wrong Q as (0, e), and a wrong Dz as (e, g^z
//! e). So one wrong shard can be found by the content alone; two cannot.

/// Powers of g, twice around, so that sums of two logarithms need no reduction.
const EXP: [u8; 510] = powers();

/// The logarithm of every number but 0.
const LOG: [u8; 256] = logarithms();

const fn powers() -> [u8; 510] {
    let mut table = [0; 510];
    let (mut value, mut at) = (1_u8, 0);
    while at < table.len() {
        table[at] = value;
        let carry = if value & 0x80 != 0 { 0x1d } else { 0 };
        value = (value << 1) ^ carry;
        at += 1;
    }
    table
}

const fn logarithms() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 255 {
        table[EXP[at] as usize] = at as u8;
        at += 1;
    }
    table
}

fn multiply(a: u8, b: u8) -> u8 {
    match (a, b) {
        (0, _) | (_, 0) => 0,
        _ => EXP[usize::from(LOG[usize::from(a)]) + usize::from(LOG[usize::from(b)])],
    }
}

fn divide(a: u8, b: u8) -> u8 {
    match a {
        0 => 0,
        _ => EXP[usize::from(LOG[usize::from(a)]) + 255 - usize::from(LOG[usize::from(b)])],
    }
}

/// g to the power of a shard's number.
fn weight(number: usize) -> u8 {
    EXP[number % 255]
}

/// A shard of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shard {
    /// Data, by its number in the row.
    Data(usize),
    /// The sum of the data.
    P,
    /// The weighted sum of the data.
    Q,
}

/// The difference of each byte between the stored P and Q and those computed from the data.
pub struct Differences {
    p: Vec<u8>,
    q: Vec<u8>,
}

/// The result of comparing one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located {
    /// No shard is wrong.
    Consistent,
    /// This shard is wrong, if only one is.
    Wrong(Shard),
    /// More than one shard is wrong.
    Several,
}

impl Differences {
    /// Compares one block of every shard.
    pub fn new(data: &[&[u8]], p: &[u8], q: &[u8]) -> Differences {
        let (mut p, mut q) = (p.to_vec(), q.to_vec());
        for (number, shard) in data.iter().enumerate() {
            for ((p, q), byte) in p.iter_mut().zip(&mut q).zip(*shard) {
                *p ^= byte;
                *q ^= multiply(weight(number), *byte);
            }
        }
        Differences { p, q }
    }

    /// Finds the shard that is wrong, among `count` data shards and the parity.
    pub fn locate(&self, count: usize) -> Located {
        let mut wrong = None;
        for (&p, &q) in self.p.iter().zip(&self.q) {
            let shard = match (p, q) {
                (0, 0) => continue,
                (_, 0) => Shard::P,
                (0, _) => Shard::Q,
                _ => Shard::Data(usize::from(LOG[usize::from(divide(q, p))])),
            };
            match wrong {
                _ if matches!(shard, Shard::Data(number) if number >= count) => {
                    return Located::Several
                }
                Some(other) if other != shard => return Located::Several,
                _ => wrong = Some(shard),
            }
        }
        wrong.map_or(Located::Consistent, Located::Wrong)
    }

    /// The right content of a shard with the content `stored`, if only this shard is wrong.
    pub fn corrected(&self, shard: Shard, stored: &[u8]) -> Vec<u8> {
        let by = match shard {
            Shard::Data(_) | Shard::P => &self.p,
            Shard::Q => &self.q,
        };
        stored.iter().zip(by).map(|(byte, by)| byte ^ by).collect()
    }

    /// The right content of data shard `number` with the content `stored`, if it is wrong and Q is
    /// right.
    pub fn corrected_by_q(&self, number: usize, stored: &[u8]) -> Vec<u8> {
        let by = self.q.iter().map(|&q| divide(q, weight(number)));
        stored.iter().zip(by).map(|(byte, by)| byte ^ by).collect()
    }

    /// Whether both parities give the same content for data shard `number`, if it alone is wrong.
    pub fn agree_on(&self, number: usize) -> bool {
        let mut bytes = self.p.iter().zip(&self.q);
        bytes.all(|(&p, &q)| multiply(weight(number), p) == q)
    }

    /// The errors of two data shards, if P and Q are right.
    pub fn solve(&self, first: usize, second: usize) -> (Vec<u8>, Vec<u8>) {
        let (a, b) = (weight(first), weight(second));
        let bytes = self.p.iter().zip(&self.q);
        // x + y = p and a x + b y = q, so (a + b) x = q + b p.
        bytes
            .map(|(&p, &q)| {
                let x = divide(q ^ multiply(b, p), a ^ b);
                (x, p ^ x)
            })
            .unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: usize = 6;

    fn row() -> (Vec<Vec<u8>>, Vec<u8>, Vec<u8>) {
        let data: Vec<Vec<u8>> = (0..SHARDS)
            .map(|shard| (0..64).map(|at| (shard * 37 + at * 11 + 5) as u8).collect())
            .collect();
        let zero = vec![0; 64];
        let Differences { p, q } = Differences::new(&slices(&data), &zero, &zero);
        (data, p, q)
    }

    fn slices(data: &[Vec<u8>]) -> Vec<&[u8]> {
        data.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn r20_the_field_is_that_of_md() {
        // Known products of the field with polynomial 0x11d.
        assert_eq!(multiply(2, 0x80), 0x1d);
        assert_eq!(multiply(3, 7), 9);
        assert_eq!(multiply(0x80, 0x80), 0x13, "x^14 = x^4 + x + 1");
        for a in 1..=255 {
            assert_eq!(divide(multiply(a, 0x53), 0x53), a);
        }
        assert_eq!(EXP[255], 1, "g generates every number but 0");
        assert_eq!(
            LOG.iter().filter(|&&log| log == 0).count(),
            2,
            "of 1, and of none"
        );
    }

    #[test]
    fn r20_one_wrong_shard_is_found_wherever_it_is() {
        let (data, p, q) = row();
        let clean = Differences::new(&slices(&data), &p, &q);
        assert_eq!(clean.locate(SHARDS), Located::Consistent);
        let everywhere = (0..SHARDS).map(Shard::Data).chain([Shard::P, Shard::Q]);
        for shard in everywhere {
            let (mut data2, mut p2, mut q2) = (data.clone(), p.clone(), q.clone());
            let (stale, right) = match shard {
                Shard::Data(number) => (&mut data2[number], &data[number]),
                Shard::P => (&mut p2, &p),
                Shard::Q => (&mut q2, &q),
            };
            stale[3] ^= 0x40;
            stale[60] ^= 0xff;
            let stale = stale.clone();
            let seen = Differences::new(&slices(&data2), &p2, &q2);
            assert_eq!(seen.locate(SHARDS), Located::Wrong(shard));
            assert_eq!(&seen.corrected(shard, &stale), right, "{shard:?}");
        }
    }

    #[test]
    fn r20_two_wrong_shards_are_not_taken_for_one() {
        let (data, p, q) = row();
        let mut stale = data.clone();
        for at in 0..64 {
            stale[0][at] ^= at as u8 + 1;
            stale[1][at] ^= 0x80 - at as u8;
        }
        let seen = Differences::new(&slices(&stale), &p, &q);
        assert_eq!(seen.locate(SHARDS), Located::Several);
        assert!(!seen.agree_on(0));
        // Two known shards can be restored.
        let (first, second) = seen.solve(0, 1);
        for (number, by) in [(0, first), (1, second)] {
            let right: Vec<u8> = stale[number].iter().zip(by).map(|(a, b)| a ^ b).collect();
            assert_eq!(right, data[number]);
        }
    }
}
