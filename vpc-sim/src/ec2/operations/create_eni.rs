//! CreateNetworkInterface.

use std::net::Ipv4Addr;

use super::describe_enis::write_eni;
use super::{Operation, count};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::ids::{EniId, GroupId, SubnetId};
use crate::ec2::model::{Eni, EniKind, UNATTACHED_ADDRESSES};
use crate::ec2::params::Params;
use crate::ec2::state::{Made, State, TokenUse};
use crate::ec2::tags::{Tags, parse_specifications};
use crate::ec2::wanted_addresses::{Wanted4, Wanted6, take_named};
use crate::ec2::xml::Xml;

const NAME: &str = "CreateNetworkInterface";

/// The request.
pub(super) struct Create {
    subnet: SubnetId,
    groups: Vec<GroupId>,
    description: String,
    kind: EniKind,
    primary: Option<Ipv4Addr>,
    wanted: Wanted4,
    wanted6: Wanted6,
    primary_ipv6: bool,
    tags: Tags,
    client_token: Option<String>,
    fingerprint: String,
}

impl Operation for Create {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let fingerprint = params.fingerprint();
        let subnet = params.id("SubnetId")?;
        let kind = match params.text("InterfaceType") {
            None => EniKind::Interface,
            Some(text) => {
                EniKind::parse(&text).ok_or_else(|| ApiError::invalid_value("InterfaceType", &text))?
            }
        };
        let (primary, addresses) = named_addresses(params)?;
        let wanted = Wanted4 {
            addresses,
            count: count(params, "SecondaryPrivateIpAddressCount")?,
            prefixes: structs(params, "Ipv4Prefix", "Ipv4Prefix")?,
            prefix_count: count(params, "Ipv4PrefixCount")?,
        };
        wanted.check_combination()?;
        let wanted6 = Wanted6 {
            addresses: structs(params, "Ipv6Addresses", "Ipv6Address")?,
            count: count(params, "Ipv6AddressCount")?,
            prefixes: structs(params, "Ipv6Prefix", "Ipv6Prefix")?,
            prefix_count: count(params, "Ipv6PrefixCount")?,
        };
        wanted6.check_combination()?;
        if kind == EniKind::EfaOnly && (primary.is_some() || wanted.places() > 0 || wanted6.places() > 0) {
            return Err(ApiError::combination(
                "Network interfaces of type 'efa-only' do not support IP addresses",
            ));
        }
        Ok(Self {
            subnet,
            groups: params.ids("SecurityGroupId")?,
            description: params.text("Description").unwrap_or_default(),
            kind,
            primary,
            wanted,
            wanted6,
            primary_ipv6: params.flag("EnablePrimaryIpv6")?.unwrap_or(false),
            tags: parse_specifications(params, "network-interface")?,
            client_token: client_token(params)?,
            fingerprint,
        })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        let key = self.client_token.clone().map(|token| (NAME, token));
        if let Some(used) = key.as_ref().and_then(|key| state.tokens.get(key)) {
            check_same(used, &self.fingerprint)?;
            if let Made::Eni(made) = &used.made {
                // As it is now; as it was made, if it is gone.
                let current = state.enis.get(&made.id).map_or(&**made, |record| &record.eni);
                return Ok(self.answer(state, current, current.status(now)));
            }
        }
        let eni = self.make(state, now)?;
        let not_found = state.settings.consistency.not_found;
        let not_found = state.delay(not_found, "not_found", "");
        state.insert_eni(eni.clone(), now + not_found);
        let answer = self.answer(state, &eni, "pending");
        if let Some(key) = key {
            let made = Made::Eni(Box::new(eni));
            state.tokens.insert(key, TokenUse { fingerprint: self.fingerprint, made });
        }
        Ok(answer)
    }
}

