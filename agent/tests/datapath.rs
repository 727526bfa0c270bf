//! The datapath in the kernel: maps, programs and filters.

#[path = "datapath/attaching.rs"]
mod attaching;
#[path = "datapath/churn.rs"]
mod churn;
#[path = "datapath/cost.rs"]
mod cost;
#[path = "datapath/cost_rules.rs"]
mod cost_rules;
#[path = "datapath/evasions.rs"]
mod evasions;
#[path = "datapath/flood.rs"]
mod flood;
#[path = "datapath/hammer.rs"]
mod hammer;
#[path = "datapath/holes.rs"]
mod holes;
#[path = "datapath/incumbent.rs"]
mod incumbent;
#[path = "datapath/kept.rs"]
mod kept;
#[path = "datapath/loading.rs"]
mod loading;
#[path = "datapath/packets.rs"]
mod packets;
#[path = "datapath/proxied.rs"]
mod proxied;
#[path = "datapath/ring.rs"]
mod ring;
#[path = "datapath/shaped.rs"]
mod shaped;
#[path = "datapath/told.rs"]
mod told;
#[path = "datapath/verdicts.rs"]
mod verdicts;
#[path = "datapath/wild.rs"]
mod wild;
#[path = "datapath/wire.rs"]
mod wire;
#[path = "datapath/world.rs"]
mod world;

use kernel_test::{Need, Trial, trial};

const NEEDS: &[Need] =
    &[Need::Root, Need::Bpf, Need::NetNs, Need::Mounts, Need::Tc, Need::Env("TIDEPOOL_EBPF_OBJECT")];

fn kernel(name: &'static str, work: fn() -> anyhow::Result<()>) -> Trial {
    trial(name, NEEDS, work)
}

/// With a service proxy's rules on the node.
fn proxied(name: &'static str, work: fn() -> anyhow::Result<()>) -> Trial {
    trial(name, &[NEEDS, &[Need::Nft]].concat(), work)
}

fn main() {
    kernel_test::run(vec![
        trial("an_empty_object_is_refused", &[], loading::an_empty_object_is_refused),
        trial(
            "programs_of_other_layouts_are_refused",
            &[Need::Env("TIDEPOOL_EBPF_OBJECT")],
            loading::programs_of_other_layouts_are_refused,
        ),
        kernel("maps_outlive_the_agent", loading::maps_outlive_the_agent),
        kernel("only_bpffs_holds_pins", loading::only_bpffs_holds_pins),
        kernel("pins_of_older_layouts_go", loading::pins_of_older_layouts_go),
        kernel("a_pinned_map_of_another_shape_is_refused", loading::a_pinned_map_of_another_shape_is_refused),
        kernel("what_is_applied_is_read_back", loading::what_is_applied_is_read_back),
        kernel(
            "thousands_of_entries_are_written_and_removed_at_once",
            loading::thousands_of_entries_are_written_and_removed_at_once,
        ),
        kernel("a_replaced_endpoint_begins_closed", loading::a_replaced_endpoint_begins_closed),
        kernel("stories_have_one_verdict_in_kernel_and_host", verdicts::stories),
        kernel("random_packets_have_one_verdict_in_kernel_and_host", verdicts::random_packets),
        kernel("wild_frames_have_one_reason_in_kernel_and_host", wild::frames),
        kernel("events_come_while_somebody_listens", verdicts::events),
        kernel("events_say_all_of_a_packet", told::all_of_a_packet),
        kernel("denies_are_told_and_allows_are_sampled", told::sampled),
        kernel("events_that_find_no_room_are_counted", told::lost_ones_are_counted),
        kernel("events_wake_their_reader", told::readers_are_woken),
        kernel("packets_and_bytes_are_counted_by_reason_and_rule", told::packets_and_bytes),
        kernel("flows_end_that_were_silent_for_their_age", kept::silent_flows_end),
        kernel("a_flow_moves_as_a_whole", kept::flows_move_as_a_whole),
        kernel("who_began_a_flow_is_asked_again", kept::beginners_are_kept),
        kernel("the_longest_prefix_decides", kept::longest_prefixes),
        kernel("the_nodes_switches_are_the_programs", kept::switches),
        kernel("filters_are_attached_read_back_and_replaced", attaching::attached_and_replaced),
        kernel("filters_of_others_are_found", attaching::filters_of_others),
        kernel("changes_of_filters_by_others_are_heard", attaching::changes_of_others_are_heard),
        kernel("beside_an_ingress_qdisc_tcx_is_used", attaching::beside_an_ingress_qdisc),
        kernel("real_packets_follow_policy", packets::follow_policy),
        kernel("real_flows_end_when_they_are_revoked", packets::revoked_flows_end),
        kernel("a_short_linear_area_is_pulled", packets::short_linear_area),
        kernel("ten_thousand_changes_make_not_one_wrong_verdict", churn::not_one_wrong_verdict),
        kernel("of_a_torn_endpoint_the_shadow_decides", hammer::shadow_of_a_torn_endpoint),
        trial(
            "what_is_overwritten_meanwhile_decides_nothing",
            &[NEEDS, &[Need::Processors(2)]].concat(),
            hammer::hammered,
        ),
        kernel("both_families_are_filtered", evasions::both_families),
        kernel("ports_are_found_behind_extension_headers", evasions::extension_headers),
        kernel("ports_are_not_found_in_ip_options", evasions::ip_options),
        kernel("tiny_fragments_hide_no_port", evasions::tiny_fragments),
        kernel("later_fragments_go_with_their_first", evasions::later_fragments),
        kernel("icmp_is_judged_and_redirects_never_pass", evasions::icmp),
        kernel("a_stale_entry_admits_no_connection", evasions::stale_entries),
        kernel("nobody_speaks_for_somebody_else", evasions::spoofing),
        kernel("too_big_is_told_to_the_flow_that_it_is_of", evasions::too_big),
        proxied("ipv6_fragments_are_never_the_node", holes::fragments_as_the_node),
        proxied("node_ports_are_no_way_around_policy", holes::node_ports_as_the_node),
        proxied("translated_connections_are_judged_by_these_tuples", proxied::tuples_and_verdicts),
        kernel("a_packet_ring_is_judged_as_any_packet", ring::ring_of_a_pod),
        kernel("a_flood_of_one_pod_evicts_nobodys_flow", flood::evicts_nobodys_flow),
        kernel("budgets_are_one_pods_for_one_tick", flood::budgets_are_for_a_tick),
        kernel("full_tables_take_the_newest", flood::full_tables_take_the_newest),
        kernel("stacked_tags_hide_nothing", holes::stacked_tags),
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
        kernel("nanoseconds_by_rules", cost_rules::nanoseconds_by_rules),
        kernel("microseconds_per_link", cost::microseconds_per_link),
    ]);
}
