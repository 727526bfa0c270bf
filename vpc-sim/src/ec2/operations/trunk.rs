//! Trunk and branch interfaces: AssociateTrunkInterface and its reverse.

use std::collections::BTreeSet;

use super::Operation;
use super::create_eni::{check_same, client_token};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::filter::Filters;
use crate::ec2::ids::{EniId, TrunkAssociationId};
use crate::ec2::model::{EniKind, TrunkAssociation, Tunnel};
use crate::ec2::paging::{PageSizes, Paging};
use crate::ec2::params::Params;
use crate::ec2::state::{Made, State, TokenUse};
use crate::ec2::tags::Tags;
use crate::ec2::xml::Xml;

const NAME: &str = "AssociateTrunkInterface";

/// The request to associate.
pub(super) struct Associate {
    trunk: EniId,
    branch: EniId,
    tunnel: Tunnel,
    client_token: Option<String>,
    fingerprint: String,
}

impl Operation for Associate {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let fingerprint = params.fingerprint();
        let trunk = params.id("TrunkInterfaceId")?;
        let branch = params.id("BranchInterfaceId")?;
        let vlan: Option<u16> = params.parsed("VlanId")?;
        let gre: Option<u32> = params.parsed("GreKey")?;
        let tunnel = match (vlan, gre) {
            (Some(vlan @ 1..=4094), None) => Tunnel::Vlan(vlan),
            (Some(vlan), None) => {
                return Err(ApiError::invalid_value("VlanId", &vlan.to_string()));
            }
            (None, Some(key)) => Tunnel::Gre(key),
            (None, None) => return Err(ApiError::missing("VlanId")),
            (Some(_), Some(_)) => {
                return Err(ApiError::combination("You may not specify both VlanId and GreKey"));
            }
        };
        Ok(Self { trunk, branch, tunnel, client_token: client_token(params)?, fingerprint })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let key = self.client_token.clone().map(|token| (NAME, token));
        if let Some(used) = key.as_ref().and_then(|key| state.tokens.get(key)) {
            check_same(used, &self.fingerprint)?;
            if let Made::TrunkAssociation(made) = &used.made {
                return Ok(self.answer(made));
            }
        }
        if state.eni(&self.trunk, now)?.kind != EniKind::Trunk {
            return Err(ApiError::invalid(format!("{} is not a trunk interface", self.trunk)));
        }
        let branch = state.eni(&self.branch, now)?;
        if branch.kind != EniKind::Branch {
            return Err(ApiError::invalid(format!("{} is not a branch interface", self.branch)));
        }
        let is_taken = state
            .trunk_associations
            .values()
            .any(|held| held.trunk == self.trunk && held.tunnel == self.tunnel);
        if branch.trunk.is_some() || is_taken {
            return Err(ApiError::invalid("The branch interface or its tunnel is in use"));
        }
        let association = TrunkAssociation {
            id: TrunkAssociationId::from_number(state.fresh_number()),
            trunk: self.trunk.clone(),
            branch: self.branch.clone(),
            tunnel: self.tunnel,
        };
        let id = association.id.clone();
        state.trunk_associations.insert(id.clone(), association.clone());
        state.change_eni(&self.branch, now, |eni| eni.trunk = Some(id));
        let answer = self.answer(&association);
        if let Some(key) = key {
            let made = Made::TrunkAssociation(association);
            state.tokens.insert(key, TokenUse { fingerprint: self.fingerprint, made });
        }
        Ok(answer)
    }
}

impl Associate {
    fn answer(&self, association: &TrunkAssociation) -> Xml {
        let mut xml = Xml::default();
        xml.element("interfaceAssociation", |xml| write_association(xml, association));
        xml.optional("clientToken", self.client_token.as_ref());
        xml
    }
}

fn write_association(xml: &mut Xml, association: &TrunkAssociation) {
    xml.text("associationId", &association.id);
    xml.text("trunkInterfaceId", &association.trunk);
    xml.text("branchInterfaceId", &association.branch);
    match association.tunnel {
        Tunnel::Vlan(vlan) => {
            xml.text("interfaceProtocol", "VLAN");
            xml.text("vlanId", vlan);
        }
        Tunnel::Gre(key) => {
            xml.text("interfaceProtocol", "GRE");
            xml.text("greKey", key);
        }
    }
}

/// The request to disassociate.
pub(super) struct Disassociate {
    association: TrunkAssociationId,
    client_token: Option<String>,
}

impl Operation for Disassociate {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        Ok(Self { association: params.id("AssociationId")?, client_token: client_token(params)? })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        // Gone already is refused with a token as without: nothing tells a
        // second try from a wrong id once the association is forgotten.
        let association = state
            .trunk_associations
            .remove(&self.association)
            .ok_or_else(|| ApiError::not_found(IdKind::TrunkAssociation, &self.association))?;
        state.change_eni(&association.branch, now, |eni| eni.trunk = None);
        let mut xml = super::done();
        xml.optional("clientToken", self.client_token);
        Ok(xml)
    }
}

/// The request to describe.
pub(super) struct Describe {
    ids: BTreeSet<TrunkAssociationId>,
    filters: Filters,
    paging: Paging,
}

impl Operation for Describe {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let paging = Paging::parse(params, PageSizes::new(5, 255), "AssociationId")?;
        let ids = params.ids("AssociationId")?.into_iter().collect();
        let known = ["gre-key", "interface-protocol", "vlan-id"];
        Ok(Self { ids, filters: Filters::parse(params, &known)?, paging })
    }

    fn execute(self, state: &mut State, _now: SimTime) -> Result<Xml, ApiError> {
        let held = &state.trunk_associations;
        if let Some(unknown) = self.ids.iter().find(|id| !held.contains_key(id)) {
            return Err(ApiError::not_found(IdKind::TrunkAssociation, unknown));
        }
        let untagged = Tags::new();
        let chosen = held.values().filter(|association| {
            (self.ids.is_empty() || self.ids.contains(&association.id))
                && self.filters.pass(&untagged, |name| match (name, association.tunnel) {
                    ("gre-key", Tunnel::Gre(key)) => vec![key.to_string()],
                    ("vlan-id", Tunnel::Vlan(vlan)) => vec![vlan.to_string()],
                    ("interface-protocol", Tunnel::Vlan(_)) => vec!["VLAN".to_owned()],
                    ("interface-protocol", Tunnel::Gre(_)) => vec!["GRE".to_owned()],
                    _ => Vec::new(),
                })
        });
        let (page, next) = self.paging.cut(chosen, |association| association.id.to_string());
        let mut xml = Xml::default();
        xml.list("interfaceAssociationSet", page, write_association);
        xml.optional("nextToken", next);
        Ok(xml)
    }
}
