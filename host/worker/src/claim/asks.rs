//! What to ask for, beside attempts that take their time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use taskforge_domain::TaskType;

use super::POLL;
use crate::places::Crowd;

/// How often tasks are asked for whose types are closed, and how many.
const PROBE: Duration = Duration::from_millis(500);
const PROBED: usize = 4;
/// How long a wait for hints of the other types lasts meanwhile: the closed ones may be open again
/// at any moment.
const RECHECK: Duration = Duration::from_millis(10);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) types: Arc<[TaskType]>,
    pub(super) free: usize,
    /// How long the broker may wait for hints.
    pub(super) wait: Duration,
    /// How long an ask that finds nothing takes at least.
    pub(super) pause: Duration,
    /// Types are left out that could be asked for, so what does not come says nothing about a
    /// backlog.
    pub(super) is_partial: bool,
    /// Fewer are asked for than there is room for, so to get them all says nothing either.
    pub(super) is_cut: bool,
}

impl Wanted {
    /// As many as there is room for, of whatever type.
    pub(super) const fn all(types: Arc<[TaskType]>, free: usize, wait: Duration) -> Self {
        Self { types, free, wait, pause: POLL, is_partial: false, is_cut: false }
    }

    /// Only types like these, without a wait.
    fn narrow(&mut self, takes: impl Fn(&TaskType) -> bool) {
        // In the order that they have: a broker takes a list that it has not seen before for a new
        // worker's.
        self.types = self.types.iter().filter(|name| takes(name)).cloned().collect();
        self.wait = Duration::ZERO;
        self.pause = Duration::ZERO;
        self.is_partial = true;
    }

    fn cut(&mut self, room: usize) {
        self.is_cut |= room < self.free;
        self.free = self.free.min(room);
    }
}

/// Leaves out the closed types, whose tasks would only wait here: another worker may have room for
/// them. But a lane is one tenant's, and the type may have others, so from time to time a few of
/// them are asked for nevertheless; those that cannot begin go back.
///
/// A broker gives what is due of all that it is asked for, so to ask for types together means to
/// ask for no more than each of them has room for. Those that have room for more have their turns
/// after an ask that got all that it asked for: the open ones, then some of the tight ones, then
/// all together again, which is when it waits.
#[derive(Debug, Default)]
pub(super) struct Asks {
    probed: Option<Instant>,
    step: Step,
    /// Whose turn it is among the tight ones.
    turn: usize,
}

#[derive(Debug, Default, Clone, Copy)]
enum Step {
    #[default]
    All,
    Open,
    Tight,
}

