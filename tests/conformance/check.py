#!/usr/bin/env python3
"""Compare a server's answers with those recorded from TensorFlow Serving 2.20.

    check.py [--show N] [--cases FILE] COMMAND...        e.g.  check.py python -m tfsrv

COMMAND is started twice (plain, and with batching) with TensorFlow Serving's flags on free ports; it must serve
models/ beside this file. Needs tensorflow-serving-api for the message types. Exit status: number of differing cases, at most 99.

A case differs in *code* (HTTP status or gRPC code) or in *content* (JSON values and number spellings, error text,
message fields). Where tfsrv is better on purpose, keep a list of ids with the reason beside the tests that call this.
"""

import argparse
import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import grpc

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "models")
CONFIG = (
    "model_config_list {\n"
    + "".join(
        f'  config {{ name: "{n}" base_path: "{MODELS}/{n}" model_platform: "tensorflow" {extra} }}\n'
        for n, extra in (
            (
                "half_plus_two",
                'model_version_policy { specific { versions: 1 versions: 2 versions: 5 } } version_labels { key: "stable" value: 2 } version_labels { key: "canary" value: 5 }',
            ),
            ("dtypes", ""),
            ("multi", ""),
            ("odd", ""),
        )
    )
    + "}\n"
)
BATCHING = "max_batch_size { value: 4 }\nbatch_timeout_micros { value: 0 }\nnum_batch_threads { value: 2 }\nmax_enqueued_batches { value: 100 }\nallowed_batch_sizes: 2\nallowed_batch_sizes: 4\n"
VERSIONS = {"half_plus_two": 3, "dtypes": 1, "multi": 1, "odd": 1}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One process of COMMAND, ready when every version of every model is AVAILABLE."""

    def __init__(self, command, tmp, batching):
        self.command, self.tmp, self.batching = command, tmp, batching
        self.start()

    def start(self):
        g, self.rest_port = free_port(), free_port()
        for name, text in (("models", CONFIG), ("batching", BATCHING)):
            with open(f"{self.tmp}/{name}.config", "w") as f:
                f.write(text)
        args = self.command + [
            f"--port={g}",
            f"--rest_api_port={self.rest_port}",
            f"--model_config_file={self.tmp}/models.config",
            "--allow_version_labels_for_unavailable_models=true",
        ]
        if self.batching:
            args += [
                "--enable_batching=true",
                f"--batching_parameters_file={self.tmp}/batching.config",
            ]
        log = f"{self.tmp}/{'batching' if self.batching else 'plain'}.log"
        with open(log, "a") as f:
            self.process = subprocess.Popen(args, stdout=f, stderr=f)
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{g}", options=[("grpc.max_receive_message_length", -1)]
        )
        deadline = time.time() + 60
        while time.time() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"the server exited with {self.process.returncode}; its log is {log}")
            if all(self.available(m) >= n for m, n in VERSIONS.items()):
                return
            time.sleep(0.1)
        sys.exit(f"the models did not become available in 60 s; the log is {log}")

    def available(self, model):
        from tensorflow_serving.apis import get_model_status_pb2 as pb

        request = pb.GetModelStatusRequest()
        request.model_spec.name = model
        call = self.channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            response_deserializer=pb.GetModelStatusResponse.FromString,
        )
        try:
            return sum(
                v.state == 30
                for v in call(request.SerializeToString(), timeout=5).model_version_status
            )
        except grpc.RpcError:
            return 0

    def answer(self, case):
        a = self.http(case) if case["proto"] == "rest" else self.rpc(case)
        if self.process.poll() is not None:
            a["server_died"] = self.process.returncode
            self.start()
        return a

    def http(self, case):
        c = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=20)
        body = base64.b64decode(case["body"]) if case["body"] is not None else None
        try:
            c.putrequest(case["method"], case["path"], skip_accept_encoding=True)
            for k, v in case["headers"].items():
                c.putheader(k, v)
            if body is not None:
                c.putheader("Content-Length", str(len(body)))
            c.endheaders(body)
            r = c.getresponse()
            data = r.read()
            if r.getheader("Content-Encoding") == "gzip":
                import gzip

                data = gzip.decompress(data)
            return {
                "status": r.status,
                "content_type": r.getheader("Content-Type"),
                "cors": r.getheader("Access-Control-Allow-Origin"),
                "body": data.decode("utf-8", "surrogateescape")
                .encode("utf-8", "backslashreplace")
                .decode(),
            }
        except (OSError, http.client.HTTPException) as e:
            return {"failed": type(e).__name__}
        finally:
            c.close()

    def rpc(self, case):
        try:
            return {
                "code": "OK",
                "response": base64.b64encode(
                    self.channel.unary_unary("/" + case["method"])(
                        base64.b64decode(case["request"]), timeout=20
                    )
                ).decode(),
            }
        except grpc.RpcError as e:
            return {"code": e.code().name, "details": e.details()}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def message(method, data):
    """The response as text, maps sorted."""
    from google.protobuf import text_format
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_management_pb2,
        predict_pb2,
        regression_pb2,
    )

    cls = {
        "Predict": predict_pb2.PredictResponse,
        "Classify": classification_pb2.ClassificationResponse,
        "Regress": regression_pb2.RegressionResponse,
        "MultiInference": inference_pb2.MultiInferenceResponse,
        "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataResponse,
        "GetModelStatus": get_model_status_pb2.GetModelStatusResponse,
        "HandleReloadConfigRequest": model_management_pb2.ReloadConfigResponse,
    }[method.rsplit("/", 1)[1]]
    return text_format.MessageToString(cls.FromString(base64.b64decode(data)))


def json_value(text):
    """Parsed JSON in which numbers keep their spelling and objects their keys' set only."""
    try:
        return json.loads(
            text,
            parse_float=lambda s: ("number", s),
            parse_int=lambda s: ("number", s),
            parse_constant=lambda s: ("number", s),
        )
    except ValueError:
        return ("not JSON", text)


