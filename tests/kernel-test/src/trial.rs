//! Trials: a name, what it needs, and what it does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::Need;

/// Names the variable that turns an ignored trial into a failed one.
const REQUIRE_KERNEL: &str = "REQUIRE_KERNEL";

/// One test called `name`, run only where all of `needs` are met.
///
/// The needs are probed when the trial runs, so that `--list` costs nothing.
pub fn trial(
    name: impl Into<String>,
    needs: &[Need],
    body: impl FnOnce() -> Result<()> + Send + 'static,
) -> Trial {
    let needs = needs.to_vec();
    Trial::ignorable_test(name, move || {
        for need in needs {
            if let Err(reason) = need.check() {
                if need.is_required() && kernel_is_required() {
                    return Err(Failed::from(format!("{REQUIRE_KERNEL} is set, but {reason}")));
                }
                return Ok(Completion::ignored_with(reason));
            }
        }
        // Caught here and not only by the front, so that a panic's place is
        // printed beside the name of its trial.
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(error)) => Err(Failed::from(format!("{error:?}"))),
            Err(panic) => Err(Failed::from(panic_text(panic.as_ref()))),
        }
    })
}

/// Runs the trials side by side as the command line says, and ends the process.
pub fn run(trials: Vec<Trial>) -> ! {
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// Runs the trials one after the other: for those that measure time or share
/// something that only one can hold.
pub fn run_one_at_a_time(trials: Vec<Trial>) -> ! {
    run_one_at_a_time_then(trials, || {})
}

/// The same, and `end` after the last: nothing is dropped when a process exits.
pub fn run_one_at_a_time_then(trials: Vec<Trial>, end: impl FnOnce()) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    end();
    conclusion.exit()
}

fn kernel_is_required() -> bool {
    std::env::var(REQUIRE_KERNEL).is_ok_and(|value| !value.is_empty() && value != "0")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".into())
}
