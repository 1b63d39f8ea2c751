"""Errors: their messages, their classes, and the sites they are about."""

from __future__ import annotations

import pytest

import surgery
from surgery.errors import (
    BadValue,
    CannotEdit,
    SurgeryError,
    UnknownName,
    about,
    cause_of,
    first_line,
    in_full,
    nearest,
    one_line,
    root_cause_of,
)
from tests.models import ResidualNet


def test_a_message_has_a_line_for_each_thing_that_is_known() -> None:
    assert str(SurgeryError("No.", asked="a", there="b, c", try_="b")) == (
        "No.\n  got:       a\n  available: b, c\n  hint:      b"
    )
    assert str(SurgeryError("No.", try_="b")) == "No.\n  hint:      b"
    assert str(SurgeryError("No.")) == "No."


def test_an_error_in_one_line_without_what_was_given() -> None:
    assert one_line(BadValue("It is wrong.", asked="a", there="b", try_="b")) == ("It is wrong; available: b; hint: b")
    assert one_line(BadValue("It is wrong.")) == "It is wrong"


def test_errors_are_of_the_kinds_that_callers_catch() -> None:
    assert issubclass(BadValue, ValueError) and issubclass(UnknownName, LookupError)
    public = [getattr(surgery, name) for name in surgery.__all__]
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {BadValue, CannotEdit, UnknownName} < {*kinds} and all(issubclass(kind, SurgeryError) for kind in kinds)


def test_the_innermost_sites_count() -> None:
    first, second = surgery.find_sites(ResidualNet(), ResidualNet.example)[:2]
    with pytest.raises(CannotEdit) as caught, about([first]), about([second]):
        raise CannotEdit("No.")
    assert caught.value.sites == (second,)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("one\ntwo"), "RuntimeError: one"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError(""), "ValueError: no message"),
        (ValueError("\n one"), "ValueError: one"),
    ],
)
def test_the_cause_is_one_line(error: Exception, line: str) -> None:
    assert cause_of(error) == line


def test_the_root_cause_is_the_first_paragraph_of_what_caused_the_others() -> None:
    try:
        try:
            raise LookupError("\x1b[96mNo rule\x1b[0m for\n  aten.thing\n\nOriginal traceback: ...")
        except LookupError as cause:
            raise RuntimeError("conversion failed") from cause
    except RuntimeError as error:
        assert root_cause_of(error) == in_full(error) == "LookupError: No rule for aten.thing"
        assert first_line(error) == cause_of(error) == "RuntimeError: conversion failed"
    assert root_cause_of(AssertionError()) == "AssertionError: no message"
    assert len(root_cause_of(ValueError("x" * 1000))) < 330


def test_an_error_of_ours_in_one_line_with_all_that_it_says() -> None:
    error = BadValue("It is wrong.", asked="a b", try_="c")
    assert in_full(error) == "It is wrong: a b: c" and first_line(error) == "It is wrong."
    assert in_full(BadValue("It is wrong.")) == "It is wrong."


def test_near_names_come_nearest_first() -> None:
    assert nearest("resnet5", ["resnet50", "resnet18", "vgg11", "resnet50"]) == "resnet50, resnet18"
    assert nearest("x", ["resnet50"]) == ""
