//! ModifyNetworkInterfaceAttribute: one attribute at a time.

use super::create_eni::check_groups;
use super::{Operation, done};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::fabric_queue::Event;
use crate::ec2::ids::{AttachmentId, EniId, GroupId};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::xml::Xml;

/// The request.
pub(super) struct Modify {
    eni: EniId,
    change: Change,
}

enum Change {
    DeleteOnTermination(AttachmentId, bool),
    SourceDestCheck(bool),
    Groups(Vec<GroupId>),
    Description(String),
}

impl Operation for Modify {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let mut changes = Vec::new();
        if params.has("Attachment") {
            let attachment = params.id("Attachment.AttachmentId")?;
            let name = "Attachment.DeleteOnTermination";
            let delete = params.flag(name)?.ok_or_else(|| ApiError::missing(name))?;
            changes.push(Change::DeleteOnTermination(attachment, delete));
        }
        if let Some(check) = params.flag("SourceDestCheck.Value")? {
            changes.push(Change::SourceDestCheck(check));
        }
        if params.has("SecurityGroupId") {
            changes.push(Change::Groups(params.ids("SecurityGroupId")?));
        }
        if params.has("Description.Value") {
            let description = params.text("Description.Value").unwrap_or_default();
            changes.push(Change::Description(description));
        }
        // What is not known is the better answer to a request without a change.
        params.finish()?;
        let change = changes.pop();
        if !changes.is_empty() {
            return Err(ApiError::combination("Fields for multiple attribute types specified"));
        }
        let change = change.ok_or_else(|| ApiError::combination("No attributes specified to modify"))?;
        Ok(Self { eni, change })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        match self.change {
            Change::DeleteOnTermination(attachment, delete) => {
                if eni.attachment.as_ref().is_none_or(|held| held.id != attachment) {
                    return Err(ApiError::not_found(IdKind::Attachment, attachment));
                }
                state.change_eni(&self.eni, now, |eni| {
                    if let Some(attachment) = &mut eni.attachment {
                        attachment.delete_on_termination = delete;
                    }
                });
            }
            Change::SourceDestCheck(enabled) => {
                let due = eni.attachment.as_ref().map(|held| held.attached_at.max(now));
                state.change_eni(&self.eni, now, |eni| eni.source_dest_check = enabled);
                if let Some(due) = due {
                    state.fabric.push(due, Event::SourceDestCheck(self.eni, enabled));
                }
            }
            Change::Groups(groups) => {
                check_groups(state, &eni.vpc, &groups)?;
                state.change_eni(&self.eni, now, |eni| eni.groups = groups);
            }
            Change::Description(description) => {
                state.change_eni(&self.eni, now, |eni| eni.description = description);
            }
        }
        Ok(done())
    }
}
