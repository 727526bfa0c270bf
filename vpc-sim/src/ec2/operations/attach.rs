//! AttachNetworkInterface and DetachNetworkInterface.

use super::{Operation, done};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::ids::{AttachmentId, EniId, InstanceId};
use crate::ec2::model::{Attachment, Eni, EniKind, Instance, InstanceState};
use crate::ec2::params::Params;
use crate::ec2::state::State;
use crate::ec2::xml::Xml;

/// The request to attach.
pub(super) struct Attach {
    eni: EniId,
    instance: InstanceId,
    device_index: u32,
    network_card: Option<u32>,
}

impl Operation for Attach {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let eni = params.id("NetworkInterfaceId")?;
        let instance = params.id("InstanceId")?;
        let device_index = params.parsed("DeviceIndex")?;
        let network_card = params.parsed("NetworkCardIndex")?;
        let device_index = device_index.ok_or_else(|| ApiError::missing("DeviceIndex"))?;
        Ok(Self { eni, instance, device_index, network_card })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = state.eni(&self.eni, now)?;
        let instance = state.instance(&self.instance)?;
        let card = self.network_card.unwrap_or(instance.kind.default_card);
        self.check_place(state, eni, instance, card)?;
        check_limits(state, eni, instance, card)?;
        let node = instance.node.clone();
        let takes = state.settings.latency.device_attach;
        let takes = state.delay(takes, "device_attach", &node);
        let lag = state.settings.imds_lag;
        let lag = state.delay(lag, "imds", &node);
        let attachment = Attachment {
            id: AttachmentId::from_number(state.fresh_number()),
            instance: self.instance,
            device_index: self.device_index,
            network_card: card,
            delete_on_termination: false,
            began: now,
            attached_at: now + takes,
            gone_at: None,
        };
        let id = attachment.id.clone();
        state.attach(&self.eni, now, attachment, lag);
        let mut xml = Xml::default();
        xml.text("attachmentId", id);
        xml.text("networkCardIndex", card);
        Ok(xml)
    }
}

impl Attach {
    /// Whether the interface and the place on the instance are free and fit.
    fn check_place(&self, state: &State, eni: &Eni, instance: &Instance, card: u32) -> Result<(), ApiError> {
        if eni.attachment.is_some() {
            return Err(ApiError::new(
                "InvalidNetworkInterface.InUse",
                format!("Interface: [{}] in use.", self.eni),
            ));
        }
        if eni.kind == EniKind::Branch {
            return Err(ApiError::new(
                "OperationNotPermitted",
                "A branch network interface cannot be attached to an instance",
            ));
        }
        if instance.state != InstanceState::Running {
            let (_, name) = instance.state.code_and_name();
            return Err(ApiError::incorrect_state(format!(
                "Instance '{}' is not in a valid state: {name}",
                self.instance
            )));
        }
        if eni.zone != instance.zone || eni.vpc != instance.vpc {
            return Err(ApiError::combination(
                "You may not attach a network interface to an instance if they are not in the \
                 same availability zone and VPC",
            ));
        }
        if card as usize >= instance.kind.enis_per_card.len() {
            return Err(ApiError::invalid(format!(
                "Network card index {card} is not valid for {}",
                instance.kind.name
            )));
        }
        let is_taken = attachments(state, instance)
            .any(|held| held.device_index == self.device_index && held.network_card == card);
        if is_taken {
            return Err(ApiError::invalid(format!(
                "Instance '{}' already has an interface attached at device index '{}'.",
                self.instance, self.device_index
            )));
        }
        Ok(())
    }
}

/// Whether the type takes one interface more, and this one's addresses.
fn check_limits(state: &State, eni: &Eni, instance: &Instance, card: u32) -> Result<(), ApiError> {
    let kind = instance.kind;
    let count = u32::try_from(instance.enis.len()).unwrap_or(u32::MAX) + 1;
    if count > kind.max_enis {
        return Err(ApiError::new(
            "AttachmentLimitExceeded",
            format!("Interface count {count} exceeds the limit for {}", kind.name),
        ));
    }
    let on_card = attachments(state, instance).filter(|held| held.network_card == card).count();
    let limit = kind.enis_per_card.get(card as usize).copied().unwrap_or(0);
    if on_card as u64 >= u64::from(limit) {
        return Err(ApiError::new(
            "AttachmentLimitExceeded",
            format!(
                "Interface count {} exceeds the limit for network card {card} of {}",
                on_card + 1,
                kind.name
            ),
        ));
    }
    for (places, limit) in [(eni.ipv4_places(), kind.ipv4_per_eni), (eni.ipv6_places(), kind.ipv6_per_eni)] {
        if places > limit {
            return Err(ApiError::new(
                "InvalidInterface.IpAddressLimitExceeded",
                format!("Address count {places} on interface-{} exceeds the limit for {}", eni.id, kind.name),
            ));
        }
    }
    let has_prefixes = !eni.prefixes.is_empty() || !eni.ipv6_prefixes.is_empty();
    if has_prefixes && !kind.takes_prefixes() {
        return Err(prefixes_unsupported(kind.name));
    }
    Ok(())
}

/// Prefixes on an instance that is neither of nitro nor bare metal.
pub(super) fn prefixes_unsupported(instance_type: &str) -> ApiError {
    ApiError::invalid(format!("Prefix delegation is not supported for the instance type {instance_type}"))
}

fn attachments<'a>(state: &'a State, instance: &'a Instance) -> impl Iterator<Item = &'a Attachment> {
    let records = instance.enis.iter().filter_map(|id| state.enis.get(id));
    records.filter_map(|record| record.eni.attachment.as_ref())
}

/// The request to detach.
pub(super) struct Detach {
    attachment: AttachmentId,
    force: bool,
}

impl Operation for Detach {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        Ok(Self { attachment: params.id("AttachmentId")?, force: params.flag("Force")?.unwrap_or(false) })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let eni = find_attached(state, &self.attachment)?;
        let Some(attachment) = &eni.attachment else {
            return Err(ApiError::not_found(IdKind::Attachment, &self.attachment));
        };
        if attachment.device_index == 0 && attachment.network_card == 0 {
            return Err(ApiError::new(
                "OperationNotPermitted",
                "The network interface at device index 0 cannot be detached.",
            ));
        }
        match attachment.status(now) {
            // It is on its way already.
            "detaching" => return Ok(done()),
            "attaching" if !self.force => {
                return Err(ApiError::incorrect_state(format!(
                    "Attachment '{}' is not in a valid state: attaching",
                    self.attachment
                )));
            }
            _ => {}
        }
        let id = eni.id.clone();
        let node = state.node_of(&id);
        let takes = state.settings.latency.device_detach;
        let takes = state.delay(takes, "device_detach", &node);
        state.begin_detach(&id, now, takes);
        Ok(done())
    }
}

/// The interface of an attachment.
pub(super) fn find_attached<'a>(state: &'a State, attachment: &AttachmentId) -> Result<&'a Eni, ApiError> {
    let enis = state.enis.values().map(|record| &record.eni);
    let mut held = enis.filter(|eni| eni.attachment.as_ref().is_some_and(|held| held.id == *attachment));
    held.next().ok_or_else(|| ApiError::not_found(IdKind::Attachment, attachment))
}