def differs(case, want, got):
    """None, 'code' or 'content'."""
    if case["proto"] == "rest":
        if want.get("status") != got.get("status"):
            return "code"
        if (
            want.get("content_type") != got.get("content_type")
            or want.get("cors") != got.get("cors")
            or json_value(want.get("body", "")) != json_value(got.get("body", ""))
        ):
            return "content"
    else:
        if want["code"] != got["code"]:
            return "code"
        if want["code"] == "OK":
            if message(case["method"], want["response"]) != message(
                case["method"], got["response"]
            ):
                return "content"
        elif re.sub(r"0x[0-9a-f]+", "", want["details"]) != re.sub(
            r"0x[0-9a-f]+", "", got["details"]
        ):
            return "content"
    return "died" if "server_died" in got else None


def shown(case, a):
    if a.get("code") == "OK":
        return message(case["method"], a["response"]).replace("\n", " ")[:400]
    return json.dumps(a)[:400]


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--cases", default=os.path.join(HERE, "cases.jsonl"))
    p.add_argument("--show", type=int, default=20, help="differing cases to print in full")
    p.add_argument("--out", help="write every case with both answers to this JSON-lines file")
    p.add_argument("command", nargs=argparse.REMAINDER)
    o = p.parse_args()
    cases = [json.loads(line) for line in open(o.cases)]
    found, tmp = [], tempfile.mkdtemp(prefix="conformance-")
    servers = {}
    try:
        for kind in ("plain", "batching"):
            servers[kind] = Server(o.command, tmp, kind == "batching")
        out = open(o.out, "w") if o.out else None
        for case in cases:
            got = servers[case["server"]].answer(case)
            d = differs(case, case["answer"], got)
            if out:
                out.write(json.dumps({**case, "got": got, "differs": d}) + "\n")
            if d:
                found.append((d, case, got))
    finally:
        for s in servers.values():
            s.stop()
    for d, case, got in found[: o.show]:
        body = base64.b64decode(case.get("body") or "").decode("utf-8", "replace")[:200]
        print(
            f"{case['id']} [{d}] {case['server']} {case['method']} {case.get('path', '')} {body}\n    want {shown(case, case['answer'])}\n    got  {shown(case, got)}"
        )
    kinds = {k: sum(d == k for d, _, _ in found) for k in ("code", "content", "died")}
    print(
        f"{len(cases)} cases: {len(cases) - len(found)} the same, {kinds['code']} differ in code, {kinds['content']} in content, {kinds['died']} ended the server"
    )
    sys.exit(min(99, len(found)))


if __name__ == "__main__":
    main()
