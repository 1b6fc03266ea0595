"""What all transports do alike."""

from __future__ import annotations

from tfsrv.frontends.transport import details, host_and_port


def test_details_of_up_to_1024_bytes_stay_as_they_are() -> None:
    assert details("x" * 1024) == "x" * 1024


def test_longer_details_are_cut_and_say_so() -> None:
    assert details("x" * 1025) == "x" * 1024 + "...TRUNCATED"


def test_details_are_never_cut_inside_a_character() -> None:
    assert details("x" * 1023 + "€") == "x" * 1023 + "...TRUNCATED"


def test_details_with_half_a_surrogate_can_still_be_sent() -> None:
    assert len(details("\udcff" * 2000).encode()) <= 1024 + len("...TRUNCATED")


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert host_and_port("::1", 8500) == "[::1]:8500"
    assert host_and_port("127.0.0.1", 8500) == "127.0.0.1:8500"
