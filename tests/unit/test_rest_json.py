"""Messages as protobuf prints them in JSON."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.waiting import eventually
from tfsrv._proto import message_class, parse_text, pool
from tfsrv.frontends.rest_json import protobuf_response, text_of, value_of

SIGNATURE = """
    inputs { key: 'b' value { name: 'b:0' dtype: DT_FLOAT tensor_shape { dim { size: -1 } } } }
    inputs { key: 'a' value { coo_sparse { values_tensor_name: 'v' } tensor_shape { } } }
    outputs { key: 'y' value { name: '' dtype: 999 } }
    defaults { key: 'b' value {
        dtype: DT_FLOAT float_val: [0.1, 1, 1e30, nan, inf, -inf, -0.0] tensor_content: '\\xff\\xfe'
        int64_val: [-9223372036854775808, 1] int_val: 7 bool_val: true string_val: 'x'
        double_val: [0.1, 1e300] uint64_val: 18446744073709551615
    } }
"""


def signature(text: str = SIGNATURE) -> Any:
    return parse_text("tensorflow.SignatureDef", text, "signature")


def test_prints_fields_that_are_not_set_but_for_messages_and_choices() -> None:
    assert value_of(signature("inputs { key: 'x' value { tensor_shape { dim { } } } }")) == {
        "inputs": {
            "x": {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [{"size": "0", "name": ""}], "unknown_rank": False},
            }
        },
        "outputs": {},
        "method_name": "",
        "defaults": {},
    }


def test_keys_of_maps_are_in_order_and_fields_as_they_are_declared() -> None:
    printed = value_of(signature())
    assert list(printed) == ["inputs", "outputs", "method_name", "defaults"]
    inputs = printed["inputs"]
    assert isinstance(inputs, dict)
    assert list(inputs) == ["a", "b"]
    assert list(inputs["b"]) == ["name", "dtype", "tensor_shape"]


def test_numbers_and_bytes_have_protobufs_forms() -> None:
    printed: Any = value_of(signature())
    tensor = printed["defaults"]["b"]
    assert tensor["float_val"][:3] == [0.1, 1, 1e30]
    assert tensor["float_val"][3:6] == ["NaN", "Infinity", "-Infinity"]
    assert str(tensor["float_val"][6]) == "-0.0"
    assert tensor["tensor_content"] == "//4="
    assert tensor["int64_val"] == ["-9223372036854775808", "1"]
    assert tensor["uint64_val"] == ["18446744073709551615"]
    assert (tensor["int_val"], tensor["bool_val"]) == ([7], [True])
    assert tensor["double_val"] == [0.1, 1e300]
    assert printed["outputs"]["y"]["dtype"] == 999
    assert '"float_val":[0.1,1,1e+30,"NaN"' in text_of(printed, pretty=False)


# The largest of all is printed as 3.4028235e+38, which protobuf's reader in Python refuses.
FLOATS = st.floats(width=32, allow_nan=False).filter(lambda x: math.isinf(x) or abs(x) < 3.4e38)


@given(st.lists(FLOATS))
def test_a_float_is_printed_so_that_it_is_read_back(values: list[float]) -> None:
    tensor: Any = message_class("tensorflow.TensorProto")(float_val=values)
    text = text_of(value_of(tensor), pretty=False)
    read = json_format.Parse(
        text, message_class("tensorflow.TensorProto")(), descriptor_pool=pool()
    )
    assert read == tensor


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("pretty", [False, True])
def test_protobuf_reads_what_is_printed(pretty: bool, long: bool) -> None:
    text = text_of(value_of(signature()), pretty=pretty, long=long)
    read: Any = message_class("tensorflow.SignatureDef")()
    json_format.Parse(text, read, descriptor_pool=pool())
    # NaN is not equal to itself.
    assert str(read) == str(signature())


def test_layouts() -> None:
    value = {"a": [1, "é<b>"], "b": {}, "c": []}
    assert protobuf_response(value, pretty=False).body.decode() == (
        '{"a":[1,"é\\u003cb\\u003e"],"b":{},"c":[]}'
    )
    assert protobuf_response(value, pretty=True).body.decode() == (
        '{\n "a": [\n  1,\n  "é\\u003cb\\u003e"\n ],\n "b": {},\n "c": []\n}\n'
    )


@pytest.mark.parametrize("pretty", [False, True])
def test_long_values_come_out_the_same(pretty: bool) -> None:
    value = {"a": [1, {"b": ["x", None, True, 0.5]}], "é": []}
    assert text_of(value, pretty=pretty, long=True) == text_of(value, pretty=pretty)


def test_what_is_no_text_does_not_spoil_an_answer() -> None:
    body = protobuf_response({"a": "\udcff"}, pretty=False).body
    assert json.loads(body) == {"a": "?"}


def test_a_long_value_lets_other_threads_run_all_the_while() -> None:
    value = [{"name": f"m{i}", "labels": ["a", "b"]} for i in range(100_000)]
    counted = 0
    ended = threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            counted += 1
            time.sleep(0.0005)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    counting = threading.Thread(target=count)
    counting.start()
    try:
        eventually(lambda: counted > 0)
        before = counted
        text_of(value, pretty=False, long=True)
        assert counted - before > 10  # in one step it would be one or two
    finally:
        ended.set()
        counting.join()
        sys.setswitchinterval(interval)
