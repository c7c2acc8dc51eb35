//! Moments as people and programs read them.

const SECONDS_A_DAY: u64 = 86_400;

/// A moment in RFC 3339, UTC, to the second.
#[must_use]
pub fn rfc3339(unix_s: u64) -> String {
    let (year, month, day) = civil(unix_s / SECONDS_A_DAY);
    let second_of_day = unix_s % SECONDS_A_DAY;
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Seconds since 1970 of a moment as [`rfc3339`] writes it; `None` of anything else.
#[must_use]
pub fn unix_of_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    // Four digits of a year at most, so that nothing below is too large.
    if text.len() > "1970-01-01T00:00:00Z".len() {
        return None;
    }
    let numbers = |text: &str, mark: char| -> Option<[u64; 3]> {
        let parts = text.split(mark).map(|part| part.parse().ok());
        parts.collect::<Option<Vec<u64>>>()?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    // Howard Hinnant's `days_from_civil`, as [`civil`] is its inverse.
    let (year, month_of_march) = match month {
        1 | 2 => (year.checked_sub(1)?, month + 9),
        3..=12 => (year, month - 3),
        _ => return None,
    };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * month_of_march + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = 365 * year_of_era + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (146_097 * era + day_of_era).checked_sub(719_468)?;
    let second_of_day = hour * 3600 + minute * 60 + second;
    let moment = days * SECONDS_A_DAY + second_of_day;
    (rfc3339(moment) == text).then_some(moment)
}

/// Year, month and day of a day since 1970-01-01: Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), whose years begin in March so
/// that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01, in eras of 400 years, which all have as many days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0; the lengths of the months repeat every five.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = match month {
        0..10 => (month + 3, 0),
        _ => (month - 9, 1),
    };
    (400 * era + year_of_era + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "T",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-1-1T00:00:00Z",
            "2023-01-01T00:00Z",
            "99999999999-1-1T0:0:0Z",
            "99999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(unix_of_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (86_399, "1970-01-01T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (unix_s, text) in cases {
            assert_eq!(rfc3339(unix_s), text);
            assert_eq!(unix_of_rfc3339(text), Some(unix_s));
        }
    }
}