impl Create {
    fn make(&self, state: &mut State, now: SimTime) -> Result<Eni, ApiError> {
        let subnet = state.subnet(&self.subnet)?;
        let (vpc, zone) = (subnet.vpc.clone(), subnet.zone.clone());
        let groups = match self.groups.as_slice() {
            [] => state.vpcs.get(&vpc).map(|vpc| vec![vpc.default_group.clone()]),
            groups => Some(groups.to_vec()),
        }
        .unwrap_or_default();
        check_groups(state, &vpc, &groups)?;
        // The primary address takes a place too.
        if self.wanted.places() >= UNATTACHED_ADDRESSES || self.wanted6.places() > UNATTACHED_ADDRESSES {
            return Err(ApiError::too_many_addresses());
        }
        let id = EniId::from_number(state.fresh_number());
        let mac = state.fresh_mac();
        let placement = state.settings.placement;
        let ready = state.settings.latency.of(NAME);
        let ready = state.delay(ready, "pending", "");
        // All or nothing: the subnet is changed only when everything was had.
        let mut subnet = state.subnet(&self.subnet)?.clone();
        let primary = match (self.kind, self.primary) {
            (EniKind::EfaOnly, _) => None,
            (_, Some(named)) => {
                take_named(&mut subnet.space, named)?;
                Some(named)
            }
            (_, None) => {
                let taken = subnet.space.take_any(1, placement, &mut state.rng);
                let taken = taken.map_err(|_| ApiError::subnet_is_full(&subnet.id))?;
                taken.first().copied()
            }
        };
        let (secondaries, prefixes) = self.wanted.take(&mut subnet, placement, &mut state.rng)?;
        let (ipv6, ipv6_prefixes) = self.wanted6.take(&mut subnet, &mut state.rng)?;
        if self.primary_ipv6 && ipv6.is_empty() {
            return Err(ApiError::combination(
                "EnablePrimaryIpv6 needs an IPv6 address on the network interface",
            ));
        }
        state.subnets.insert(self.subnet.clone(), subnet);
        Ok(Eni {
            id,
            vpc,
            subnet: self.subnet.clone(),
            zone,
            mac,
            description: self.description.clone(),
            kind: self.kind,
            groups,
            primary,
            secondaries,
            prefixes,
            ipv6,
            ipv6_prefixes,
            primary_ipv6: self.primary_ipv6,
            source_dest_check: true,
            pending_until: now + ready,
            attachment: None,
            trunk: None,
            tags: self.tags.clone(),
        })
    }

    fn answer(&self, state: &State, eni: &Eni, status: &str) -> Xml {
        let mut xml = Xml::default();
        xml.element("networkInterface", |xml| write_eni(xml, state, eni, status, SimTime::default()));
        xml.optional("clientToken", self.client_token.as_ref());
        xml
    }
}

/// A client token, which has a longest form.
pub(super) fn client_token(params: &mut Params) -> Result<Option<String>, ApiError> {
    let token = params.text("ClientToken");
    match &token {
        Some(text) if text.len() > 64 || !text.is_ascii() => {
            Err(ApiError::invalid_value("ClientToken", text))
        }
        _ => Ok(token),
    }
}

/// Refuses a token that came with another request.
pub(super) fn check_same(used: &TokenUse, fingerprint: &str) -> Result<(), ApiError> {
    if used.fingerprint == fingerprint {
        return Ok(());
    }
    Err(ApiError::new(
        "IdempotentParameterMismatch",
        "Arguments on this idempotent request are inconsistent with arguments used in previous \
         request(s) with the same client token",
    ))
}

/// Groups that an interface can have: of its VPC, and not too many.
pub(super) fn check_groups(
    state: &State,
    vpc: &crate::ec2::ids::VpcId,
    groups: &[GroupId],
) -> Result<(), ApiError> {
    const MOST: usize = 5;
    if let Some(unknown) =
        groups.iter().find(|group| state.groups.get(*group).is_none_or(|held| held.vpc != *vpc))
    {
        return Err(ApiError::not_found(IdKind::Group, unknown));
    }
    if groups.len() > MOST {
        return Err(ApiError::new(
            "SecurityGroupsPerInterfaceLimitExceeded",
            format!("The maximum number of security groups per interface has been reached ({MOST})."),
        ));
    }
    Ok(())
}

/// The primary address and the secondary ones that are asked for by name.
fn named_addresses(params: &mut Params) -> Result<(Option<Ipv4Addr>, Vec<Ipv4Addr>), ApiError> {
    let mut primary: Option<Ipv4Addr> = params.parsed("PrivateIpAddress")?;
    let mut secondaries = Vec::new();
    for index in params.indices("PrivateIpAddresses")? {
        let address_name = format!("{index}.PrivateIpAddress");
        let text = params.required(&address_name)?;
        let address: Ipv4Addr = text.parse().map_err(|_| ApiError::invalid_value(&address_name, &text))?;
        if params.flag(&format!("{index}.Primary"))?.unwrap_or(false) {
            if primary.is_some_and(|known| known != address) {
                return Err(ApiError::combination("Only one private IP address can be the primary one"));
            }
            primary = Some(address);
        } else {
            secondaries.push(address);
        }
    }
    Ok((primary, secondaries))
}

/// `name.N.field` for all N.
fn structs<T: std::str::FromStr>(params: &mut Params, name: &str, field: &str) -> Result<Vec<T>, ApiError> {
    let mut values = Vec::new();
    for index in params.indices(name)? {
        let key = format!("{index}.{field}");
        let text = params.required(&key)?;
        values.push(text.parse().map_err(|_| ApiError::invalid_value(&key, &text))?);
    }
    Ok(values)
}
