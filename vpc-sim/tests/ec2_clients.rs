//! Clients of Amazon's own against the EC2 API and the metadata service:
//! boto3, the AWS CLI and botocore's credential chain, unmodified from PyPI.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::Router;
use kernel_test::{Need, trial};
use vpc_sim::control;
use vpc_sim::ec2::{self, Cloud, NewInstance, NodeScope, Settings};
use vpc_sim::imds::{self, Resolver};

fn main() {
    let script = |name: &'static str, file: &'static str, module: &'static str| {
        trial(name, &[Need::Python(module)], move || run_script(file))
    };
    kernel_test::run(vec![
        script("boto3_walks_through_an_interfaces_life", "life.py", "boto3"),
        script("boto3_meets_every_documented_error", "errors.py", "boto3"),
        script("boto3_reads_with_filters_and_pages", "reading.py", "boto3"),
        script("boto3_meets_faults_and_control", "faults.py", "boto3"),
        script("botocore_takes_metadata_and_credentials", "metadata.py", "botocore"),
        script("aws_cli_runs_unchanged", "cli.py", "awscli"),
    ]);
}

/// A region with two subnets and two instances, served on ports of its own.
fn run_script(file: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cloud = Cloud::new(Settings::calm());
    let vpc = cloud.add_vpc("10.20.0.0/16".parse()?)?;
    let group = cloud.add_security_group(&vpc, "nodes")?;
    let mut instances = Vec::new();
    let mut subnets = Vec::new();
    for (name, cidr, zone) in
        [("node-a", "10.20.0.0/20", "us-west-2a"), ("node-b", "10.20.16.0/20", "us-west-2b")]
    {
        let subnet = cloud.add_subnet(&vpc, cidr.parse()?, zone)?;
        let new = NewInstance {
            name: name.to_owned(),
            instance_type: "m5.large".to_owned(),
            subnet: subnet.clone(),
            groups: vec![group.clone()],
            tags: vec![("Name".to_owned(), name.to_owned())],
        };
        instances.push(cloud.add_instance(new)?.instance_id);
        subnets.push(subnet);
    }
    let serve = |router: Router| runtime.block_on(listen(router));
    let top = serve(ec2::router(Arc::clone(&cloud), NodeScope::top()))?;
    let node = serve(ec2::router(Arc::clone(&cloud), NodeScope::node("node-a")))?;
    let metadata = serve(imds::router(Arc::clone(&cloud), Resolver::Fixed(instances[0].clone())))?;
    let controlled = serve(control::router(Arc::clone(&cloud)))?;

    let python = std::env::var_os("TIDEPOOL_PYTHON").context("TIDEPOOL_PYTHON is not set")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ec2_clients").join(file);
    let output = Command::new(python)
        .arg("-B")
        .arg(&script)
        // Nothing of the caller's account gets in.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("AWS_ENDPOINT_URL_EC2", format!("http://{top}"))
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{metadata}"))
        .env("NODE_URL", format!("http://{node}"))
        .env("CONTROL_URL", format!("http://{controlled}"))
        .env("AWS_DEFAULT_REGION", "us-west-2")
        .env("AWS_CONFIG_FILE", "/nonexistent")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .env("VPC", vpc.as_str())
        .env("GROUP", group.as_str())
        .env("SUBNET_A", subnets[0].as_str())
        .env("SUBNET_B", subnets[1].as_str())
        .env("INSTANCE_A", instances[0].as_str())
        .env("INSTANCE_B", instances[1].as_str())
        .stdin(Stdio::null())
        .output()?;
    let calls = cloud.call_log();
    let last: Vec<String> = calls
        .iter()
        .rev()
        .take(5)
        .map(|call| format!("{} {:?} {}", call.operation, call.code, call.parameters))
        .collect();
    ensure!(
        output.status.success(),
        "{file}: {}\n{}{}\nlast calls, newest first:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        last.join("\n")
    );
    Ok(())
}

async fn listen(router: Router) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // It ends with the runtime.
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}
