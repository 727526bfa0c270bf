//! The SDK client as the agent uses it: where its credentials come from, and that it neither repeats nor waits on its
//! own.
//!
//! The SDK finds credentials and endpoints by its process's environment, so each trial runs this binary again, with
//! only the variables that a pod or an instance would have. It makes a call for each line that it reads.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use ipam_core::InstanceId;
use kernel_test::{Trial, trial, wait_for};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidepool_agent::ec2::{AwsEc2, CallBudget, CallObserver, CallReport, Ec2, Guard};
use tidepool_agent::rfc3339;

/// Set in the process that makes calls.
const CALLER: &str = "TIDEPOOL_TEST_CALLER";

fn main() -> ExitCode {
    match std::env::var(CALLER) {
        Ok(budget) => match call(&budget) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        },
        Err(_) => kernel_test::run(trials()),
    }
}

fn trials() -> Vec<Trial> {
    vec![
        trial("credentials_of_the_instances_role", &[], instance_role),
        trial("credentials_by_irsa", &[], irsa),
        trial("credentials_by_eks_pod_identity", &[], pod_identity),
        trial("expired_credentials_are_replaced", &[], expired),
        trial("without_credentials_the_call_is_not_permitted", &[], none_at_all),
        trial("a_call_is_made_once", &[], once),
        trial("a_call_ends_at_its_deadline", &[], deadline),
        trial("an_operation_has_its_own_rate", &[], own_rate),
    ]
}

/// What became of a call.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// `done`, or the error with its class before it.
    said: String,
    took: Duration,
    held_back: Duration,
}

/// What the caller's guard allows: calls at once, calls a second, and the deadline.
type Budget = (u32, f64, Duration);

/// In a process of its own: a call for each line, and what became of it.
fn call(budget: &str) -> Result<()> {
    let (burst, per_second, deadline): Budget = serde_json::from_str(budget)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let aws = runtime.block_on(AwsEc2::connect("us-west-2"))?;
    let last = Arc::new(Last::default());
    let observer: Arc<dyn CallObserver> = Arc::clone(&last) as Arc<dyn CallObserver>;
    let ec2 = Guard::new(
        Arc::new(aws),
        CallBudget { burst, per_second, deadline, ..CallBudget::default() },
        observer,
    );
    for line in std::io::stdin().lines() {
        line?;
        // What came back stands in the report too.
        let _ = runtime.block_on(ec2.describe_enis(&InstanceId::new("i-1")));
        let told = last.0.lock().unwrap_or_else(PoisonError::into_inner).take().context("no report")?;
        println!("{}", serde_json::to_string(&told)?);
    }
    Ok(())
}

/// The last call's report.
#[derive(Default)]
struct Last(Mutex<Option<Told>>);

