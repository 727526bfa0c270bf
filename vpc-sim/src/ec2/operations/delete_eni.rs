//! DeleteNetworkInterface.

use super::{Operation, done};
use crate::ec2::clock::SimTime;
use crate::ec2::error::ApiError;
use crate::ec2::ids::EniId;
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::xml::Xml;

/// The request.
pub(super) struct Delete {
    eni: EniId,
}

impl Operation for Delete {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        Ok(Self { eni: params.id("NetworkInterfaceId")? })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        let is_trunk = state.trunk_associations.values().any(|held| held.trunk == self.eni);
        if eni.attachment.is_some() || eni.trunk.is_some() || is_trunk {
            return Err(ApiError::invalid(format!("Network interface '{}' is currently in use.", self.eni)));
        }
        state.remove_eni(&self.eni, now);
        Ok(done())
    }
}