impl Asks {
    /// What to ask for now, given all that could be. `is_filled`: the last ask got all that it
    /// asked for.
    pub(super) fn next(&mut self, mut wanted: Wanted, crowd: &Crowd, is_filled: bool) -> Wanted {
        let is_closed = |name: &TaskType| crowd.closed.contains(name);
        let is_any_closed = wanted.types.iter().any(is_closed);
        if is_any_closed && self.probed.is_none_or(|last| last.elapsed() >= PROBE) {
            self.probed = Some(Instant::now());
            wanted.narrow(|_| true);
            wanted.cut(PROBED);
            return wanted;
        }
        let room = |name: &TaskType| {
            let tight = crowd.tight.iter().find(|(tight, _)| tight == name);
            tight.map_or(usize::MAX, |(_, room)| *room)
        };
        let mut rooms: Vec<_> =
            wanted.types.iter().filter(|name| !is_closed(name)).map(room).collect();
        rooms.sort_unstable();
        rooms.dedup();
        // Those with room for all that could be asked for are as good as open.
        let is_any_open = rooms.last().is_some_and(|room| *room >= wanted.free);
        rooms.retain(|room| *room < wanted.free);
        loop {
            self.step = match self.step {
                Step::All if is_filled => Step::Open,
                Step::Open => Step::Tight,
                Step::All | Step::Tight => Step::All,
            };
            match (self.step, rooms.first()) {
                (Step::Open, Some(_)) if is_any_open => {
                    let free = wanted.free;
                    wanted.narrow(|name| !is_closed(name) && room(name) >= free);
                    return wanted;
                }
                (Step::Tight, Some(least)) if rooms.len() > 1 => {
                    self.turn = (self.turn + 1) % rooms.len();
                    let mine = rooms[self.turn];
                    if mine > *least {
                        wanted.narrow(|name| !is_closed(name) && room(name) >= mine);
                        wanted.cut(mine);
                        return wanted;
                    }
                }
                (Step::All, least) => {
                    if let Some(least) = least {
                        wanted.cut(*least);
                    }
                    if is_any_closed {
                        let wait = wanted.wait.min(RECHECK);
                        wanted.narrow(|name| !is_closed(name));
                        // All that could be asked for.
                        (wanted.wait, wanted.pause, wanted.is_partial) = (wait, RECHECK, false);
                    }
                    return wanted;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &str) -> Vec<TaskType> {
        names.split_whitespace().map(|name| TaskType::new(name).unwrap()).collect()
    }

    fn crowd(closed: &str, tight: &[(&str, usize)]) -> Crowd {
        let tight = tight.iter().map(|(name, room)| (TaskType::new(name).unwrap(), *room));
        Crowd { closed: names(closed), tight: tight.collect() }
    }

    const WAIT: Duration = Duration::from_secs(1);

    /// What is asked for in so many turns: how many of which types. The last ask before each was
    /// filled.
    fn turns(asks: &mut Asks, crowd: &Crowd, turns: usize) -> Vec<(usize, String, Duration)> {
        let ask = |_| {
            let all = Wanted::all(names("a b c d").into(), 100, WAIT);
            let wanted = asks.next(all, crowd, true);
            let types: Vec<_> = wanted.types.iter().map(TaskType::as_str).collect();
            (wanted.free, types.join(" "), wanted.wait)
        };
        (0..turns).map(ask).collect()
    }

    fn ask(free: usize, types: &str, wait: Duration) -> (usize, String, Duration) {
        (free, types.to_owned(), wait)
    }

    #[test]
    fn without_slow_attempts_everything_is_asked_for() {
        let mut asks = Asks::default();
        for is_filled in [false, true, true] {
            let all = || Wanted::all(names("a b").into(), 7, WAIT);
            assert_eq!(asks.next(all(), &Crowd::default(), is_filled), all());
        }
    }

    #[test]
    fn closed_types_are_left_out_and_probed() {
        let (mut asks, crowd) = (Asks::default(), crowd("b d elsewhere", &[]));
        let asked = turns(&mut asks, &crowd, 3);
        let probe = ask(4, "a b c d", Duration::ZERO);
        assert_eq!(asked, [probe, ask(100, "a c", RECHECK), ask(100, "a c", RECHECK)]);
        let nothing = asks.next(Wanted::all(names("b d").into(), 100, WAIT), &crowd, false);
        assert!(nothing.types.is_empty());
        let all = || Wanted::all(names("a c").into(), 100, WAIT);
        assert_eq!(asks.next(all(), &crowd, false), all(), "what is closed is not served here");
    }

    #[test]
    fn open_types_are_not_held_up_by_one_that_has_little_room() {
        let asked = turns(&mut Asks::default(), &crowd("", &[("b", 2)]), 4);
        let (open, all) = (ask(100, "a c d", Duration::ZERO), ask(2, "a b c d", WAIT));
        assert_eq!(asked, [open.clone(), all.clone(), open, all]);
    }

    #[test]
    fn nor_are_tight_types_that_have_more_room() {
        let crowd = crowd("", &[("a", 1), ("b", 2), ("c", 50), ("d", 100)]);
        let asked = turns(&mut Asks::default(), &crowd, 8);
        let (open, all) = (ask(100, "d", Duration::ZERO), ask(1, "a b c d", WAIT));
        let some = |free, types| ask(free, types, Duration::ZERO);
        let (two, fifty) = (some(2, "b c d"), some(50, "c d"));
        let cycles = [open.clone(), two, all.clone(), open.clone(), fifty, all.clone(), open, all];
        assert_eq!(asked, cycles);
    }

    #[test]
    fn who_finds_nothing_waits_for_all() {
        let (mut asks, crowd) = (Asks::default(), crowd("", &[("b", 2)]));
        for _ in 0..3 {
            let wanted = asks.next(Wanted::all(names("a b").into(), 100, WAIT), &crowd, false);
            assert_eq!((wanted.types.len(), wanted.free, wanted.wait), (2, 2, WAIT));
        }
    }

    #[test]
    fn what_was_left_out_or_cut_is_said() {
        let mut asks = Asks::default();
        let crowd = crowd("", &[("b", 2)]);
        let mut next = || {
            let wanted = asks.next(Wanted::all(names("a b").into(), 100, WAIT), &crowd, true);
            (wanted.is_partial, wanted.is_cut)
        };
        assert_eq!((next(), next()), ((true, false), (false, true)));
    }

    #[test]
    fn a_worker_of_slow_types_only_waits_each_time() {
        let crowd = crowd("", &[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
        let asked = turns(&mut Asks::default(), &crowd, 2);
        assert_eq!(asked, [ask(2, "a b c d", WAIT), ask(2, "a b c d", WAIT)]);
    }
}
