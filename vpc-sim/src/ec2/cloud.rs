//! The cloud as others hold it: the state behind a lock, the clock, and the
//! thread that tells the fabric.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tokio::sync::watch;

use super::breakpoint::{BreakState, BreakpointError, BreakpointSpec, BreakpointView, Breakpoints, Passage};
use super::calls::{CallLog, CallRecord, Calls};
use super::clock::{Clock, SimTime, SteadyClock};
use super::error::ApiError;
use super::fault::{FaultError, FaultRule, IMDS_OPERATION};
use super::ids::{EniId, GroupId, InstanceId, Mac, SubnetId, VpcId};
use super::operations;
use super::params::Params;
use super::port::FabricPort;
use super::settings::Settings;
use super::setup::{InstanceFacts, NewInstance, SetupError};
use super::state::State;
use super::xml::{Xml, refusal};

/// A region of one account. Every method may be called from any thread; none
/// waits for modelled time, but [`Cloud::settle`] waits for the fabric.
pub struct Cloud {
    clock: Arc<dyn Clock>,
    /// Everything that changes. Held for one operation, never across an await
    /// or a call of the fabric.
    inner: Mutex<Inner>,
    /// Something was queued for the fabric, or told, or the pump is to stop.
    changed: Condvar,
    /// The same for those who await: a number that changes.
    told: watch::Sender<u64>,
    requests: AtomicU64,
    breakpoints: Breakpoints,
}

struct Inner {
    state: State,
    calls: CallLog,
    imds_calls: CallLog,
    /// The pump that tells the fabric, by number; 0 when there is none.
    pump: u64,
    pumps: u64,
}

/// Why a change of the settings is refused.
#[derive(Debug, thiserror::Error)]
#[error("these are no settings")]
pub struct SettingsError(#[source] serde_json::Error);

/// What is to be answered to a request, and when.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) request_id: String,
    /// How long after the request.
    pub(crate) delay: Duration,
    /// Answered only after the fabric was told what was due then.
    pub(crate) after: (SimTime, u64),
    /// Never answered: the connection is dropped after so long.
    pub(crate) hang: Option<Duration>,
}

/// An interface, for those who look on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EniView {
    /// Its id.
    pub id: EniId,
    /// As Describe shows it.
    pub status: &'static str,
    /// The node it is attached to.
    pub node: Option<String>,
    /// The instance it is attached to.
    pub instance_id: Option<InstanceId>,
    /// Where on the instance.
    pub device_index: Option<u32>,
    /// On which of its network cards.
    pub network_card: Option<u32>,
    /// Whether it goes with the instance.
    pub delete_on_termination: Option<bool>,
    /// Its subnet.
    pub subnet_id: SubnetId,
    /// Its link address.
    #[serde(serialize_with = "serialize_mac")]
    pub mac: Mac,
    /// All single addresses, the primary first.
    pub addresses: Vec<IpAddr>,
    /// All prefixes.
    pub prefixes: Vec<IpNetwork>,
    /// Its security groups.
    pub groups: Vec<GroupId>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

fn serialize_mac<S: serde::Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mac)
}

impl Cloud {
    /// An empty cloud on the machine's clock.
    pub fn new(settings: Settings) -> Arc<Self> {
        Self::with_clock(settings, Arc::new(SteadyClock::new()))
    }

    /// An empty cloud on a clock of one's own.
    pub fn with_clock(settings: Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = Inner {
            state: State::new(settings),
            calls: CallLog::default(),
            imds_calls: CallLog::default(),
            pump: 0,
            pumps: 0,
        };
        Arc::new(Self {
            clock,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            told: watch::Sender::new(0),
            requests: AtomicU64::new(0),
            breakpoints: Breakpoints::default(),
        })
    }

    /// Makes a VPC and its default security group.
    pub fn add_vpc(&self, cidr: Ipv4Network) -> Result<VpcId, SetupError> {
        self.with_state(|state, _| state.add_vpc(cidr))
    }

    /// Makes a subnet without IPv6 in a zone, for example `us-west-2a`.
    pub fn add_subnet(&self, vpc: &VpcId, cidr: Ipv4Network, zone: &str) -> Result<SubnetId, SetupError> {
        self.with_state(|state, _| state.add_subnet(vpc, cidr, None, zone))
    }

    /// Makes a subnet with an IPv6 network, a /64. The VPC takes the /56 around it.
    pub fn add_dual_stack_subnet(
        &self,
        vpc: &VpcId,
        cidr: Ipv4Network,
        ipv6_cidr: Ipv6Network,
        zone: &str,
    ) -> Result<SubnetId, SetupError> {
        self.with_state(|state, _| state.add_subnet(vpc, cidr, Some(ipv6_cidr), zone))
    }

