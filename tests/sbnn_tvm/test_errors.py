"""Every exception inside the compiler becomes an error of ours."""

from __future__ import annotations

import pytest

from sbnn_tvm.errors import CompileError, DefectError, ModelError, defects_named


def test_defects_are_named_and_keep_their_cause() -> None:
    cause = ValueError("first line\nsecond line")
    message = r"the phase fuse failed \(ValueError: first line\); please report"
    with (
        pytest.raises(DefectError, match=message) as caught,
        defects_named("compiling"),
        defects_named("the phase fuse"),
    ):
        raise cause
    assert caught.value.__cause__ is cause and isinstance(caught.value, CompileError)


def test_errors_of_the_user_and_interruptions_pass() -> None:
    for error in (ModelError("sentence"), KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)) as caught, defects_named("compiling"):
            raise error
        assert caught.value is error


def test_a_full_memory() -> None:
    message = "memory of this machine does not suffice for compiling"
    with pytest.raises(CompileError, match=message), defects_named("compiling"):
        raise MemoryError
