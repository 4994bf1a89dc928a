//! A share of the time, so that a child which asks without pause does not get all of it.

use std::time::{Duration, Instant};

/// For each second that is spent, nine are not.
const SHARE: u32 = 10;
/// How far ahead time may be spent: a fifth of a second at once.
const AHEAD: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When all that was spent is paid for.
    paid: Option<Instant>,
}

impl Budget {
    /// Whether something may be begun `now`.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.paid
            .is_none_or(|paid| paid.saturating_duration_since(now) < AHEAD)
    }

    pub(super) fn spend(&mut self, now: Instant, time: Duration) {
        let from = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = Some(from + time * SHARE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_time_is_spent_however_much_is_asked_for() {
        let mut budget = Budget::default();
        let begin = Instant::now();
        let step = Duration::from_millis(1);
        let mut spent = Duration::ZERO;
        let mut now = begin;
        while now < begin + Duration::from_secs(100) {
            if budget.allows(now) {
                budget.spend(now, 3 * step);
                spent += 3 * step;
                now += 3 * step;
            }
            now += step;
        }
        assert!(spent > Duration::from_secs(10), "{spent:?}");
        assert!(spent < Duration::from_millis(10_300), "{spent:?}");
    }

    #[test]
    fn what_is_rare_is_always_allowed() {
        let mut budget = Budget::default();
        let begin = Instant::now();
        for second in 0..100 {
            let now = begin + Duration::from_secs(second);
            assert!(budget.allows(now), "second {second}");
            budget.spend(now, Duration::from_millis(100));
        }
    }
}
