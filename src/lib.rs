//! haltline: a real-time trading risk monitor with a kill switch.
//!
//! One process next to an order gateway. Events of orders come in over shared memory or WebSocket; one thread, the only writer of risk
//! state, judges each against the limits of every scope that it concerns (firm, account, strategy, pair,
//! instrument, session); a breach or a person halts flow, and the halt survives a restart. This page is the map; the
//! contract of the rules is in [`risk`], the README shows how to use it all.
//!
//! # Threads, and what is between them
//!
//! ```text
//!  gates on this host ═══ lanes in shared memory ═══▶ engine (takes events, gives verdicts; renews the gates' lease)
//!     └─ look at the HaltPage, which is a mapped file, and bracket each send with their slot
//!
//!  sessions ══WebSocket══ ingest ──ring: Inbound───▶ engine            one core, one writer
//!                           ▲ │  ◀──ring: Effect────  │ │ │
//!                           │ └─ SessionBoard         │ │ ├─ Published (atomics) ─▶ api, metrics
//!                           │                         │ │ └─ Recorder: mapped ring of cells ─▶ journal ─▶ segments
//!                    wakers │   told, confirmed       │ └─ channel: Notice ──▶ control ─▶ log, causes, alerts
//!                           │                         │ trip: raises
//!      ┌────────────────────┴─────────────────────────▼───┐
//!      │ HaltPage: one word `mode, epoch` per scope       │ ◀─ raises ─ Switch ◀─ api, local, killfile, main
//!      └────────────────────┬─────────────────────────────┘
//!                           └─ channel of one ─▶ latch ─▶ state directory
//! ```
//!
//! | thread | runs | may wait for |
//! |---|---|---|
//! | `haltline-ingest` | [`ingest::ws`]: all sessions, on one tokio runtime | its sockets; room in the event ring holds its readers back |
//! | `haltline-engine` | [`engine::agent`] around [`engine::core`] | nothing; idle, it spins, yields or naps until the [bell](ring::bell) |
//! | `haltline-api` | [`api`]: HTTP, a runtime of its own; large answers beside it | its sockets |
//! | `haltline-local` | [`api`] again, on the Unix socket, with places of its own | its sockets |
//! | `haltline-killfile` | looks for the kill file, if one is configured | the file system; the next look |
//! | `haltline-gates` | [`ingest::gates`]: hands out the shared memory, sees gateways' processes end | its sockets; the engine for half a second |
//! | `haltline-journal` | [`journal::writer`]: makes what the engine recorded durable | the disk; the engine for nothing of it |
//! | `haltline-compactor` | [`journal::compact`]: snapshots of closed segments, by an engine of its own; removes old ones | the disk; the next look |
//! | `haltline-incidents` | [`journal::incident`]: a report per trip and kill | the disk; the journal for half a second |
//! | `haltline-attest` | [`app::attest`]: looks at what instances run before they are let in, halts those that something stands against; `app::day` | files in `/proc` and the executables; the disk |
//! | `haltline-latch` | [`journal::latch`]: makes the page's state durable | the disk |
//! | `haltline-limits` | `app::desk`: ends overrides, moves probation, hands the limits in effect to the engine | the disk; the engine for five seconds |
//! | `haltline-control` | [`journal::control`]: records, logs, raises alerts | the log's queue never; the disk once, for the first event |
//! | `haltline-alerts` | [`alert::keeper`]: escalates alerts, halts what nobody answers for, writes down what is open | the disk |
//! | `haltline-tell-…` | [`alert::delivery`]: alerts to an Alertmanager or a webhook, one thread each | its receiver, within a time-out |
//! | `haltline-guard` | [`guard::watch`]: kinds of text, rates among peers; halts an instance that is far | the disk, once a minute |
//! | `haltline-notify` | tells the service manager ([`app`]): ready, reloading, stopping, and that the engine turns | nothing; the next look |
//! | main | signals (SIGUSR1 kills), reload, the orderly end ([`app::service`]) | the others, at the end |
//!
//! # The kill path
//!
//! 1. The thread that received the press ([`api`] at either door, the watcher of the kill file, main for SIGUSR1) calls [`kill::switch::Switch::press`], whose first
//!    step is [`kill::page::HaltPage::raise`]: a compare-and-swap that never lowers and always begins a new epoch. No
//!    lock, queue, disk or engine comes before it. A trip does the same from the engine's thread.
//! 2. The same thread passes the heavy half of the [barrier](ring::barrier) and looks at the slots of every gate that has mapped the
//!    page ([`kill::gates`]): one with nobody inside is confirmed, the others when what was inside has left or its process is gone.
//!    Then the wakers: ingest and the engine are woken if they sleep.
//! 3. Ingest pushes `mode` to every session that the scope concerns, and looks at the page for every admission that it
//!    queues: one that was decided before the halt is turned into a denial, and the engine told that it was withdrawn.
//! 4. The engine takes the page before its next event and denies what the mode denies.
//! 5. The latch thread writes the page's present state: new file, sync, rename, sync of the directory.
//! 6. Sessions confirm with `mode_ack`. The [receipt](kill::receipt) says `confirmed` when every gate and every session that was connected
//!    has, and the latch is durable; until then it says what is missing. It waits for nobody longer than asked.
//!
//! A re-arm ([`kill::rearm`]) names the epoch it was decided on; a raise in between wins.
//!
//! From halted to flat ([`engine::cancels`]): once the engine has taken the halt it goes round its table of orders, some slots a
//! round, and has each that works in the scope canceled by its session: an instruction ([`model::cancel`]) through the port or the
//! lane, which looks at the page once more. What comes of it are ordinary events. What is not answered is told again, then the session
//! is asked to disconnect; the [receipt](kill::receipt) tells what is left. Nothing closes a position.
//!
//! # Layers
//!
//! Imports point down; those of one line do not import each other, except `kill` the clock of `duty`, and `risk` `limits`.
//!
//! ```text
//! units            exact integers with a unit: Px Qty MonoNanos …, ids, conversions
//! model ring       event effect record rule scope universe | shared memory, lanes, slots, barrier, bell: the only unsafe
//! duty             clocks, idling
//! limits           the parsed, checked, immutable limit table; overlays over one; what differs between two
//! wire risk kill   bytes ↔ model, pure | HOT: orders, parents, positions, rates, losses | page, switch, receipts, re-arm
//! gate             what a gateway links: attach, check, ask, report; built without `service`
//! engine           HOT: core judges and books, record writes inputs down, agent loops; published: what others may read
//! guard            overrides, probation, deployments (attest, manifest, preflight), text signatures, peers, silence: logic without I/O
//! metrics          what Prometheus sees
//! journal ingest api alert   latch, journal, recovery, replay, audit | WebSocket, gates' attachment | HTTP | delivery
//! app              configuration, threads, signals: everything wired in one place
//! demo             the Knight morning: streamed to the real service, and each control alone over it, from the deployment on
//! bin              the command line: `kill` by socket, HTTP or the page itself, the first that works
//! ```
//!
//! HOT: no I/O, lock, allocation, logging, formatting, clock or syscall per event; time is an argument. Without the feature
//! `service` only `units`, `model`, `ring`, `limits`, `gate`, the halt page and the board of sessions are built.
//!
//! # What holds today, and the test that would notice
//!
//! | Invariant | Tests |
//! |---|---|
//! | After a raise no admission leaves haltline for its scope | `ingest::tests`: `admission_decided_before_a_halt_is_withheld_after_it`, `admission_that_nobody_has_seen_is_not_replayed_under_a_halt` |
//! | After a confirmed kill no gate holds a pass | `ring::models`, `gate::models`; `gate_race`, across processes; `gate_faults`, each side stopped, killed, starved |
//! | A kill right after a restart waits for gates of the run before | `gate`: `a_kill_after_a_restart_is_not_confirmed_before_the_gates_of_the_run_before_are_back` |
//! | A frozen haltline closes its gates within the lease | `gate_faults`: `a_haltline_stopped_at_any_moment_closes_its_gates_within_the_lease` |
//! | What a gateway spoils is its own session | `gate_damage`: `a_million_flips_in_one_region_change_nothing_for_the_others` |
//! | A kill is taken in every state, without engine or disk | `api::tests`: `kill_works_while_the_engine_stands_still_and_the_latch_cannot_be_written`, `flood_of_connections_leaves_a_place_for_a_kill` |
//! | A page that looks knows how old what it shows is | `api::tests_stream`: `stream_says_that_the_engine_stands_still_and_goes_on_saying_it`, `client_that_does_not_read_is_cut_off_and_its_place_is_free_again` |
//! | What a browser sends by itself changes nothing | `api::tests_login`: `login_gives_a_cookie_that_no_script_reads_and_that_asks_as_its_owner`; `api::tests_tls`: `certificate_of_a_client_names_its_owner_and_a_token_is_taken_without_one` |
//! | A role for some scopes halts and re-arms no others | `api::tests_login`: `role_for_some_scopes_halts_and_rearms_those_and_no_others` |
//! | The document of the interface is the interface | `api::tests_openapi`: `every_endpoint_is_in_the_document_and_the_other_way_round` |
//! | Every route is for its roles and scopes, and answers as its document says | `routes`: `every_route_is_for_the_roles_and_scopes_that_it_is_for_and_answers_as_its_document_says` |
//! | A crowd keeps neither a kill out nor who comes from elsewhere | `api::places`: `the_largest_crowd_makes_room_and_in_it_who_waits_for_nothing_and_nobody_who_is_known`; `api::lobby`: `who_comes_alone_waits_for_one_of_each_crowd_and_is_never_turned_away_for_it`; `flood`: `every_kill_gets_through_slow_requests_and_floods_of_connections_and_of_wrong_tokens` |
//! | One caller who holds all that one can keeps nobody else out | `callers`: `one_caller_who_holds_all_that_one_can_keeps_nobody_else_from_reading_and_acting`; `api::lanes`: `who_asks_for_much_is_to_the_others_one_who_asks_once` |
//! | A change that was begun is done and recorded although its caller is gone | `service`: `a_kill_whose_sender_hangs_up_while_it_is_read_is_taken_and_recorded`, `a_change_whose_caller_hangs_up_while_it_is_made_is_recorded` |
//! | Who does not show the right certificate is told nothing, also as a receiver of alerts | `tls`: `a_webhook_over_tls_is_told_if_its_authority_is_the_one_and_a_wrong_one_is_an_alert` |
//! | A flood at one door leaves the other alone | `local`: `a_flood_at_the_network_leaves_local_kills_alone_and_a_local_one_those_over_the_network` |
//! | A page raised past a service that stands or is dead is a halt | `local`: `a_page_that_is_raised_while_nobody_serves_is_in_force_at_the_next_start`, `a_page_raised_past_a_service_that_runs_is_told_to_sessions_and_latched` |
//! | What the kill file halts stays halted while it is there | `app::killfile`: `what_the_file_halts_cannot_be_rearmed_while_it_is_there` |
//! | Modes only rise; a re-arm never undoes a later kill | `kill::switch`: `kill_is_never_lost_to_a_rearm_at_the_same_time`; `kill::page`: `raise_never_lowers_and_always_changes_the_epoch` |
//! | A halt said to be durable survives SIGKILL | `service`: `sigkill_at_any_moment_after_the_receipt_loses_no_halt`; `journal::latch`: `no_halt_that_was_durable_is_missing_after_a_crash` |
//! | What is said to be durable has its cause on disk too | `kill::switch`: `halt_that_is_on_disk_without_its_cause_is_not_durable_and_one_write_has_both`; `recovery`: `a_kill_during_which_the_process_dies_at_any_step_of_the_latch_is_never_lost_once_it_was_confirmed` |
//! | A latch that is missing, cut or damaged starts halted | `journal::latch`: `latch_cut_at_any_byte_starts_halted`, `latch_with_any_bit_flipped_starts_halted` |
//! | Positions that a restart lost start halted | `service`: `positions_that_are_lost_with_a_restart_halt_the_firm`; `recovery`: `a_run_of_another_boot_that_was_not_ended_starts_halted`, `damage_in_the_middle_starts_halted_and_says_where` |
//! | A killed process loses nothing that it decided | `recovery`: `positions_orders_and_sequences_are_exact_after_sigkill_at_random_moments`, `a_trip_whose_latch_was_not_written_is_latched_again` |
//! | A snapshot is the whole state, and goes on as the engine did | `snapshot`: `an_engine_made_of_its_saved_state_goes_on_exactly_as_the_one_that_was_saved`; `crash`: `a_process_killed_at_any_moment_loses_nothing_and_comes_to_exactly_the_same_state`, `a_process_killed_at_every_step_of_writing_loses_nothing` |
//! | A damaged snapshot never leads to less exposure | `recovery`: `a_start_goes_on_from_a_snapshot_and_falls_back_from_a_damaged_one_but_never_to_less` |
//! | A power loss takes nothing that was said to be durable | `power`: `a_power_loss_at_any_step_of_the_disk_loses_nothing_that_was_said_to_be_durable` |
//! | A replay has the same effects and the same state | `replay`: `a_replay_has_the_same_effects_byte_for_byte_and_the_same_state` |
//! | A journal that was changed anywhere says so | `journal::tests`: `any_byte_that_is_flipped_is_found`, `a_journal_cut_at_any_byte_keeps_every_whole_group_before` |
//! | A disk that fails loses nothing and denies new flow | `journal::tests`: `a_disk_that_fails_at_random_loses_and_repeats_nothing`; `recovery`: `a_full_disk_denies_new_flow_after_the_grace_takes_a_kill_and_goes_on_when_there_is_room` |
//! | `confirmed` means latch and every connected session | `kill::switch`: `receipt_is_confirmed_only_with_latch_and_every_connected_session` |
//! | Cancels pass in every mode; reduce-only goes by quantity | `scenarios`: `cancel_passes_in_every_mode`, `reduce_only_denies_order_that_crosses_zero` |
//! | A halt has exactly the working orders of its scope canceled, each attempt once | `cancels`: `only_working_orders_of_halted_scopes_are_told_and_each_attempt_once`; `flat`: `a_kill_with_a_thousand_orders_in_three_sessions_ends_flat` |
//! | Nothing is canceled for a halt that is over | `cancels`: `a_rearm_ends_the_cancels_of_its_scope_and_a_kill_begins_them_anew`; `flat`: `nothing_is_told_for_a_halt_that_the_gateway_knows_to_be_over` |
//! | What is not known to be canceled is not called flat | `flat`: `what_the_venue_refuses_is_the_named_remainder`, `orders_of_a_session_that_dies_are_unknown_until_it_is_back` |
//! | Orders are counted, with all leaves, before their verdict | `scenarios`: `working_orders_count_towards_exposure`, `pending_replace_counts_the_worse` |
//! | Fills are never dropped | `scenarios`: `late_fill_after_halt_is_booked`, `unknown_fill_counts`, `duplicate_fill_is_booked_once` |
//! | Armed without input denies; unset is zero | `scenarios`: `stale_reference_denies_and_a_fresh_one_readmits`, `unset_is_zero` |
//! | Arithmetic is exact or denies | `scenarios`: `overflow_is_a_denial`; `units`: `conversion_rounds_against_the_trader` |
//! | What is not in the signed manifest sends nothing, whatever it calls itself | `attest`: `an_executable_that_is_not_in_the_manifest_sends_nothing_whatever_it_says`; `app::measure` |
//! | One of many that differs is named, and the others go on | `attest`: `a_server_that_missed_the_deployment_is_named_and_the_others_go_on`; `guard::attest_tests`: `the_minority_is_who_does_not_run_what_most_run` |
//! | A flag with two live meanings stops both | `attest`: `one_flag_with_two_live_meanings_stops_both` |
//! | A change during an incident waits for a person, over restarts too | `attest`: `a_change_during_an_incident_waits_also_over_a_restart_of_haltline`, `a_change_of_an_instance_that_is_halted_itself_waits_for_an_approval` |
//! | What a person approves is what they looked at | `attest`: `an_approval_is_of_what_was_looked_at_and_not_of_what_came_since`; `guard::attest_tests`: `what_is_approved_is_what_was_looked_at_and_nothing_that_came_in_between` |
//! | No manifest comes in unsigned or comes back | `attest`: `a_manifest_that_is_not_signed_or_goes_back_changes_nothing`; `guard::manifest`: `every_byte_counts_for_the_signature` |
//! | Limits in effect are the file and what stands over it, in the journal as they applied | `overlay`: `a_replay_comes_to_what_was_with_overrides_in_the_journal`, `an_override_survives_a_crash_and_one_that_ends_meanwhile_does_not` |
//! | A record of overrides that is lost loosens nothing | `overlay`: `of_a_record_that_is_lost_nothing_that_loosens_survives` |
//! | Raising a limit takes what re-arming takes, on the limits that were looked at | `overlay`: `raising_what_two_people_guard_takes_two_and_so_does_taking_a_cut_back`, `of_two_officers_who_looked_at_the_same_limits_one_has_to_look_again` |
//! | Probation is never above what is configured, never up unearned | `guard::ramp`: `whatever_happens_it_is_never_above_what_is_configured_and_never_up_unearned` |
//! | A new build has a fraction before its first order, and is back at it after a breach | `ramp`: `a_new_build_begins_with_a_fraction_and_earns_the_rest_by_time_and_volume`, `a_trip_halts_a_new_build_and_puts_it_back_and_a_person_promotes_it` |
//! | Where the preflight is required no day opens without it | `day`: `the_firm_stays_halted_until_the_preflight_passes_and_two_people_open_the_day`; `app::day` |
//! | A drill takes back its own halt and no other | `drill`: `a_real_kill_during_a_drill_wins_and_stays` |
//! | A service whose engine stands still is not called alive | `app::notify`: `the_watchdog_is_fed_by_rounds_of_the_engine_and_by_nothing_else`; `sre`: `a_service_manager_hears_ready_watchdog_reload_and_the_end_and_nothing_of_a_stopped_process` |
//! | A critical alert stays until a person answers, over restarts | `kill::alerts`: `a_critical_that_nobody_answers_is_never_resolved_by_silence_or_by_its_cause_going_away`; `alerts`: `a_trip_is_an_alert_that_survives_a_crash_until_a_person_answers` |
//! | A storm of alerts is a handful and a count, nothing is dropped silently | `kill::alerts`: `a_storm_is_a_handful_and_one_summary_that_counts_all_of_it` |
//! | A receiver that is away, fails or stalls misses nothing and holds up nobody | `alertmanager`: `a_signed_webhook_misses_nothing_while_it_fails_stalls_and_over_a_restart` |
//! | A kind of text that was never seen is one alert with a count | `guard::watch`: `the_97_mails_of_the_morning_are_one_critical_alert_that_escalates_before_the_open` |
//! | The instance that runs away is halted, healthy ones never are | `guard::peers`: `the_eighth_of_eight_is_warned_about_and_halted_within_seconds_and_no_other`, `eight_healthy_ones_with_waves_of_their_own_are_never_far_in_six_hours` |
//! | Who has its few orders rejected is told, healthy ones never are | `guard::peers`: `one_whose_few_orders_are_all_rejected_is_warned_about_and_halted_if_that_goes_on`, `healthy_ones_with_rejects_now_and_then_are_never_far_whatever_they_send` |
//! | Who falls silent among peers is told, healthy ones never are | `guard::quiet`; `guard`: `an_instance_that_goes_silent_while_its_peers_trade_is_told_and_not_halted`, `the_seven_healthy_instances_are_never_far_from_each_other_in_hours_of_the_demo` |
//! | What is usual at a time of day outlasts a restart and is held against | `guard`: `an_instance_far_from_its_own_baseline_of_days_before_is_halted_and_the_baseline_is_shown` |
//! | Each link of the Knight chain has a control that fires on it alone, at its place | `demo::alone::whole`: `the_controls_fire_in_the_order_of_the_events_that_they_answer` |
//! | Where nothing is wrong no control finds anything | `demo::alone::whole`: `a_morning_as_it_should_have_been_has_no_finding_of_any_control`; `flow`, of a recorded flow: `a_real_order_flow_has_no_false_alarm_from_the_default_settings` |
//! | An alert names what exists, and is tested | `sre`: `rules_and_dashboard_name_only_what_the_daemon_shows`, `every_alert_has_an_owner_a_summary_a_section_of_the_runbook_and_both_tests` |
//! | Time in which haltline stands still makes no session silent | `ingest::tests`: `time_in_which_the_transport_stands_still_makes_nobody_silent` |
//! | No event is lost or repeated over reconnects | `ingest::tests`: `random_cuts_lose_and_repeat_nothing` |
//! | Children stay within their parent | `scenarios::conserve`: `what_children_fill_and_what_they_still_may_is_the_parents`, `child_after_its_parent_is_done_halts_its_instance` |
//! | A session that goes has its orders canceled if it asked for that | `cancel_ways`: `a_session_that_is_gone_is_halted_and_its_orders_are_canceled_by_the_one_that_may` |
//! | A drill cancels nothing | `cancel_ways`: `a_drill_cancels_nothing_and_is_refused_where_orders_work` |
//! | The console shows nothing as well that it cannot vouch for | `tests/console`: `fresh.spec.mjs`, in every view by what is painted |
//! | What a kill will do is told before it with the true numbers, and what is left of it by name | `tests/console`: `cancels.spec.mjs` |
//! | Limits that are not as configured are seen in every view until they are | `tests/console`: `overrides.spec.mjs` |
//! | A kill is pressed once, on purpose, and known or said not to be | `tests/console`: `keyboard.spec.mjs`, `a press whose answer is lost is sent again as the same press until there is one` |
//! | A check that did not run is a denial | `engine::coverage`: `an_order_is_denied_if_any_check_that_is_asked_for_did_not_run`, for every part and type of order |
//! | So is one that is demanded and that no limit is set for | `engine::coverage`: `what_is_demanded_and_limited_nowhere_is_denied_for_every_type_of_order_and_what_is_limited_anywhere_is_not`; `oracle_test` |
//! | Engine and contract agree | `oracle_test`: `engine_and_oracle_agree_on_random_streams`, against an oracle that shares no code |
//!
//! What does not hold yet: over WebSocket `mode_ack` is the gateway's word, only a gate proves; a cancel after a halt is what the
//! gateway says of it, and nothing asks the venue.

pub mod units;

#[cfg(feature = "service")]
pub mod alert;
#[cfg(feature = "service")]
pub mod api;
#[cfg(feature = "service")]
pub mod app;
#[cfg(feature = "service")]
pub mod demo;
#[cfg(feature = "service")]
pub mod duty;
#[cfg(feature = "service")]
pub mod engine;
pub mod gate;
#[cfg(feature = "service")]
pub mod guard;
#[cfg(feature = "service")]
pub mod ingest;
#[cfg(feature = "service")]
pub mod journal;
pub mod kill;
pub mod limits;
#[cfg(feature = "service")]
pub mod metrics;
pub mod model;
pub mod ring;
#[cfg(feature = "service")]
pub mod risk;
#[cfg(feature = "service")]
pub mod wire;
