// SPDX-License-Identifier: GPL-2.0
//! Numbers as people read them: durations, sizes, dates, lists of controllers.

use dm_lease_proto::proto::codec::ids::Slot;
use dm_lease_proto::proto::time::NS_PER_MS;
use std::time::Duration;

/// Nanoseconds as milliseconds, without trailing zeros.
pub fn ms(ns: u64) -> String {
    let (whole, rest) = (ns / NS_PER_MS, ns % NS_PER_MS);
    if rest == 0 {
        return format!("{whole} ms");
    }
    let digits = format!("{rest:06}");
    format!("{whole}.{} ms", digits.trim_end_matches('0'))
}

/// Milliseconds as nanoseconds. Longer times saturate, and later checks refuse them.
pub fn ns(ms: u64) -> u64 {
    ms.saturating_mul(NS_PER_MS)
}

/// Nanoseconds rounded up to whole milliseconds, still in nanoseconds.
pub fn round_up_ms(ns: u64) -> u64 {
    ns.div_ceil(NS_PER_MS).saturating_mul(NS_PER_MS)
}

/// Sectors as MiB with one decimal.
pub fn mib(sectors: u64) -> String {
    let tenths = sectors / 2 * 10 / 1024;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// The controllers of a bitmap: "1, 2 and 5".
pub fn controllers(bitmap: u64) -> String {
    let numbers: Vec<String> = Slot::all_in(bitmap).map(|slot| slot.to_string()).collect();
    list(&numbers)
}

/// The controllers of a bitmap, with the noun: "controllers 1 and 2".
pub fn named_controllers(bitmap: u64) -> String {
    let noun = if bitmap.count_ones() == 1 {
        "controller"
    } else {
        "controllers"
    };
    format!("{noun} {}", controllers(bitmap))
}

/// Words as a list: "a, b and c".
pub fn list(words: &[String]) -> String {
    match words {
        [] => String::from("none"),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Seconds since 1970 as a date and time in UTC.
pub fn utc(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Time since 1970 as RFC 3339 has it, with milliseconds.
pub fn rfc3339(since_1970: Duration) -> String {
    let [year, month, day, hour, minute, second] = civil(since_1970.as_secs());
    let ms = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month, day, hour, minute and second.
///
/// Days to a date by counting years from a March: the leap day is the last of such a year
/// (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(seconds: u64) -> [u64; 6] {
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = day.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year + era * 400 + carry;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let second = second % 60;
    [year, month, day, hour, minute, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r47_numbers_are_printed_for_people() {
        assert_eq!(ms(1_851_000_000), "1851 ms");
        assert_eq!(ms(1_500_100), "1.5001 ms");
        assert_eq!(round_up_ms(1_850_000_001), 1_851_000_000);
        assert_eq!(mib(2048), "1.0 MiB");
        assert_eq!(mib(3 * 1024 + 200), "1.5 MiB");
        assert_eq!(controllers(0b10011), "1, 2 and 5");
        assert_eq!(named_controllers(1), "controller 1");
        assert_eq!(named_controllers(3), "controllers 1 and 2");
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_364_480), "2026-11-22 16:21:20 UTC");
        // Any number has a date; none may panic.
        let _ = utc(u64::MAX);
    }
}
