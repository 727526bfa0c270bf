//! The datapath in the kernel: maps, programs and filters.

#[path = "datapath/attaching.rs"]
mod attaching;
#[path = "datapath/cost.rs"]
mod cost;
#[path = "datapath/incumbent.rs"]
mod incumbent;
#[path = "datapath/loading.rs"]
mod loading;
#[path = "datapath/packets.rs"]
mod packets;
#[path = "datapath/shaped.rs"]
mod shaped;
#[path = "datapath/verdicts.rs"]
mod verdicts;
#[path = "datapath/world.rs"]
mod world;

use kernel_test::{Need, Trial, trial};

const NEEDS: &[Need] =
    &[Need::Root, Need::Bpf, Need::NetNs, Need::Mounts, Need::Tc, Need::Env("TIDEPOOL_EBPF_OBJECT")];

fn kernel(name: &'static str, work: fn() -> anyhow::Result<()>) -> Trial {
    trial(name, NEEDS, work)
}

fn main() {
    kernel_test::run(vec![
        trial("an_empty_object_is_refused", &[], loading::an_empty_object_is_refused),
        kernel("maps_outlive_the_agent", loading::maps_outlive_the_agent),
        kernel("only_bpffs_holds_pins", loading::only_bpffs_holds_pins),
        kernel("a_pinned_map_of_another_shape_is_refused", loading::a_pinned_map_of_another_shape_is_refused),
        kernel("what_is_applied_is_read_back", loading::what_is_applied_is_read_back),
        kernel("a_replaced_endpoint_begins_closed", loading::a_replaced_endpoint_begins_closed),
        kernel("stories_have_one_verdict_in_kernel_and_host", verdicts::stories),
        kernel("random_packets_have_one_verdict_in_kernel_and_host", verdicts::random_packets),
        kernel("events_come_while_somebody_listens", verdicts::events),
        kernel("filters_are_attached_read_back_and_replaced", attaching::attached_and_replaced),
        kernel("filters_of_others_are_found", attaching::filters_of_others),
        kernel("changes_of_filters_by_others_are_heard", attaching::changes_of_others_are_heard),
        kernel("beside_an_ingress_qdisc_tcx_is_used", attaching::beside_an_ingress_qdisc),
        kernel("real_packets_follow_policy", packets::follow_policy),
        kernel("real_flows_end_when_they_are_revoked", packets::revoked_flows_end),
        kernel("a_short_linear_area_is_pulled", packets::short_linear_area),
        kernel(
            "the_node_agents_filters_are_replaced_with_flows_running",
            incumbent::replaced_with_flows_running,
        ),
        kernel("flows_that_nobody_knows_are_cut", incumbent::flows_that_nobody_knows_are_cut),
        kernel(
            "a_node_agent_that_comes_later_hides_ours_until_looked_at",
            incumbent::hidden_by_one_that_came_later,
        ),
        kernel("our_cleaner_and_theirs_do_not_meet", incumbent::cleaners_do_not_meet),
        kernel("the_node_agents_pins_go_with_the_last_link", incumbent::pins_go_with_the_last_link),
        kernel("both_rates_and_policy_hold_beside_the_bandwidth_plugin", shaped::both_rates_and_policy),
        kernel("an_unshaped_pod_is_faster_than_a_shaped_one", shaped::unshaped_is_faster),
        kernel("flows_that_were_silent_for_long_end", incumbent::silent_flows_are_not_brought_back),
        kernel("milliseconds_per_reading", incumbent::milliseconds_per_reading),
        kernel("its_names_alone_are_nobodys", incumbent::names_alone_are_nobodys),
        kernel("a_node_is_left_without_filters_and_pins", incumbent::withdrawn),
        kernel("what_others_have_stays_when_a_node_is_left", incumbent::nothing_of_others_is_withdrawn),
        kernel("nanoseconds_per_packet", cost::nanoseconds_per_packet),
        kernel("microseconds_per_link", cost::microseconds_per_link),
    ]);
}
