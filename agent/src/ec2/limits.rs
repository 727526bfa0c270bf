//! The limits of this instance's type.

use ipam_core::{InstanceLimits, InstanceTable, TableError};

use super::{Ec2, Ec2Error};

/// The limits of an instance type could not be found.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// Neither the built-in table nor EC2 knows the type.
    #[error("instance type {0} is in neither the built-in table nor DescribeInstanceTypes")]
    Unknown(String),
    /// It is not in the built-in table, and EC2 could not be asked.
    #[error("instance type {instance_type} is not in the built-in table, and EC2 could not be asked")]
    NotAsked {
        /// The type.
        instance_type: String,
        /// What EC2 answered.
        #[source]
        source: Ec2Error,
    },
    /// The built-in table has a broken row.
    #[error("the built-in table of instance types cannot be read")]
    Table(#[from] TableError),
}

/// The limits of `instance_type`: from the built-in table, else from EC2.
pub async fn limits_of(ec2: &dyn Ec2, instance_type: &str) -> Result<InstanceLimits, LimitsError> {
    if let Some(limits) = InstanceTable::default().find(instance_type)? {
        return Ok(limits);
    }
    let asked = ec2.instance_limits(instance_type).await;
    let answer =
        asked.map_err(|source| LimitsError::NotAsked { instance_type: instance_type.to_owned(), source })?;
    answer.ok_or_else(|| LimitsError::Unknown(instance_type.to_owned()))
}
