//! Dates of HTTP headers.

use std::time::{Duration, SystemTime};

/// Reads a date as user agents do (RFC 6265, 5.1.1): all three forms of RFC 9110, 5.6.7, and what
/// comes near them. The time zone is always taken as GMT.
#[must_use]
pub fn parse_date(text: &str) -> Option<SystemTime> {
    let (mut clock, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        if clock.is_none() && token.contains(':') {
            clock = Some(time_of_day(token)?);
        } else if day.is_none() && digits(token, 1..=2) {
            day = token.parse::<u64>().ok();
        } else if month.is_none() && month_named(token).is_some() {
            month = month_named(token);
        } else if year.is_none() && digits(token, 2..=4) {
            year = token.parse::<u64>().ok();
        }
    }
    let year = match year? {
        year @ 70..=99 => year + 1900,
        year @ 0..=69 => year + 2000,
        year => year,
    };
    let (day, month) = (day?, month?);
    if !(1601..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days_since_1970(year, month, day)? * 86_400 + clock?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// What a `Retry-After` asks for (RFC 9110, 10.2.3): seconds, or the time until a date.
pub(super) fn delay(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    let date = parse_date(value)?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn is_delimiter(c: char) -> bool {
    matches!(c, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~')
}

fn digits(token: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&token.len()) && token.bytes().all(|b| b.is_ascii_digit())
}

fn time_of_day(token: &str) -> Option<u64> {
    let mut parts = token.split(':');
    let mut next = |limit: u64| {
        let part: u64 = parts.next()?.parse().ok()?;
        (part < limit).then_some(part)
    };
    let (hours, minutes, seconds) = (next(24)?, next(60)?, next(61)?);
    Some(hours * 3600 + minutes * 60 + seconds)
}

fn month_named(token: &str) -> Option<u64> {
    const NAMES: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let start = token.get(..3)?;
    let found = NAMES.iter().position(|name| start.eq_ignore_ascii_case(name))?;
    Some(found as u64 + 1)
}

/// Howard Hinnant's `days_from_civil`, for days from 1970 on; none before.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d '1994-11-06 08:49:37' +%s`
    const NOVEMBER_1994: u64 = 784_111_777;

    fn seconds(text: &str) -> Option<u64> {
        let since = parse_date(text)?.duration_since(SystemTime::UNIX_EPOCH);
        Some(since.unwrap().as_secs())
    }

    #[test]
    fn the_three_forms_of_http_and_their_neighbours_are_one_date() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "06 nov 1994 08:49:37",
            "Sun, 6 November 1994 8:49:37 UTC",
        ] {
            assert_eq!(seconds(text), Some(NOVEMBER_1994), "{text}");
        }
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Tue, 29 Feb 2028 12:00:00 GMT"), Some(1_835_438_400));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in
            ["", "tomorrow", "0", "-1", "Sun, 06 Nov 1994", "08:49:37", "32 Nov 1994 08:49:37"]
        {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_delay_is_seconds_or_the_time_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOVEMBER_1994 - 40);
        for (value, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(40)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
        ] {
            assert_eq!(delay(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