    /// Makes a security group. Groups have no rules: the fabric delivers to all.
    pub fn add_security_group(&self, vpc: &VpcId, name: &str) -> Result<GroupId, SetupError> {
        self.with_state(|state, _| state.add_security_group(vpc, name))
    }

    /// The VPC's default security group.
    pub fn default_group(&self, vpc: &VpcId) -> Option<GroupId> {
        self.with_state(|state, _| state.vpcs.get(vpc).map(|vpc| vpc.default_group.clone()))
    }

    /// Starts an instance with its primary interface, at once.
    pub fn add_instance(&self, new: NewInstance) -> Result<InstanceFacts, SetupError> {
        self.with_state(|state, now| state.add_instance(now, new))
    }

    /// Terminates an instance: its interfaces go when the modelled time is over,
    /// and are deleted or freed as their attachment says.
    pub fn terminate_instance(&self, id: &InstanceId) -> Result<(), ApiError> {
        self.with_state(|state, now| {
            let takes = state.settings.latency.device_detach;
            let takes = state.delay(takes, "terminate", "");
            state.begin_termination(id, now, takes)
        })
    }

    /// The instance that has an address on an attached interface.
    pub fn instance_by_address(&self, address: IpAddr) -> Option<InstanceId> {
        self.with_state(|state, _| {
            state.enis.values().find_map(|record| {
                let attachment = record.eni.attachment.as_ref()?;
                let has = record.eni.networks().iter().any(|network| network.contains(address));
                has.then(|| attachment.instance.clone())
            })
        })
    }

    /// The running instance of a node.
    pub fn instance_by_node(&self, node: &str) -> Option<InstanceId> {
        self.with_state(|state, _| {
            let mut instances = state.instances.values();
            let found = instances.find(|instance| {
                instance.node == node && instance.state == super::model::InstanceState::Running
            });
            found.map(|instance| instance.id.clone())
        })
    }

    /// Sets a key of an instance's metadata, below `meta-data`, or takes it away. False where there is no such
    /// instance.
    pub fn set_metadata(&self, id: &InstanceId, path: &str, text: Option<String>) -> bool {
        self.with_state(|state, _| {
            let Some(instance) = state.instances.get_mut(id) else { return false };
            let path = path.trim_matches('/').to_owned();
            match text {
                Some(text) => instance.metadata.notices.insert(path, text),
                None => instance.metadata.notices.remove(&path),
            };
            true
        })
    }

    /// All interfaces as they are, whatever Describe shows yet.
    pub fn enis(&self) -> Vec<EniView> {
        self.with_state(|state, now| {
            let enis = state.enis.values().map(|record| &record.eni);
            enis.map(|eni| {
                let held = eni.attachment.as_ref();
                let instance = held.and_then(|held| state.instances.get(&held.instance));
                let v4 = eni.primary.iter().chain(&eni.secondaries).map(|a| IpAddr::V4(*a));
                let prefixes = eni.prefixes.iter().map(|p| IpNetwork::V4(*p));
                EniView {
                    id: eni.id.clone(),
                    status: eni.status(now),
                    node: instance.map(|instance| instance.node.clone()),
                    instance_id: held.map(|held| held.instance.clone()),
                    device_index: held.map(|held| held.device_index),
                    network_card: held.map(|held| held.network_card),
                    delete_on_termination: held.map(|held| held.delete_on_termination),
                    subnet_id: eni.subnet.clone(),
                    mac: eni.mac,
                    addresses: v4.chain(eni.ipv6.iter().map(|a| IpAddr::V6(*a))).collect(),
                    prefixes: prefixes.chain(eni.ipv6_prefixes.iter().map(|p| IpNetwork::V6(*p))).collect(),
                    groups: eni.groups.clone(),
                    tags: eni.tags.clone(),
                }
            })
            .collect()
        })
    }

    /// EC2 calls by node and operation since the last reset.
    pub fn calls(&self) -> Calls {
        self.lock().calls.counted().clone()
    }

    /// The last EC2 calls, oldest first.
    pub fn call_log(&self) -> Vec<CallRecord> {
        self.lock().calls.kept().cloned().collect()
    }

    /// Metadata requests by node and path since the last reset.
    pub fn imds_calls(&self) -> Calls {
        self.lock().imds_calls.counted().clone()
    }

    /// Forgets all calls.
    pub fn reset_calls(&self) {
        let mut inner = self.lock();
        inner.calls.reset();
        inner.imds_calls.reset();
    }

    /// Sets a fault for the next calls of an operation, after those set before.
    pub fn set_fault(&self, rule: FaultRule) -> Result<(), FaultError> {
        rule.check(operations::is_known)?;
        self.lock().state.faults.add(rule);
        Ok(())
    }