impl CallObserver for Last {
    fn call_ended(&self, report: CallReport<'_>) {
        let said =
            report.error.map_or_else(|| "done".to_owned(), |error| format!("{}: {error}", report.outcome()));
        let told = Told { said, took: report.took, held_back: report.held_back };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

// --------------------------------------------------------------- the services

/// EC2, STS, the metadata service and the pod identity agent, on one port of loopback.
struct Services {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Heard {
    /// Access key ids that signed EC2 calls.
    keys: Vec<String>,
    /// Session tokens that came with them.
    tokens: BTreeSet<String>,
    /// Other requests, by what they carried.
    asked: Vec<String>,
    /// Credentials that were given out.
    given: u32,
    /// How long they last.
    lifetime: Duration,
    behaviour: Behaviour,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Behaviour {
    #[default]
    Answers,
    Refuses,
    Hangs,
}

impl Services {
    fn start() -> Result<Self> {
        let heard = Arc::new(Mutex::new(Heard { lifetime: Duration::from_secs(3600), ..Heard::default() }));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let router = Router::new().fallback(answer).with_state(Arc::clone(&heard));
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            tokio::spawn(async move { axum::serve(listener, router).await });
            anyhow::Ok(address)
        })?;
        Ok(Self { address, heard, _runtime: runtime })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn heard<T>(&self, read: impl FnOnce(&mut Heard) -> T) -> T {
        read(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls with only these variables set, beside the endpoint of EC2.
    fn caller(&self, environment: &[(&str, &str)]) -> Result<Caller> {
        let default = CallBudget::default();
        self.caller_with((default.burst, default.per_second, default.deadline), environment)
    }

    fn caller_with(&self, budget: Budget, environment: &[(&str, &str)]) -> Result<Caller> {
        let mut child = Command::new(std::env::current_exe()?)
            .env_clear()
            .env(CALLER, serde_json::to_string(&budget)?)
            .env("AWS_ENDPOINT_URL_EC2", self.url())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take().context("stdin")?, child.stdout.take().context("stdout")?);
        Ok(Caller { child, input, output: BufReader::new(output) })
    }

    fn keys(&self) -> Vec<String> {
        self.heard(|heard| heard.keys.clone())
    }
}

struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    fn call(&mut self) -> Result<Told> {
        self.input.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the caller said «{line}»"))
    }

    fn succeeds(&mut self) -> Result<()> {
        let told = self.call()?;
        ensure!(told.said == "done", "{told:?}");
        Ok(())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn answer(
    State(heard): State<Arc<Mutex<Heard>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = String::from_utf8_lossy(&body).into_owned();
    let action = form.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or_default().to_owned();
    let given = |by: &str| {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.given += 1;
        (
            format!("AKID{}{}", by.to_uppercase(), heard.given),
            rfc3339::write(SystemTime::now() + heard.lifetime),
        )
    };
    match (method.as_str(), uri.path()) {
        ("PUT", "/latest/api/token") => {
            ([(HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"), "21600")], "token")
                .into_response()
        }
        ("GET", "/latest/meta-data/iam/security-credentials/") => "node-role".into_response(),
        ("GET", "/latest/meta-data/iam/security-credentials/node-role") => {
            let (id, until) = given("imds");
            credentials(&id, &until)
        }
        ("GET", "/v1/credentials") => {
            let authorization = header("authorization").to_owned();
            heard.lock().unwrap_or_else(PoisonError::into_inner).asked.push(authorization);
            let (id, until) = given("pod");
            credentials(&id, &until)
        }
        ("POST", _) if action == "AssumeRoleWithWebIdentity" => {
            heard.lock().unwrap_or_else(PoisonError::into_inner).asked.push(form);
            let (id, until) = given("sts");
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn>\
                 <AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>{id}</AccessKeyId>\
                 <SecretAccessKey>secret</SecretAccessKey><SessionToken>session-{id}</SessionToken>\
                 <Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
            )
            .into_response()
        }
        ("POST", _) if action == "DescribeNetworkInterfaces" => {
            let key =
                header("authorization").split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
            let behaviour = {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.keys.push(key.unwrap_or("(unsigned)").to_owned());
                heard.tokens.insert(header("x-amz-security-token").to_owned());
                heard.behaviour
            };
            match behaviour {
                Behaviour::Answers => "<DescribeNetworkInterfacesResponse \
                     xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><networkInterfaceSet/>\
                     </DescribeNetworkInterfacesResponse>"
                    .into_response(),
                Behaviour::Refuses => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "<Response><Errors><Error><Code>RequestLimitExceeded</Code>\
                     <Message>Request limit exceeded.</Message></Error></Errors><RequestID>r</RequestID></Response>",
                )
                    .into_response(),
                Behaviour::Hangs => std::future::pending().await,
            }
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn credentials(id: &str, until: &str) -> Response {
    let body = json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": id,
        "SecretAccessKey": "secret", "Token": format!("session-{id}"), "Expiration": until, "AccountId": "1",
    });
    body.to_string().into_response()
}

// ----------------------------------------------------------- where they are from

/// Every call was signed by this key, with its session's token.
fn signed_by(services: &Services, key: &str) -> Result<()> {
    let (keys, tokens) = services.heard(|heard| (heard.keys.clone(), heard.tokens.clone()));
    ensure!(!keys.is_empty() && keys.iter().all(|found| found == key), "{keys:?}");
    ensure!(tokens == BTreeSet::from([format!("session-{key}")]), "{tokens:?}");
    Ok(())
}

fn instance_role() -> Result<()> {
    let services = Services::start()?;
    let mut caller = services.caller(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &services.url())])?;
    caller.succeeds()?;
    caller.succeeds()?;
    signed_by(&services, "AKIDIMDS1")
}

fn irsa() -> Result<()> {
    let services = Services::start()?;
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("token");
    std::fs::write(&token, "projected-jwt")?;
    let mut caller = services.caller(&[
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/tidepool"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &token.display().to_string()),
        ("AWS_REGION", "us-west-2"),
        ("AWS_ENDPOINT_URL_STS", &services.url()),
        // A node's own role must not be taken in its place.
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &services.url()),
    ])?;
    caller.succeeds()?;
    signed_by(&services, "AKIDSTS1")?;
    let asked = services.heard(|heard| heard.asked.clone());
    ensure!(asked.len() == 1 && asked[0].contains("WebIdentityToken=projected-jwt"), "{asked:?}");
    ensure!(asked[0].contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Ftidepool"), "{asked:?}");
    Ok(())
}

/// As the EKS webhook sets a pod up.
fn identity<'a>(services: &Services, token: &'a std::path::Path) -> Vec<(&'a str, String)> {
    vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", services.url())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", services.url()),
    ]
}

fn pod_identity() -> Result<()> {
    let services = Services::start()?;
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("eks-pod-identity-token");
    std::fs::write(&token, "pod-jwt")?;
    let environment = identity(&services, &token);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut caller = services.caller(&environment)?;
    caller.succeeds()?;
    signed_by(&services, "AKIDPOD1")?;
    let asked = services.heard(|heard| heard.asked.clone());
    ensure!(asked == ["pod-jwt"], "{asked:?}");
    Ok(())
}

/// The SDK asks anew some seconds before the end; the token's file is read anew too, since the kubelet rotates it.
fn expired() -> Result<()> {
    let services = Services::start()?;
    services.heard(|heard| heard.lifetime = Duration::from_secs(12));
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("eks-pod-identity-token");
    std::fs::write(&token, "first")?;
    let environment = identity(&services, &token);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut caller = services.caller(&environment)?;
    caller.succeeds()?;
    std::fs::write(&token, "second")?;
    wait_for("another key signs", Duration::from_secs(30), || {
        caller.call().ok()?;
        services.keys().contains(&"AKIDPOD2".to_owned()).then_some(())
    })?;
    let asked = services.heard(|heard| heard.asked.clone());
    ensure!(asked[..2] == ["first", "second"], "{asked:?}");
    Ok(())
}

fn none_at_all() -> Result<()> {
    let services = Services::start()?;
    let mut caller = services.caller(&[("AWS_EC2_METADATA_DISABLED", "true")])?;
    let said = caller.call()?.said;
    ensure!(said.starts_with("permission: ") && said.contains("credentials"), "{said}");
    ensure!(services.keys().is_empty(), "{:?}", services.keys());
    Ok(())
}

// ------------------------------------------------------------------ how it calls

const STATIC: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "AKIDSTATIC"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// One describe of the agent asks two questions; each is one request, whatever comes back.
fn once() -> Result<()> {
    let services = Services::start()?;
    services.heard(|heard| heard.behaviour = Behaviour::Refuses);
    let mut caller = services.caller(STATIC)?;
    let said = caller.call()?.said;
    ensure!(said.starts_with("throttled: ") && said.contains("RequestLimitExceeded"), "{said}");
    ensure!(services.keys().len() <= 2, "repeated: {:?}", services.keys());
    Ok(())
}

fn deadline() -> Result<()> {
    ensure!(CallBudget::default().deadline == Duration::from_secs(30), "the agent's own");
    let services = Services::start()?;
    services.heard(|heard| heard.behaviour = Behaviour::Hangs);
    let mut caller = services.caller_with((5, 1.0, Duration::from_millis(300)), STATIC)?;
    let told = caller.call()?;
    ensure!(told.said.starts_with("retry: ") && told.said.contains("no answer within"), "{told:?}");
    ensure!(told.took >= Duration::from_millis(300) && told.took < Duration::from_secs(5), "{told:?}");
    Ok(())
}

fn own_rate() -> Result<()> {
    let services = Services::start()?;
    let mut caller = services.caller_with((2, 4.0, Duration::from_secs(30)), STATIC)?;
    let told = (0..4).map(|_| caller.call()).collect::<Result<Vec<_>>>()?;
    ensure!(told.iter().all(|told| told.said == "done"), "{told:?}");
    ensure!(told[..2].iter().all(|told| told.held_back.is_zero()), "a burst of two: {told:?}");
    // A token comes every 250 ms, less what the calls before took.
    ensure!(told[2..].iter().all(|told| told.held_back > Duration::from_millis(50)), "{told:?}");
    Ok(())
}
