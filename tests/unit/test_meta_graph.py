"""Scanning MetaGraphDefs on the wire finds what Python protobuf finds."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import Graph, fill_node
from tfsrv._meta_graph import op_names, restores_variables, scan
from tfsrv._proto import message_class

MetaGraphDef: Any = message_class("tensorflow.MetaGraphDef")


def with_op(op: str) -> Graph:
    graph = Graph()
    graph.add("first", "NoOp")
    graph.add("second", op)
    graph.add("third", "NoOp")
    return graph


def with_function(*ops: str) -> Graph:
    graph = with_op("StatefulPartitionedCall")
    graph.meta.graph_def.library.function.add()
    function = graph.meta.graph_def.library.function.add()
    for number, op in enumerate(ops):
        fill_node(function.node_def.add(), f"node{number}", op, (), {})
    return graph


@pytest.mark.parametrize("op", ["VarHandleOp", "VariableV2", "Variable"])
def test_variables_and_a_saver_want_a_checkpoint(op: str) -> None:
    graph = with_op(op)
    assert not restores_variables(graph.meta.SerializeToString())
    graph.meta.saver_def.filename_tensor_name = "saver_filename:0"
    assert not restores_variables(graph.meta.SerializeToString())
    graph.meta.saver_def.restore_op_name = "StatefulPartitionedCall_1"
    assert restores_variables(graph.meta.SerializeToString())


def test_a_saver_without_variables_wants_nothing() -> None:
    graph = with_function("VarHandleOp", "ReadVariableOp")
    graph.meta.saver_def.restore_op_name = "restore"
    assert not restores_variables(graph.meta.SerializeToString())
    assert not restores_variables(b"")
    assert not restores_variables(b"\xff\xff")


def waiting_op(graph: Graph) -> str:
    return scan(graph.meta.SerializeToString())[0]


def test_finds_every_signature_definition() -> None:
    graph = with_op("Identity")
    graph.sign("serving_default", {"x": "x:0"}, {"y": "y:0"})
    graph.sign("other", {}, {"z": "z:0"})
    graph.meta.signature_def["empty"].SetInParent()
    _, found = scan(graph.meta.SerializeToString())
    parse = message_class("tensorflow.SignatureDef").FromString
    assert {name.decode(): parse(value) for name, value in found} == dict(graph.meta.signature_def)


@pytest.mark.parametrize(
    "op",
    [
        "While",
        "StatelessWhile",
        "Enter",
        "NextIteration",
        "QueueDequeueV2",
        "FIFOQueueV2",
        "IteratorGetNext",
        "MapDataset",
        "TFRecordReaderV2",
        "_Recv",
        "_HostRecv",
        "RemoteCall",
        "CollectiveReduceV2",
        "BatchFunction",
        "Unstage",
        "OrderedMapUnstageNoKey",
        "MutexLock",
        "BarrierTakeMany",
        "ReadFile",
        "PyFunc",
        "SparseAccumulatorTakeGradient",
    ],
)
def test_tells_an_op_that_loops_or_waits(op: str) -> None:
    assert waiting_op(with_op(op)) == op


@pytest.mark.parametrize(
    "op",
    [
        "NoOp",
        "BatchMatMulV2",
        "NextAfter",
        "ReadVariableOp",
        "AssignVariableOp",
        "LookupTableFindV2",
        "InitializeTableFromTextFileV2",
        "StatefulPartitionedCall",
        "If",
        "Switch",
        "Merge",
        "ParseExampleV2",
        "WhileFoo",
        "BatchNormWithGlobalNormalization",
        "StagedThing",
        "Sender",
        "",
    ],
)
def test_lets_ops_that_only_compute_pass(op: str) -> None:
    assert waiting_op(with_op(op)) == ""


def test_looks_into_library_functions() -> None:
    assert waiting_op(with_function("Identity", "StatelessWhile", "Identity")) == "StatelessWhile"


def test_lets_the_savers_functions_pass() -> None:
    saver = ("ShardedFilename", "SaveV2", "MergeV2Checkpoints", "RestoreV2", "AssignVariableOp")
    assert waiting_op(with_function(*saver)) == ""


def test_finds_signatures_behind_a_graph_that_waits() -> None:
    graph = with_op("While")
    graph.sign("serving_default", {}, {})
    assert [name for name, _ in scan(graph.meta.SerializeToString())[1]] == [b"serving_default"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x12",
        b"\x12\x05\x0a",
        b"\x00\x01",
        b"\x2a\xff\xff\xff\xff\x0f",
        b"\x0c",
        b"\x0b",
        b"\x0f",
        b"\x12\x02\x0a\x7f",
        b"\xff" * 11,
    ],
)
def test_refuses_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a MetaGraphDef"):
        scan(data)


EXAMPLE = with_function("Identity", "Add")
EXAMPLE.sign("serving_default", {"x": "x:0"}, {"y": "y:0"})
EXAMPLE_BYTES: bytes = EXAMPLE.meta.SerializeToString()


@given(
    st.lists(st.tuples(st.integers(0, len(EXAMPLE_BYTES) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(EXAMPLE_BYTES)),
)
def test_accepts_whatever_protobuf_accepts(changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(EXAMPLE_BYTES)
    for position, byte in changes:
        data[position] = byte
    mutated = bytes(data[:size])
    try:
        expected = MetaGraphDef.FromString(mutated)
    except Exception:  # protobuf's implementations differ in what they raise
        with contextlib.suppress(ValueError):  # the scanner may accept more
            scan(mutated)
        return
    _, found = scan(mutated)
    assert {name.decode() for name, _ in found} == set(expected.signature_def)


@given(st.binary(max_size=64))
def test_survives_any_bytes(data: bytes) -> None:
    for read in (scan, op_names):
        with contextlib.suppress(ValueError):
            read(data)


def test_lists_the_names_of_ops() -> None:
    ops: Any = message_class("tensorflow.OpList")()
    ops.op.add(name="One", summary="the first")
    ops.op.add(name="Two")
    assert op_names(ops.SerializeToString()) == [b"One", b"Two"]