    /// The faults that wait for their calls.
    pub fn faults(&self) -> Vec<FaultRule> {
        self.lock().state.faults.waiting().to_vec()
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.lock().state.faults.clear();
    }

    /// Sets a node's breakpoint; calls that its former one holds go on.
    pub fn set_breakpoint(&self, spec: BreakpointSpec) -> Result<BreakpointView, BreakpointError> {
        self.breakpoints.set(spec)
    }

    /// Takes a node's breakpoint away. What it holds goes on, or with `drop` has
    /// no answer and no further effect. `None` where there is none.
    pub fn remove_breakpoint(&self, node: &str, drop: bool) -> Option<BreakpointView> {
        self.breakpoints.remove(node, drop)
    }

    /// A node's breakpoint as soon as its state differs from `unlike`, or after
    /// `patience` as it stands. `None` where there is none.
    pub async fn wait_for_breakpoint(
        &self,
        node: &str,
        unlike: BreakState,
        patience: Duration,
    ) -> Option<BreakpointView> {
        self.breakpoints.wait(node, unlike, patience).await
    }

    /// The settings as they are.
    pub fn settings(&self) -> Settings {
        self.lock().state.settings.clone()
    }

    /// Changes the settings that `patch` names (a JSON merge patch, RFC 7396).
    /// A new seed begins its series anew.
    pub fn update_settings(&self, patch: &serde_json::Value) -> Result<Settings, SettingsError> {
        let mut inner = self.lock();
        let mut merged = serde_json::to_value(&inner.state.settings).map_err(SettingsError)?;
        merge_patch(&mut merged, patch);
        let settings: Settings = serde_json::from_value(merged).map_err(SettingsError)?;
        if settings.seed != inner.state.settings.seed {
            inner.state.rng = ChaCha8Rng::seed_from_u64(settings.seed);
        }
        inner.state.settings = settings.clone();
        Ok(settings)
    }

    /// Starts the thread that tells the fabric. What happened before is not
    /// told: this comes before the first instance.
    pub fn start_fabric(self: &Arc<Self>, port: Arc<dyn FabricPort>) -> std::io::Result<FabricPump> {
        let number = {
            let mut inner = self.lock();
            inner.pumps += 1;
            inner.pump = inner.pumps;
            inner.state.fabric.open();
            inner.pumps
        };
        let cloud = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("vpc-fabric".to_owned())
            .spawn(move || cloud.pump(number, port.as_ref()))?;
        Ok(FabricPump { cloud: Arc::clone(self), thread: Some(thread) })
    }

