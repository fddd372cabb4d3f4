//! `Retry-After`: when a busy server wants to be asked again (RFC 9110 §10.2.3).

use std::time::Duration;

use ureq::http::{HeaderMap, header};

/// The pause that the server asks for; none when it says nothing that can be read. A date is read by the server's own
/// clock, which is in the same answer: this device's may be wrong.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    if !asked.is_empty() && asked.bytes().all(|digit| digit.is_ascii_digit()) {
        return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
    }
    let (then, now) = (seconds_of(asked)?, seconds_of(text(header::DATE)?)?);
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// Seconds since the year 0 of `Fri, 14 Jul 2017 02:40:00 GMT`, the one form that servers write (RFC 9110 §5.6.7).
fn seconds_of(date: &str) -> Option<u64> {
    let (_, date) = date.split_once(", ")?;
    let mut words = date.strip_suffix(" GMT")?.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = u64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()?;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.splitn(3, ':').map(str::parse::<u64>);
    let (hours, minutes, seconds) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let in_range = (1..=31).contains(&day) && (1..=9999).contains(&year);
    if words.next().is_some() || !in_range || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    // Years that begin in March: the leap day is their last.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        of(&headers).map(|pause| pause.as_secs())
    }

    #[test]
    fn a_pause_is_read_in_seconds_or_as_a_date_of_the_servers_own_clock() {
        let date = Some("Tue, 28 Feb 2028 23:59:30 GMT");
        for (asked, date, expected) in [
            ("0", None, Some(0)),
            ("120", None, Some(120)),
            ("99999999999999999999999", None, Some(u64::MAX)),
            ("Tue, 29 Feb 2028 00:00:00 GMT", date, Some(30)),
            ("Wed, 01 Mar 2028 00:00:00 GMT", date, Some(24 * 3600 + 30)),
            ("Sat, 01 Jan 2028 00:00:00 GMT", date, Some(0)),
            ("Tue, 29 Feb 2028 00:00:00 GMT", None, None),
        ] {
            assert_eq!(read(asked, date), expected, "{asked}");
        }
    }

    #[test]
    fn what_is_no_pause_is_as_good_as_none() {
        let date = Some("Tue, 29 Feb 2028 00:00:00 GMT");
        for asked in [
            "",
            "-1",
            "soon",
            "1.5",
            "Tue, 29 Feb 2028 00:00:00",
            "Tue, 29 Feb 2028 24:00:00 GMT",
            "Tue, 00 Feb 2028 00:00:00 GMT",
            "Tue, 29 Feb 99999999999 00:00:00 GMT",
            "Tue, 29 Fev 2028 00:00:00 GMT",
            "Tue, 29 Feb 2028 00:00 GMT",
        ] {
            assert_eq!(read(asked, date), None, "{asked}");
        }
    }
}
