//! The loops around the plan and the election.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use ipam_core::{EniId, FailureClass};
use rand::random;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Election, Kept, LeaseStore, LeaseTerms, Leftovers, Reply, Settings, plan, suspects};
use crate::cause::chain;
use crate::ec2::Ec2Error;
use crate::metrics::Metrics;
use crate::rfc3339;

/// Between two changes: the account's five deletes a second are the nodes' first.
const PACE: Duration = Duration::from_millis(500);
/// Between two attempts at a change that EC2 throttles, at first; each pause is twice the one before.
const THROTTLED: Duration = Duration::from_secs(2);
/// Attempts at one change.
const ATTEMPTS: u32 = 5;
/// No request to the API server may take longer.
const REQUEST: Duration = Duration::from_secs(10);

/// What a sweep did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// ENIs that it found.
    pub found: usize,
    /// ENIs that are gone because of it.
    pub deleted: Vec<EniId>,
    /// ENIs whose age was not known and is from now on.
    pub dated: Vec<EniId>,
    /// How many it left alone, by the reason.
    pub kept: BTreeMap<Kept, usize>,
    /// How many could not be deleted or dated.
    pub failed: usize,
}

impl Report {
    /// A sentence on what is gone; `None` when nothing is.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        const NAMED: usize = 5;
        let names: Vec<&str> = self.deleted.iter().take(NAMED).map(EniId::as_str).collect();
        let count = self.deleted.len();
        let more = if count > NAMED { ", …" } else { "" };
        (count > 0).then(|| {
            format!("deleted {count} network interface(s) that nodes left over: {}{more}", names.join(", "))
        })
    }
}

/// Why a sweep ended before its end.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("EC2 refused")]
    Ec2(#[source] Ec2Error),
    #[error("the Lease was lost")]
    LeaseLost,
}

/// Until when this node holds the Lease, as its own clock says.
type Held = watch::Receiver<Option<Instant>>;

fn holds(held: &Held) -> bool {
    held.borrow().is_some_and(|until| Instant::now() < until)
}

/// One node's sweeper.
pub struct Sweeper<C, L> {
    settings: Settings,
    cloud: C,
    lease: L,
    metrics: Metrics,
    /// Told of every sweep that came to its end, and of what one did that was cut short.
    told: Box<dyn Fn(&Report) + Send + Sync>,
}

impl<C: Leftovers, L: LeaseStore> Sweeper<C, L> {
    /// A sweeper that does nothing yet.
    pub fn new(
        settings: Settings,
        cloud: C,
        lease: L,
        metrics: Metrics,
        told: impl Fn(&Report) + Send + Sync + 'static,
    ) -> Self {
        Self { settings, cloud, lease, metrics, told: Box::new(told) }
    }

    /// Takes part in the election, and sweeps while it is won. Does not end.
    pub async fn run(self) {
        let (holding, held) = watch::channel(None);
        tokio::join!(self.elect(holding), self.sweep_while(held));
    }

    async fn elect(&self, holding: watch::Sender<Option<Instant>>) {
        let duration = self.settings.lease();
        let terms =
            LeaseTerms { holder: self.settings.node.clone(), duration, patience: REQUEST.min(duration / 6) };
        // All nodes of a cluster may start at once.
        let begin = Instant::now() + (self.settings.period / 12).mul_f64(random());
        let mut election = Election::new(&self.settings.node, duration, begin);
        let mut held = false;
        loop {
            let (at, request) = election.next().clone();
            match election.held_until().filter(|until| held && *until < at) {
                // The Lease may run out before the next request.
                Some(until) => {
                    sleep_until(until).await;
                    self.held(&mut held, false);
                    sleep_until(at).await;
                }
                None => sleep_until(at).await,
            }
            let sent = Instant::now();
            let reply = self.lease.ask(&request, &terms).await;
            let now = Instant::now();
            if reply == Reply::Failed {
                self.metrics.leak_lease_failures.inc();
            }
            election.answer(reply, sent, now, random());
            holding.send_replace(election.held_until());
            self.held(&mut held, election.holds(now));
        }
    }

    fn held(&self, before: &mut bool, now: bool) {
        if *before != now {
            let word = if now { "this node sweeps leaked ENIs" } else { "this node sweeps no more" };
            tracing::info!(cluster = self.settings.cluster, "{word}");
            self.metrics.leak_sweeper.set(now.into());
            *before = now;
        }
    }

