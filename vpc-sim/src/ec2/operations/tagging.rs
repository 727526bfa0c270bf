//! CreateTags and DeleteTags.

use std::collections::BTreeMap;

use super::{Operation, done};
use crate::ec2::clock::SimTime;
use crate::ec2::error::{ApiError, IdKind};
use crate::ec2::ids::{EniId, GroupId, InstanceId, SubnetId, VpcId};
use crate::ec2::params::{Id, Params};
use crate::ec2::state::State;
use crate::ec2::tags::{Tags, merge, parse_tags};
use crate::ec2::xml::Xml;

/// Something that has tags.
enum Resource {
    Eni(EniId),
    Instance(InstanceId),
    Subnet(SubnetId),
    Vpc(VpcId),
    Group(GroupId),
}

impl Resource {
    fn parse_all(params: &mut Params) -> Result<Vec<Self>, ApiError> {
        let ids = params.texts("ResourceId")?;
        if ids.is_empty() {
            return Err(ApiError::missing("resourceIdSet"));
        }
        ids.into_iter().map(Self::parse).collect()
    }

    fn parse(id: String) -> Result<Self, ApiError> {
        let kind = id.split_once('-').map_or("", |(kind, _)| kind);
        match kind {
            "eni" => EniId::check(id).map(Self::Eni),
            "i" => InstanceId::check(id).map(Self::Instance),
            "subnet" => SubnetId::check(id).map(Self::Subnet),
            "vpc" => VpcId::check(id).map(Self::Vpc),
            "sg" => GroupId::check(id).map(Self::Group),
            _ => Err(ApiError::new("InvalidID", format!("The ID '{id}' is not valid"))),
        }
    }

    fn tags(&self, state: &State, now: SimTime) -> Result<Tags, ApiError> {
        let tags = match self {
            Self::Eni(id) => return Ok(state.eni(id, now)?.tags.clone()),
            Self::Instance(id) => return Ok(state.instance(id)?.tags.clone()),
            Self::Subnet(id) => return Ok(state.subnet(id)?.tags.clone()),
            Self::Vpc(id) => {
                state.vpcs.get(id).map(|vpc| &vpc.tags).ok_or_else(|| ApiError::not_found(IdKind::Vpc, id))
            }
            Self::Group(id) => state
                .groups
                .get(id)
                .map(|group| &group.tags)
                .ok_or_else(|| ApiError::not_found(IdKind::Group, id)),
        };
        tags.cloned()
    }

    fn set(&self, state: &mut State, now: SimTime, tags: Tags) {
        match self {
            Self::Eni(id) => state.change_eni(id, now, |eni| eni.tags = tags),
            Self::Instance(id) => {
                state.instances.entry(id.clone()).and_modify(|held| held.tags = tags);
            }
            Self::Subnet(id) => {
                state.subnets.entry(id.clone()).and_modify(|held| held.tags = tags);
            }
            Self::Vpc(id) => {
                state.vpcs.entry(id.clone()).and_modify(|held| held.tags = tags);
            }
            Self::Group(id) => {
                state.groups.entry(id.clone()).and_modify(|held| held.tags = tags);
            }
        }
    }
}

/// Changes the tags of all resources, or of none.
fn change_all(
    state: &mut State,
    now: SimTime,
    resources: &[Resource],
    change: impl Fn(&mut Tags) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let changed = resources
        .iter()
        .map(|resource| {
            let mut tags = resource.tags(state, now)?;
            change(&mut tags)?;
            Ok((resource, tags))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    for (resource, tags) in changed {
        resource.set(state, now, tags);
    }
    Ok(())
}

/// The request to create.
pub(super) struct CreateTags {
    resources: Vec<Resource>,
    tags: Tags,
}

impl Operation for CreateTags {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let resources = Resource::parse_all(params)?;
        let tags = parse_tags(params, "Tag")?;
        if tags.is_empty() {
            return Err(ApiError::missing("tagSet"));
        }
        Ok(Self { resources, tags })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        change_all(state, now, &self.resources, |tags| merge(tags, &self.tags))?;
        Ok(done())
    }
}

/// The request to delete.
pub(super) struct DeleteTags {
    resources: Vec<Resource>,
    /// Keys, each with the value it must have to go. Empty: all tags go.
    tags: BTreeMap<String, Option<String>>,
}

impl Operation for DeleteTags {
    fn parse(params: &mut Params) -> Result<Self, ApiError> {
        let resources = Resource::parse_all(params)?;
        let mut tags = BTreeMap::new();
        for index in params.indices("Tag")? {
            let key = params.required(&format!("{index}.Key"))?;
            let value_name = format!("{index}.Value");
            // An empty value is one that must match; no value matches any.
            let is_given = params.has(&value_name);
            let value = params.text(&value_name);
            tags.insert(key, is_given.then(|| value.unwrap_or_default()));
        }
        Ok(Self { resources, tags })
    }

    fn execute(self, state: &mut State, now: SimTime) -> Result<Xml, ApiError> {
        change_all(state, now, &self.resources, |tags| {
            if self.tags.is_empty() {
                tags.clear();
            }
            tags.retain(|key, value| match self.tags.get(key) {
                None => true,
                Some(wanted) => wanted.as_ref().is_some_and(|wanted| wanted != value),
            });
            Ok(())
        })?;
        Ok(done())
    }
}
