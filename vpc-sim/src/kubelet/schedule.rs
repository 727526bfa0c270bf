//! Which node a pod goes to. Pure.

use std::collections::BTreeMap;

/// A node as far as placing pods is concerned.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Whether it takes new pods: it is there and not cordoned.
    pub(super) schedulable: bool,
    /// How many pods it takes.
    pub(super) capacity: usize,
    /// How many it has.
    pub(super) pods: usize,
}

/// The node with the fewest pods that takes one more with this selector; of
/// equals the first. Whether its network is ready plays no part: pods are to be
/// spread the same whatever comes up first.
pub(super) fn choose<'a>(
    places: &'a [Place],
    selector: &BTreeMap<String, String>,
) -> Result<&'a str, String> {
    let mut reasons = Vec::new();
    let mut best: Option<&Place> = None;
    for place in places {
        let fits_selector = selector.iter().all(|(key, value)| place.labels.get(key) == Some(value));
        if !place.schedulable {
            reasons.push(format!("{} is unschedulable", place.name));
        } else if !fits_selector {
            reasons.push(format!("{} doesn't match the node selector", place.name));
        } else if place.pods >= place.capacity {
            reasons.push(format!("{} has too many pods", place.name));
        } else if best.is_none_or(|best| place.pods < best.pods) {
            best = Some(place);
        }
    }
    best.map(|place| place.name.as_str())
        .ok_or_else(|| format!("0/{} nodes are available: {}", places.len(), reasons.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, pods: usize) -> Place {
        Place {
            name: name.to_owned(),
            labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            schedulable: true,
            capacity: 3,
            pods,
        }
    }

    #[test]
    fn pods_go_where_fewest_are_in_turn() {
        let none = BTreeMap::new();
        let mut places = vec![place("a", 0), place("b", 0), place("c", 1)];
        let mut order = Vec::new();
        while let Ok(name) = choose(&places, &none).map(str::to_owned) {
            if let Some(place) = places.iter_mut().find(|place| place.name == name) {
                place.pods += 1;
            }
            order.push(name);
        }
        assert_eq!(order.concat(), "ababcabc");
    }

    #[test]
    fn cordons_selectors_and_capacity_are_kept() {
        let mut places = vec![place("a", 0), place("b", 2), place("c", 3)];
        places[0].schedulable = false;
        assert_eq!(choose(&places, &BTreeMap::new()), Ok("b"));
        let only_c = BTreeMap::from([("name".to_owned(), "c".to_owned())]);
        assert_eq!(
            choose(&places, &only_c),
            Err("0/3 nodes are available: a is unschedulable, b doesn't match the node selector, c has too many pods".to_owned())
        );
    }
}