    fn pump(&self, number: u64, port: &dyn FabricPort) {
        let mut inner = self.lock();
        while inner.pump == number {
            let now = self.clock.now();
            if let Some(event) = inner.state.fabric.take_due(now) {
                drop(inner);
                event.tell(port);
                inner = self.lock();
                inner.state.fabric.told();
                self.changed.notify_all();
                self.told.send_modify(|count| *count = count.wrapping_add(1));
                continue;
            }
            inner = match inner.state.fabric.next_due() {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let waited = self.changed.wait_timeout(inner, due.since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Blocks until the fabric was told all that is due now. Returns at once
    /// when there is no fabric.
    pub fn settle(&self) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let number = inner.state.fabric.next_number();
        while inner.pump != 0 && inner.state.fabric.owes(now, number) {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the fabric was told what an answer promises.
    pub(crate) async fn settled(&self, after: (SimTime, u64)) {
        let mut told = self.told.subscribe();
        loop {
            {
                let inner = self.lock();
                if inner.pump == 0 || !inner.state.fabric.owes(after.0, after.1) {
                    return;
                }
            }
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// A request has come to `node`'s listener, and is not executed so far.
    pub(crate) fn arrives(&self, node: &str, form: &str) -> Passage {
        let params = Params::parse(form).unwrap_or_default();
        self.breakpoints.arrive(node, params.action(), &without_signature(form))
    }

    /// Answers one request to the EC2 API that came to `node`'s listener.
    pub(crate) fn answer(&self, node: &str, form: &str) -> Answer {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.state.advance(now);
        let request_id =
            format!("{:08x}-0000-4000-8000-{number:012x}", inner.state.settings.seed & 0xffff_ffff);
        let (operation, outcome) = match Params::parse(form) {
            Ok(params) => inner.run(now, node, params),
            Err(error) => (String::new(), Outcome::at_once(Err(error))),
        };
        let (status, code, body) = match outcome.result {
            Ok(xml) => (200, None, xml.into_response(&operation, &request_id)),
            Err(error) => (error.status, Some(error.code.clone().into_owned()), refusal(&error, &request_id)),
        };
        inner.calls.add(CallRecord {
            at: now,
            node: node.to_owned(),
            number: 0,
            operation: if operation.is_empty() { "(unknown)".to_owned() } else { operation },
            code: if outcome.hang.is_some() { Some("(no answer)".to_owned()) } else { code },
            delay_ms: u64::try_from(outcome.delay.as_millis()).unwrap_or(u64::MAX),
            parameters: without_signature(form),
        });
        let after = (now, inner.state.fabric.next_number());
        drop(inner);
        self.changed.notify_all();
        Answer { status, body, request_id, delay: outcome.delay, after, hang: outcome.hang }
    }

    /// Counts a request to a node's metadata, and draws its fault.
    pub(crate) fn imds_request(&self, node: &str, path: &str) -> Option<FaultRule> {
        let mut inner = self.lock();
        inner.imds_calls.count(node, path);
        inner.state.faults.draw(IMDS_OPERATION, node)
    }

    /// Runs `f` on the state as it is now.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&mut State, SimTime) -> R) -> R {
        let mut inner = self.lock();
        let now = self.clock.now();
        inner.state.advance(now);
        let result = f(&mut inner.state, now);
        drop(inner);
        self.changed.notify_all();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of one caller leaves the state as whole as its operation left
        // it; the others go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an operation ended.
struct Outcome {
    result: Result<Xml, ApiError>,
    delay: Duration,
    hang: Option<Duration>,
}

impl Outcome {
    fn at_once(result: Result<Xml, ApiError>) -> Self {
        Self { result, delay: Duration::ZERO, hang: None }
    }
}

impl Inner {
    /// Faults, throttling, then the operation itself. Its name; "" if unknown.
    fn run(&mut self, now: SimTime, node: &str, params: Params) -> (String, Outcome) {
        let state = &mut self.state;
        let operation = params.action().to_owned();
        if operation.is_empty() {
            let error = ApiError::new("MissingAction", "The request must contain an Action");
            return (String::new(), Outcome::at_once(Err(error)));
        }
        if !operations::is_known(&operation) {
            let error = ApiError::unknown_action(&operation);
            return (String::new(), Outcome::at_once(Err(error)));
        }
        if let Some(version) = params.version().filter(|version| *version != "2016-11-15") {
            let error = ApiError::new(
                "NoSuchVersion",
                format!("The requested version ({version}) of service AmazonEC2 does not exist"),
            );
            return (operation, Outcome::at_once(Err(error)));
        }
        let fault = state.faults.draw(&operation, node);
        if let Some(fault) = &fault {
            let error = match fault.kind.as_str() {
                "throttle" => Some(ApiError::throttled()),
                "server_error" => Some(ApiError::server(fault.status.unwrap_or(500))),
                "unauthorized" => Some(ApiError::unauthorized(super::model::ACCOUNT)),
                "timeout_after_effect" => None,
                code => {
                    let message = fault.message.clone();
                    let message = message.unwrap_or_else(|| format!("{code} (a fault that was set)"));
                    Some(ApiError::new(code.to_owned(), message))
                }
            };
            if let Some(error) = error {
                return (operation, Outcome::at_once(Err(error)));
            }
        }
        let narrowed = operations::is_narrowed(&params);
        if !state.buckets.draw(&state.settings.throttling, now, &operation, narrowed) {
            return (operation, Outcome::at_once(Err(ApiError::throttled())));
        }
        let delay = state.settings.latency.of(&operation);
        let delay = state.delay(delay, &operation, node);
        let result = operations::run(state, now, params);
        let hang = fault.map(|fault| Duration::from_millis(fault.hold_ms.unwrap_or(600_000)));
        (operation, Outcome { result, delay, hang })
    }
}

/// A form without what signs it.
fn without_signature(form: &str) -> String {
    let parameters: Vec<&str> = form
        .split('&')
        .filter(|pair| !pair.starts_with("X-Amz-") && !pair.starts_with("Signature"))
        .collect();
    parameters.join("&")
}

/// RFC 7396.
fn merge_patch(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::Value::Object(serde_json::Map::new());
    }
    let serde_json::Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(serde_json::Value::Null), value);
        }
    }
}

/// The thread that tells the fabric. It ends when this is dropped; what was not
/// told by then never is.
pub struct FabricPump {
    cloud: Arc<Cloud>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for FabricPump {
    fn drop(&mut self) {
        {
            let mut inner = self.cloud.lock();
            inner.pump = 0;
            inner.state.fabric.close();
        }
        self.cloud.changed.notify_all();
        self.cloud.told.send_modify(|count| *count = count.wrapping_add(1));
        if let Some(thread) = self.thread.take() {
            // A fabric that panicked has said so already.
            let _ = thread.join();
        }
    }
}
