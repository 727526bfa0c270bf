//! Histories that once broke a law, as proptest shrank them, written out: a
//! seed finds its history only as long as the events are drawn the same way.

use ipam_core::{FailureClass, Operation};

use crate::events::Choice as Subnets;
use crate::events::Event::{
    self, Add, Announce, Burst, Choice, Commit, Cooldown, Del, DelAll, Disown, Lag, MaxPods, Occupy, Omit,
    Pass, Prefixes, Restart, TearOff, Warm,
};
use crate::laws::check_history;
use crate::world::{Fault, Remains};

#[test]
fn past_failures() {
    const CRASH: Event = Restart(Remains::Everything);
    let lost = |operation| Event::Fault(operation, Fault::LostReply);
    // Surplus that had once been smaller was never given back.
    check_history("m5.xlarge", 4096, false, &[Add(0), Pass(5000), DelAll]);
    check_history("m5.large", 4096, false, &[Pass(1300), Add(0), Pass(1), Pass(3449), Del(0)]);
    // A detach without an answer, and a describe that still showed it attached.
    let detach = [Add(0), Pass(300), Lag(1), DelAll, lost(Operation::Detach), Pass(62_900), Burst(0, 10)];
    check_history("m5.large", 4096, false, &detach);
    check_history("m5.large", 64, false, &detach);
    // A restart right after a detach: the checkpoint must say that it leaves.
    let unassign = Event::Fault(Operation::Unassign, Fault::Fail(FailureClass::Throttled));
    let restart = [
        Warm(1, Some(0), None),
        unassign,
        Lag(3),
        Burst(0, 15),
        Pass(2750),
        CRASH,
        DelAll,
        Pass(86_688),
        Pass(3612),
        Burst(2, 14),
        CRASH,
        Add(0),
        Pass(150),
    ];
    check_history("m5.xlarge", 4096, true, &restart);
    // An attach without an answer, seen late, made a second ENI.
    let attach = [
        Lag(12),
        CRASH,
        lost(Operation::Attach),
        Burst(0, 10),
        Pass(3073),
        CRASH,
        Burst(0, 10),
        Pass(610),
        DelAll,
        Pass(2287),
        Add(0),
        Pass(6480),
    ];
    check_history("m5.large", 4096, false, &attach);
    // A full subnet was tried again and again instead of read.
    check_history("m5.large", 64, false, &[Occupy("subnet-a", 23), Prefixes(true), Occupy("subnet-a", 19)]);
    check_history("m5.large", 64, false, &[Occupy("subnet-a", 28), Occupy("subnet-a", 20), Add(0)]);
    check_history(
        "m5.large",
        64,
        false,
        &[Add(0), Occupy("subnet-a", 11), Occupy("subnet-a", 19), Burst(1, 10), Prefixes(true)],
    );
    // A cooldown that grew while an address rested.
    let cooldown = [Cooldown(0), Add(0), Pass(600), Add(30), Commit(30), DelAll, Cooldown(31), Burst(0, 9)];
    check_history("t3.small", 4096, false, &cooldown);
}

/// Restarts that know little, EC2 that lags, ENIs that others take.
#[test]
fn past_failures_of_memory() {
    const AMNESIA: Event = Restart(Remains::NoCheckpoint);
    const CRASH: Event = Restart(Remains::Everything);
    // A pod that asked again before it had been taken over got two addresses.
    let twice = [Add(28), Pass(600), Commit(28), AMNESIA, Burst(24, 5), Pass(5000), DelAll];
    check_history("t3.small", 4096, false, &twice);
    check_history("m5.large", 4096, false, &twice);
    // Addresses that a lagging describe showed only later did not cool down.
    let late = [Burst(38, 2), Pass(750), Commit(39), Del(39), AMNESIA, Add(1), Lag(1), Pass(150), Add(0)];
    check_history("m5.xlarge", 4096, true, &late);
    // A second crash took the first one's ignorance for knowledge.
    let again = [Burst(5, 9), Pass(600), Commit(5), DelAll, AMNESIA, Choice(Subnets::Custom), CRASH, Add(0)];
    check_history("m5.large", 4096, false, &again);
    // An ENI whose detach was over before the checkpoint was lost.
    let detached = [
        Pass(1000),
        Lag(24),
        Warm(0, None, Some(0)),
        Pass(60_600),
        AMNESIA,
        Add(0),
        Pass(750),
        TearOff(0, false),
    ];
    check_history("m5.xlarge", 4096, true, &detached);
    let twice_lost =
        [Warm(0, None, Some(0)), Lag(3), Burst(0, 10), Pass(3600), AMNESIA, Pass(90_600), AMNESIA, Add(0)];
    check_history("m5.large", 4096, false, &twice_lost);
    let late_view = [
        Pass(1150),
        CRASH,
        Add(0),
        Pass(30_085),
        Add(0),
        Pass(55_159),
        Pass(4786),
        Lag(1),
        Pass(570),
        AMNESIA,
        Burst(0, 7),
        Pass(5000),
    ];
    check_history("t3.small", 4096, false, &late_view);
    // An ENI that an operator had taken out of our hands counted for ever.
    let disowned = [Add(0), Pass(750), Disown(0), Choice(Subnets::Custom), Pass(600), CRASH];
    check_history("m5.xlarge", 4096, true, &disowned);
    // The milder of two failures shortened the pause of the other.
    let pauses = [
        Add(0),
        Event::Fault(Operation::Attach, Fault::Fail(FailureClass::Permission)),
        Event::Fault(Operation::Attach, Fault::LostReply),
        Announce(4),
        Pass(750),
    ];
    check_history("t3.small", 4096, false, &pauses);
}

/// EC2 left an idle ENI out twice, a lag apart: the pool forgot it, made
/// another, and found it again. The world did not lay its routes anew, so it
/// counted for nothing until the next restart, which gave it back.
#[test]
fn an_eni_that_comes_back() {
    let twice = [Add(0), Pass(133_113), Omit(0), Pass(155_818), Omit(0), Pass(60_000)];
    check_history("m5.large", 64, false, &twice);
    check_history("m5.large", 4096, false, &twice);
    check_history("m5.xlarge", 4096, true, &twice);
}

/// Somebody deletes an ENI with an address on it that rests, and EC2 gives the
/// address anew at once. Who has the checkpoint rests it all the same; without
/// one, nobody can know.
#[test]
fn an_address_that_comes_back_while_it_rests() {
    let amnesia = [
        Commit(0),
        Add(0),
        Add(0),
        Add(0),
        Burst(8, 8),
        Pass(600),
        Event::Fault(Operation::CreateEni, Fault::LostReply),
        Restart(Remains::Everything),
        Add(7),
        Pass(2450),
        MaxPods(4),
        Commit(7),
        Add(0),
        Del(7),
        TearOff(0, true),
        Restart(Remains::NoCheckpoint),
        Add(0),
    ];
    check_history("m5.large", 4096, false, &amnesia);
    for remains in [Remains::NoCheckpoint, Remains::Everything] {
        let again = [
            Burst(0, 10),
            Pass(100_000),
            Commit(9),
            Del(9),
            TearOff(0, true),
            Restart(remains),
            Burst(20, 15),
            Pass(10_000),
        ];
        check_history("m5.large", 4096, false, &again);
    }
}
