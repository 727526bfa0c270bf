//! Tags: their limits, and how they come and go over the wire.

use std::collections::BTreeMap;

use super::error::ApiError;
use super::params::Params;
use super::xml::Xml;

/// A thing's tags by key.
pub(crate) type Tags = BTreeMap<String, String>;

/// Tags that one thing can have.
const MAX_TAGS: usize = 50;

/// `<prefix>.N.Key` and `<prefix>.N.Value`.
pub(crate) fn parse_tags(params: &mut Params, prefix: &str) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for index in params.indices(prefix)? {
        let key = params.required(&format!("{index}.Key"))?;
        let value = params.text(&format!("{index}.Value")).unwrap_or_default();
        check_tag(&key, &value)?;
        if tags.insert(key.clone(), value).is_some() {
            return Err(ApiError::invalid(format!("Duplicate tag key '{key}' specified.")));
        }
    }
    Ok(tags)
}

/// `TagSpecification.N.{ResourceType,Tag.M.…}`, all of which must be for `resource`.
pub(crate) fn parse_specifications(params: &mut Params, resource: &str) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    for index in params.indices("TagSpecification")? {
        let named = params.required(&format!("{index}.ResourceType"))?;
        if named != resource {
            return Err(ApiError::invalid(format!(
                "'{named}' is not a valid taggable resource type for this operation."
            )));
        }
        for (key, value) in parse_tags(params, &format!("{index}.Tag"))? {
            if tags.insert(key.clone(), value).is_some() {
                return Err(ApiError::invalid(format!("Duplicate tag key '{key}' specified.")));
            }
        }
    }
    check_count(tags.len())?;
    Ok(tags)
}

/// Adds tags to those of a thing, or changes nothing.
pub(crate) fn merge(tags: &mut Tags, added: &Tags) -> Result<(), ApiError> {
    let new = added.keys().filter(|key| !tags.contains_key(*key)).count();
    check_count(tags.len() + new)?;
    tags.extend(added.clone());
    Ok(())
}

/// Writes `<tagSet>`.
pub(crate) fn write_tags(xml: &mut Xml, tags: &Tags) {
    xml.list("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

fn check_count(count: usize) -> Result<(), ApiError> {
    if count > MAX_TAGS {
        return Err(ApiError::new(
            "TagLimitExceeded",
            format!("The maximum number of Tags for a resource has been reached ({MAX_TAGS})."),
        ));
    }
    Ok(())
}

fn check_tag(key: &str, value: &str) -> Result<(), ApiError> {
    if key.chars().count() > 128 {
        return Err(ApiError::invalid(format!("Tag key exceeds the maximum length of 128: {key}")));
    }
    if value.chars().count() > 256 {
        return Err(ApiError::invalid(format!("Tag value exceeds the maximum length of 256: {value}")));
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(ApiError::invalid("Tag keys starting with 'aws:' are reserved for internal use"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification(form: &str) -> Result<Tags, ApiError> {
        let mut params = Params::parse(form).expect("well formed");
        let tags = parse_specifications(&mut params, "network-interface")?;
        params.finish()?;
        Ok(tags)
    }

    #[test]
    fn specifications_are_joined() {
        let tags = specification(
            "TagSpecification.1.ResourceType=network-interface&TagSpecification.1.Tag.1.Key=a\
             &TagSpecification.1.Tag.1.Value=1&TagSpecification.1.Tag.2.Key=b\
             &TagSpecification.2.ResourceType=network-interface&TagSpecification.2.Tag.1.Key=c",
        )
        .expect("right");
        let expected = [("a", "1"), ("b", ""), ("c", "")];
        assert_eq!(tags, Tags::from(expected.map(|(k, v)| (k.to_owned(), v.to_owned()))));
    }

    #[test]
    fn faults_of_tags_are_refused() {
        let head = "TagSpecification.1.ResourceType=network-interface&TagSpecification.1.Tag";
        let long = "k".repeat(129);
        let many = (1..=51).map(|n| format!("&TagSpecification.1.Tag.{n}.Key=k{n}"));
        for (form, code) in [
            ("TagSpecification.1.ResourceType=subnet".to_owned(), "InvalidParameterValue"),
            ("TagSpecification.1.Tag.1.Key=a".to_owned(), "MissingParameter"),
            (format!("{head}.1.Value=a"), "MissingParameter"),
            (format!("{head}.1.Key=aws:a"), "InvalidParameterValue"),
            (format!("{head}.1.Key={long}"), "InvalidParameterValue"),
            (format!("{head}.1.Key=a&TagSpecification.1.Tag.2.Key=a"), "InvalidParameterValue"),
            (
                format!("TagSpecification.1.ResourceType=network-interface{}", many.collect::<String>()),
                "TagLimitExceeded",
            ),
        ] {
            assert_eq!(specification(&form).expect_err(&form).code, code, "{form}");
        }
    }

    #[test]
    fn a_thing_takes_fifty_tags_and_not_one_more() {
        let numbered = |range: std::ops::Range<u32>| -> Tags {
            range.map(|n| (format!("k{n}"), String::new())).collect()
        };
        let mut tags = numbered(0..49);
        merge(&mut tags, &numbered(40..50)).expect("fifty");
        assert_eq!(merge(&mut tags, &numbered(50..51)).expect_err("one more").code, "TagLimitExceeded");
        assert_eq!(tags.len(), 50);
    }
}
