//! Times as RFC 3339 has them.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// The time in UTC with nanoseconds.
pub fn rfc3339(time: SystemTime) -> impl Display {
    // A clock that is set to before 1970 or after 9999 must not end a run.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_nanos(time.clamp(SystemTime::UNIX_EPOCH, last))
}

pub(super) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&rfc3339(*time))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    humantime::parse_rfc3339(&text).map_err(D::Error::custom)
}

pub fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_clock_is_written() {
        let second = Duration::from_secs(1);
        for (time, text) in [
            (
                SystemTime::UNIX_EPOCH - second,
                "1970-01-01T00:00:00.000000000Z",
            ),
            (
                SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_001),
                "2017-07-14T02:40:00.000000001Z",
            ),
            (
                SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_SECOND) + second,
                "9999-12-31T23:59:59.000000000Z",
            ),
        ] {
            let written = serialize(&time, serde_json::value::Serializer).unwrap();
            assert_eq!(written, text);
            deserialize(written).unwrap();
        }
    }
}
