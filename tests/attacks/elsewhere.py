"""Attacks that other tests make: a virtual clock, or a local user, shows them better than a tunnel under load."""

from __future__ import annotations

from typing import NamedTuple

from tests.attacks.attack import Who

HEADING = "| attack | who | effect | shown by |\n|---|---|---|---|"


class Elsewhere(NamedTuple):
    """One attack.  ``tests``: file, and names in it."""

    what: str
    who: Who
    effect: str
    file: str
    tests: tuple[str, ...]


ELSEWHERE = (
    Elsewhere("a `state.json` in a user's run directory makes root's `down` kill a process", Who.LOCAL,
              "refused; only who holds the lock is signalled", "tests/ops/test_trust.py",
              ("test_root_does_not_believe_what_somebody_else_wrote", "test_only_who_holds_the_lock_is_signalled")),
    Elsewhere("a link in the place of an instance's directory", Who.LOCAL, "refused; nothing behind it is removed",
              "tests/ops/test_trust.py",
              ("test_a_link_in_the_place_of_a_directory_is_refused",
               "test_what_is_removed_is_removed_without_following_links")),
    Elsewhere("a run directory that others can write", Who.LOCAL, "refused", "tests/ops/test_trust.py",
              ("test_a_directory_that_others_can_write_is_refused",
               "test_directories_are_for_their_owner_whatever_the_mask_is")),
    Elsewhere("escape sequences in records, names, answers and the log", Who.LOCAL, "printed as text",
              "tests/ops/test_trust.py",
              ("test_no_escape_from_a_record_or_a_name_reaches_the_terminal",
               "test_no_escape_reaches_who_reads_the_log", "test_an_answer_of_escapes_is_spelt_out")),
    Elsewhere("a control socket that answers without end, or drips", Who.LOCAL, "cut off at 16 MiB and after 3 s",
              "tests/ops/test_trust.py",
              ("test_an_endless_answer_is_cut_off", "test_an_answer_that_drips_has_to_be_whole_in_time")),
    Elsewhere("a link swapped in for the new socket of `listen: unix:`", Who.LOCAL, "no other file's rights change",
              "tests/sockets/test_unix_datagrams.py",
              ("test_a_link_swapped_in_after_bind_gives_nobody_anything",
               "test_a_directory_that_others_can_write_is_refused")),
    Elsewhere("hundreds of askers at the control socket", Who.LOCAL, "answered in turns; one line in the log",
              "tests/ops/test_control_socket.py",
              ("test_many_askers_are_taken_in_turns",
               "test_who_asks_is_answered_with_the_last_descriptor_and_the_log_has_one_line")),
    Elsewhere("a configuration of 60,000 keys, one of them twice", Who.LOCAL, "one line at once",
              "tests/config/test_config.py", ("test_a_key_given_twice_is_found_among_very_many",)),
    Elsewhere("hellos that a full server turned away, again and again", Who.ON_PATH, "remembered: one hash each",
              "tests/core/test_strangers.py", ("test_a_hello_that_is_turned_away_is_remembered",)),
    Elsewhere("a recording of a hello with a cookie", Who.ON_PATH, "worth as little as one without",
              "tests/core/test_strangers.py", ("test_a_recording_of_a_hello_with_a_cookie_is_worth_as_little",)),
    Elsewhere("very many half-open entries", Who.ON_PATH, "bounded in number and age", "tests/core/test_strangers.py",
              ("test_entries_of_strangers_are_bounded_and_short_lived",
               "test_an_entry_with_a_cookie_is_safe_for_two_seconds")),
    Elsewhere("copies of join and confirmation under another address", Who.ON_PATH, "no flow to that address",
              "tests/core/test_strangers.py", ("test_copies_under_another_address_open_no_flow_to_it",)),
    Elsewhere("control messages: forged, replayed, of another flow", Who.ON_PATH, "nothing", "tests/core/test_carriers.py",
              ("test_frames_of_one_flow_mean_nothing_on_another",)),
    Elsewhere("bits flipped in an opening, or a part of it cut off", Who.ON_PATH, "nothing", "tests/wire/native/test_handshake.py",
              ("test_flipped_bits_and_cuts_are_malformed",)),
    Elsewhere("packets of a host that `allow` does not name", Who.OFF_PATH, "no answer", "tests/core/test_strangers.py",
              ("test_a_server_answers_nobody_from_outside_of_allow",)),
    Elsewhere("malformed bytes of any kind", Who.OFF_PATH, "one exception, which is caught", "tests/fuzz/test_fuzz.py",
              ("test_replay", "test_mutations")),
    Elsewhere("18,000 probes of one session in 3 s", Who.INSIDER, "2,000/s are answered", "tests/core/test_one_secret.py",
              ("test_so_many_probes_are_answered_and_the_flows_stay",)),
    Elsewhere("5,000 times at once: data for no conversation, or for no target", Who.INSIDER, "told 1,000 times",
              "tests/core/test_one_secret.py", ("test_data_for_nothing_is_refused_so_many_times_a_second",)),
    Elsewhere("it plays the server to another client", Who.INSIDER, "**it can**: one secret names nobody",
              "tests/core/test_one_secret.py", ("test_who_has_the_secret_can_play_the_server_to_others",)),
    Elsewhere("5,000 conversations at once at a server that is full", Who.INSIDER, "4,096, then 2,000/s, are opened",
              "tests/core/test_one_secret.py", ("test_a_full_server_opens_so_many_conversations_of_one_session",)),
)  # fmt: skip


def rows() -> list[str]:
    """The table."""
    lines = [HEADING]
    for one in ELSEWHERE:
        shown = ", ".join(f"`{name}`" for name in one.tests)
        lines.append(f"| {one.what} | {one.who.value} | {one.effect} | `{one.file}`: {shown} |")
    return lines