    async fn sweep_while(&self, mut held: Held) {
        loop {
            // The sender lives as long as this function's caller.
            let _ = held.wait_for(|until| until.is_some_and(|until| Instant::now() < until)).await;
            let mut report = Report::default();
            let ended = self.sweep(&held, &mut report).await;
            self.metrics.leaked_enis_failed.inc_by(report.failed as u64);
            let period = self.settings.period;
            let pause = match &ended {
                // From nine to eleven tenths.
                Ok(()) => period.mul_f64(0.9 + 0.2 * random::<f64>()),
                // From half of a twelfth to one and a half.
                Err(_) => (period / 12).mul_f64(0.5 + random::<f64>()),
            };
            let kept: Vec<String> =
                report.kept.iter().map(|(reason, count)| format!("{} {count}", reason.as_str())).collect();
            let kept = kept.join(", ");
            match &ended {
                Ok(()) => tracing::info!(
                    found = report.found,
                    deleted = report.deleted.len(),
                    dated = report.dated.len(),
                    failed = report.failed,
                    kept,
                    "swept leaked ENIs"
                ),
                Err(cut) => {
                    self.metrics.leak_sweeps_cut.inc();
                    tracing::warn!(
                        deleted = report.deleted.len(),
                        again_after_s = pause.as_secs(),
                        error = chain(cut),
                        "a sweep of leaked ENIs was cut short"
                    );
                }
            }
            (self.told)(&report);
            sleep(pause).await;
        }
    }

    async fn sweep(&self, held: &Held, report: &mut Report) -> Result<(), Cut> {
        let Settings { cluster, vpc, .. } = &self.settings;
        let records = self.cloud.unattached(cluster, vpc).await.map_err(Cut::Ec2)?;
        let (now, patience) = (SystemTime::now(), self.settings.patience());
        let suspects = suspects(&records, now, cluster, patience);
        let living = match suspects.is_empty() {
            true => suspects,
            false => self.cloud.living(&suspects).await.map_err(Cut::Ec2)?,
        };
        let plan = plan(&records, &living, now, cluster, patience);
        report.found = records.len();
        for (eni, reason) in &plan.kept {
            tracing::debug!(%eni, reason = reason.as_str(), "an unattached ENI is left alone");
            *report.kept.entry(*reason).or_default() += 1;
        }
        for eni in plan.date {
            let created_at = rfc3339::write(SystemTime::now());
            if self.change(held, report, &eni, || self.cloud.date(&eni, created_at.clone())).await? {
                tracing::info!(%eni, created_at, "an unattached ENI without a date is told the time from now on");
                report.dated.push(eni);
            }
        }
        for eni in plan.delete {
            if self.change(held, report, &eni, || self.cloud.delete(&eni)).await? {
                tracing::info!(%eni, cluster, "a leaked ENI was deleted");
                self.metrics.leaked_enis_deleted.inc();
                report.deleted.push(eni);
            }
        }
        Ok(())
    }

    /// One change, if the Lease is still held; whether it took place. What concerns this ENI alone is passed over.
    async fn change<'a, F>(
        &self,
        held: &Held,
        report: &mut Report,
        eni: &EniId,
        call: impl Fn() -> F,
    ) -> Result<bool, Cut>
    where
        F: Future<Output = Result<(), Ec2Error>> + Send + 'a,
    {
        let mut pause = PACE;
        for attempt in 1.. {
            sleep(pause).await;
            if !holds(held) {
                return Err(Cut::LeaseLost);
            }
            let Err(error) = call().await else { return Ok(true) };
            match error.class {
                // Somebody else was first.
                FailureClass::NotFound => return Ok(false),
                FailureClass::Throttled if attempt < ATTEMPTS => {
                    pause = THROTTLED * 2_u32.pow(attempt - 1);
                }
                // The next ENIs would fare no better.
                FailureClass::Throttled | FailureClass::Permission => return Err(Cut::Ec2(error)),
                // It was attached meanwhile.
                FailureClass::Retry if error.code.is_some() && !error.outcome_unknown => return Ok(false),
                _ => {
                    tracing::warn!(%eni, error = chain(&error), "a leaked ENI stays for now");
                    report.failed += 1;
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
