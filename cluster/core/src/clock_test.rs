use crate::{BootMs, CLOCK_DISTRUST_MS, ClockReading, LogClock, LogTime, Stamped, WallMs};

const T0: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;

fn reading(boot: u64, wall: u64) -> ClockReading {
    ClockReading {
        boot: BootMs(boot),
        wall: WallMs(wall),
        is_synchronised: true,
        apart_ms: None,
    }
}

fn unsynchronised(boot: u64, wall: u64) -> ClockReading {
    ClockReading {
        is_synchronised: false,
        ..reading(boot, wall)
    }
}

fn apart(ms: u64, boot: u64, wall: u64) -> ClockReading {
    ClockReading {
        apart_ms: Some(ms),
        ..reading(boot, wall)
    }
}

/// A time of the group, and what the wall clock showed then.
fn at(time: u64, wall: u64) -> LogTime {
    LogTime {
        time: WallMs(time),
        wall: Some(WallMs(wall)),
    }
}

fn without_wall(time: u64) -> LogTime {
    LogTime {
        time: WallMs(time),
        wall: None,
    }
}

fn due(time: LogTime) -> Stamped {
    let may_expire = true;
    Stamped { time, may_expire }
}

#[test]
fn a_leader_that_begins_counts_the_pause_since_the_last_entry() {
    let mut clock = LogClock::new(at(T0, T0), reading(7, T0 + HOUR_MS));

    let stamped = clock.stamp(reading(107, T0 + HOUR_MS + 100));
    assert_eq!(stamped, due(at(T0 + HOUR_MS + 100, T0 + HOUR_MS + 100)));
}

#[test]
fn a_synchronised_clock_is_believed_but_never_goes_back() {
    let mut clock = LogClock::new(at(T0, T0), reading(0, T0 - 500));

    assert_eq!(clock.stamp(reading(0, T0 - 500)), due(at(T0, T0 - 500)));
    let later = clock.stamp(reading(100, T0 - 450));
    assert_eq!(later, due(at(T0 + 100, T0 - 450)));
}

#[test]
fn a_step_too_small_to_be_seen_is_no_time_that_passed() {
    let mut clock = LogClock::new(at(T0, T0), reading(0, T0));

    let stepped = clock.stamp(reading(100, T0 + 2_000));
    assert_eq!(stepped, due(at(T0 + 100, T0 + 2_000)));
    let next = LogClock::new(stepped.time, reading(300, T0 + 2_200));
    assert_eq!(next.last(), at(T0 + 300, T0 + 2_200));
}

#[test]
fn a_clock_that_stepped_goes_on_by_the_time_that_passed_and_makes_nothing_due() {
    let mut clock = LogClock::new(at(T0, T0), reading(0, T0));
    clock.stamp(reading(0, T0));

    let leapt = clock.stamp(reading(1_000, T0 + 2 * HOUR_MS));

    assert_eq!(leapt.time, without_wall(T0 + 1_000));
    assert!(!leapt.may_expire);
    // It steps back: that is another step.
    assert!(!clock.stamp(reading(2_000, T0 + 2_000)).may_expire);
    let later = CLOCK_DISTRUST_MS + 2_000;
    let believed = clock.stamp(reading(later, T0 + later));
    assert_eq!(believed, due(at(T0 + later, T0 + later)));
}

/// Seed 5974 of the simulation.
#[test]
fn a_step_before_the_first_entry_loses_no_pause_that_was_known_at_the_start() {
    let mut clock = LogClock::new(at(T0, T0), reading(0, T0 + 3_617));

    let leapt = clock.stamp(reading(535, T0 - HOUR_MS));

    assert_eq!(leapt.time, without_wall(T0 + 3_617 + 535));
}

/// A node without a clock that runs while it is off, set right by NTP some time after its start.
#[test]
fn a_pause_that_is_learnt_too_late_shortens_nothing_that_began_since() {
    let mut clock = LogClock::new(at(T0, T0), unsynchronised(0, T0 + 1_000));
    let disconnected = clock.stamp(unsynchronised(10_000, T0 + 11_000));
    assert_eq!(disconnected, due(without_wall(T0 + 10_000)));

    // It was off for an hour.
    let right = |boot| T0 + HOUR_MS + boot;
    let set_right = clock.stamp(reading(20_000, right(20_000)));
    assert_eq!(set_right.time, without_wall(T0 + 20_000));
    assert!(!set_right.may_expire);
    let boot = 20_000 + CLOCK_DISTRUST_MS;
    let believed = clock.stamp(reading(boot, right(boot)));
    assert_eq!(believed, due(at(T0 + boot, right(boot))));

    // A later life goes on from there, and counts its own pause.
    let next = LogClock::new(believed.time, reading(3, right(boot) + HOUR_MS));
    assert_eq!(next.last(), at(T0 + boot + HOUR_MS, right(boot) + HOUR_MS));
}

#[test]
fn a_pause_after_an_entry_without_a_believed_clock_does_not_count() {
    let mut clock = LogClock::new(without_wall(T0), reading(0, T0 + HOUR_MS));

    let stamped = clock.stamp(reading(100, T0 + HOUR_MS + 100));
    assert_eq!(stamped, due(at(T0 + 100, T0 + HOUR_MS + 100)));
}

#[test]
fn without_synchronisation_a_lone_node_goes_on_by_the_time_that_passed() {
    let mut clock = LogClock::new(at(T0, T0), unsynchronised(500, 0));

    let stamped = clock.stamp(unsynchronised(1_500, 0));
    assert_eq!(stamped, due(without_wall(T0 + 1_000)));
    let leapt = clock.stamp(unsynchronised(2_500, T0 * 2));
    assert_eq!(leapt, due(without_wall(T0 + 2_000)));
}

#[test]
fn a_new_group_begins_with_the_time_that_is_read() {
    let now = unsynchronised(500, T0);
    let mut clock = LogClock::new(LogTime::default(), now);

    assert_eq!(clock.stamp(now), due(without_wall(T0)));
}

#[test]
fn a_clock_apart_from_its_peers_is_not_believed() {
    let mut clock = LogClock::new(at(T0, T0), apart(0, 0, T0));

    let refused = clock.stamp(apart(2_001, 10, T0 * 2));

    assert_eq!(refused.time, without_wall(T0 + 10));
    assert!(!refused.may_expire);
}

#[test]
fn leaders_in_turn_with_clocks_a_little_apart_never_make_time_pass_faster() {
    let mut last = at(T0, T0 + 1_900);
    for turn in 1..=100 {
        let boot = turn * 100;
        let ahead = if turn % 2 == 0 { 1_900 } else { 0 };
        let mut clock = LogClock::new(last, apart(ahead, boot, T0 + boot + ahead));
        last = clock.stamp(apart(ahead, boot, T0 + boot + ahead)).time;
        assert!(last.time <= WallMs(T0 + boot), "{last:?} on turn {turn}");
    }
    assert_eq!(last.time, WallMs(T0 + 100 * 100));
}
