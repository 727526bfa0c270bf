//! Calls to EC2 behind the agents' backs.

use anyhow::{Result, ensure};
use system_tests::house::text;

use super::world::World;

/// A call to EC2 by nobody's agent; the answer as it is.
pub(crate) fn ec2(world: &World, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let all = [("Action", action), ("Version", "2016-11-15")].into_iter().chain(parameters.iter().copied());
    let mut response = world.http.post(text(&world.up["ec2"])).send_form(all)?;
    let answer = response.body_mut().read_to_string()?;
    ensure!(response.status().is_success(), "{action}: {answer}");
    Ok(answer)
}
