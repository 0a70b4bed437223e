//! The list of all rules, and the macro that makes tests of them.

/// Makes a test of every rule for the store that `$open` (an async function that gives a
/// [`Fixture`]) opens.
#[macro_export]
macro_rules! conformance_suite {
    ($open:path) => {
        $crate::conformance_rules! { $open;
            enqueue: what_goes_in_comes_out, a_repeat_changes_nothing, an_id_twice_in_a_batch_is_one_task,
                a_megabyte_of_input_survives, json_text_is_kept_as_it_is, ten_thousand_tasks_go_in_at_once,
                a_task_for_later_waits_for_its_time, nothing_is_nothing;
            claim: a_claim_gives_a_lease, a_claim_takes_nothing_but_pending_tasks, leases_grow_and_never_return,
                without_hints_the_most_urgent_goes_first_and_the_oldest_of_those, without_hints_only_served_types_are_taken,
                without_hints_what_is_overdue_has_every_fourth_turn, of_a_lane_no_more_is_taken_than_a_worker_can_use,
                two_claimers_never_get_the_same_task, a_lapsed_worker_gets_nothing, claims_come_in_the_order_asked_for;
            complete: a_completed_task_has_its_result, a_retry_waits_with_its_error, a_dead_letter_has_failed,
                success_after_failure_clears_the_error, a_hand_back_does_not_count, a_lost_lease_writes_nothing,
                a_task_cancelled_while_it_ran_keeps_the_attempt, a_task_cancelled_after_the_lease_lapsed_does_not,
                a_zombie_of_before_an_operators_retry_is_fenced, a_repeat_gets_the_first_answer,
                answers_come_in_order_and_good_ones_do_not_suffer_from_stale_ones, everything_about_an_attempt_reads_back,
                an_attempt_is_never_written_over, an_outcome_that_contradicts_what_follows_is_refused,
                a_false_alarm_of_a_cancel_loses_no_task, progress_is_shown_while_the_lease_holds,
                the_log_of_a_running_attempt_is_shown_until_it_ends;
            operate: a_waiting_task_can_be_cancelled, a_running_task_can_be_cancelled, what_has_ended_cannot_be_cancelled,
                a_dead_letter_can_be_run_again, a_cancelled_task_can_be_run_again, only_failed_and_cancelled_tasks_can_be_run_again,
                prune_takes_the_oldest_first_with_all_that_hangs_by_them, prune_never_takes_what_has_not_ended, prune_keeps_to_its_filter;
            sweep: a_task_is_due_at_its_time_and_not_before, due_tasks_come_in_the_order_of_their_times,
                the_next_due_time_is_known, a_heartbeat_renews_the_lease, a_lease_connection_renews_as_a_heartbeat_does, a_worker_that_the_sweeper_found_silent_stays_lapsed,
                a_heartbeat_that_comes_too_late_is_refused_for_good, tasks_of_silent_workers_are_found,
                tasks_of_a_worker_that_left_are_found_at_once, a_lapse_is_counted_apart_from_attempts,
                a_killer_ends_at_its_third_lapse_and_its_neighbours_lose_no_attempt, a_lapse_can_end_in_a_dead_letter,
                a_lapse_can_be_handed_back, a_verdict_on_another_lease_changes_nothing, a_verdict_that_is_none_is_refused,
                lost_leases_are_told,
                a_workers_own_lease_decides_its_lapse, a_store_that_works_says_so, the_stores_clock_goes_on;
            lead: a_leader_prolongs_its_own_term, a_second_leader_follows_only_after_the_ttl, a_resigned_leader_is_followed_at_once,
                terms_never_repeat, of_many_who_want_to_lead_one_does, a_stale_term_writes_nothing;
            lanes: lanes_are_where_tasks_wait, a_lane_lists_only_its_own_tasks_in_the_order_of_ids,
                what_a_worker_holds_is_what_runs_under_its_lease;
            policy: a_policy_reads_back_and_the_default_is_forgotten, a_paused_type_is_not_claimed_by_order,
                tenants_of_weights_3_and_1_get_3_to_1, tenants_of_one_weight_take_turns,
                urgency_comes_before_turns, a_tenants_oldest_task_goes_first_whatever_its_type;
            caps: a_type_cap_holds_for_claims_by_order, a_tenant_cap_holds_for_claims_by_order,
                a_cap_holds_for_claims_by_ids, the_lower_of_two_caps_decides, what_is_full_holds_up_nothing_else,
                whatever_ends_an_attempt_gives_its_permit_back, the_running_versions_of_a_plugin_ask_for_caps,
                what_waits_at_a_cap_takes_no_aged_turns, a_cap_holds_when_many_claim_at_once,
                a_cap_of_three_is_never_passed_whatever_happens;
            dead: dead_letters_are_grouped_by_type_and_failure, groups_keep_to_their_tenant_and_their_filter,
                a_lapse_has_a_fingerprint_too, a_fingerprint_lives_as_long_as_its_error, fingerprints_ids_and_end_times_filter;
            requeue: requeue_moves_dead_letters_only_and_within_its_limit, what_is_requeued_begins_afresh_with_one_event,
                requeue_with_an_edited_input_shows_it_to_the_next_claim, requeue_keeps_to_its_tenant_and_its_filter;
            upkeep: upkeep_never_forgets_what_has_not_ended, upkeep_never_forgets_what_ended_recently,
                a_store_takes_tasks_after_upkeep;
            list: lists_are_newest_first, pages_neither_repeat_nor_skip, filters_narrow, filters_combine,
                a_state_filter_finds_all_tasks_of_its_states, a_task_of_another_tenant_is_not_there, counts_are_by_type_and_state;
            versions: everything_about_a_version_reads_back, versions_come_newest_first, a_version_never_changes, a_name_has_one_owner,
                of_many_who_push_one_version_one_adds_it, a_component_comes_out_as_it_went_in, versions_may_share_a_component,
                a_quota_counts_versions_and_each_component_once, a_signature_changes_if_nothing_else_has;
            collect: what_is_referred_to_stays, what_is_young_stays, a_version_that_a_running_task_may_use_stays,
                a_number_that_was_collected_stays_taken, a_component_goes_with_its_last_version,
                a_rollout_made_from_what_was_collected_is_refused, a_history_outlives_its_version,
                a_leader_that_was_deposed_collects_nothing, what_many_push_and_collect_at_once_has_its_component;
            registry: a_new_version_runs_nowhere, a_rollout_reads_back, the_snapshot_shows_what_runs_and_nothing_else,
                a_change_of_what_is_past_changes_nothing, of_many_changes_of_one_state_one_is_made, a_rollout_takes_states_with_it,
                what_cannot_run_is_refused, the_state_of_a_version_that_runs_does_not_change, a_retired_version_stays_retired,
                settings_change_and_nothing_else_of_a_version, every_change_raises_the_revision_of_its_plugin, events_come_newest_first,
                whoever_sees_a_revision_sees_every_change_up_to_it;
            secrets: a_secret_reads_back_sealed, a_secret_goes_and_leaves_the_others;
            usage: usage_is_counted_by_version_and_phase, what_many_add_at_once_adds_up, the_greatest_value_is_kept_exactly;
            values: a_value_reads_back_whatever_its_bytes, of_a_key_that_is_named_twice_the_last_value_counts,
                tenants_plugins_and_buckets_are_apart, a_quota_of_bytes_counts_keys_and_values_of_all_buckets,
                a_quota_of_keys_counts_those_of_all_buckets, what_shrinks_or_goes_leaves_room,
                what_is_above_a_lowered_quota_stays_and_may_shrink, keys_are_listed_page_by_page_in_byte_order, a_number_is_added_to, a_value_is_swapped_if_it_is_the_one_that_was_seen, of_many_swaps_at_once_each_sees_the_one_before,
                a_hundred_increments_at_once_make_a_hundred, a_quota_holds_when_many_write_at_once, names_have_a_bound;
            mail: mail_is_counted_by_version_up_to_its_limit, a_limit_of_mail_holds_when_many_send_at_once;
            state: no_operation_takes_an_illegal_arrow;
            drops: what_is_dropped_leaves_nothing_behind;
            storm: in_a_storm_nothing_is_lost_or_doubled;
        }
    };
}

/// The loop inside [`conformance_suite!`](crate::conformance_suite).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_rules {
    ($open:path; $($group:ident: $($rule:ident),+;)+) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let world = $crate::conformance::World::begin($open().await).await;
                let rule = $crate::conformance::$group::$rule(world);
                // A store that breaks a rule may leave a test waiting for what never comes.
                let deadline = ::std::time::Duration::from_secs(120);
                ::tokio::time::timeout(deadline, rule).await.expect("the rule takes too long");
            })+
        })+
    };
}
