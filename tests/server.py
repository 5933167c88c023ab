"""An OpenAI-compatible server in a process of its own, on loopback: the demo model through transformers alone.

Its log-probabilities are those of the raw logits that it chose from. `Served.turn(...)` turns knobs of what goes wrong,
and `Served.seen()` tells every request that it got: path, headers, body.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, ClassVar

DEMO = Path(__file__).parent.parent / "decodedrift" / "data" / "demo"
OPENAIS = {  # fields that a strict server takes
    "model", "prompt", "messages", "n", "stream", "max_tokens", "temperature", "top_p", "seed", "logprobs",
    "top_logprobs", "logit_bias", "stop",
}  # fmt: skip
KNOBS: dict[str, Any] = {
    "after": 0,  # good answers before anything goes wrong
    "fail": [],  # {status, retry_after} of the next requests for a completion, in their order
    "hang": 0.0,  # seconds before an answer
    "truncated": False,  # half of the JSON, as if it were all
    "plain": "",  # an answer that is no JSON
    "logprobs": True,
    "ids": True,
    "retokenized": False,  # the ids of the text encoded again
    "nondeterminism": 0.0,  # how often the runner-up is taken, in draws that no request's seed decides
    "beside": False,  # only while others are under way
    "strict": False,  # fields beyond OpenAI's are refused
    "positive": False,  # a top_k below 0 is refused, as llama-cpp-python does it: with 500
    "key": "",  # that is asked for
    "echo": False,  # the key in texts and reasons
    "redirect": "",  # the root of another server
    "bytes": 0,  # of filler in an answer
    "loading": 0,  # lists of models that it refuses first
    "owner": "vllm",
    "version": "0.99",
}


@dataclass
class Served:
    """A running server. url: of its API."""

    url: str
    root: str

    def turn(self, **knobs: Any) -> None:
        """All knobs as they are from the start but for these."""
        self._ask("/knobs", knobs)

    def seen(self) -> list[dict[str, Any]]:
        """The requests since the knobs were turned."""
        requests: list[dict[str, Any]] = self._ask("/seen")
        return requests

    def asked(self) -> list[dict[str, Any]]:
        """The bodies of those for a completion."""
        return [r["body"] for r in self.seen() if r["body"] is not None]

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.root + path, data, 60) as answer:
            return json.loads(answer.read())


@contextmanager
def served(dtype: str = "bfloat16") -> Iterator[Served]:
    """A server of the demo model in a type, which ends with the context."""
    process = subprocess.Popen([sys.executable, __file__, dtype], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        yield Served(f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


class Model:
    """The demo model, a text at a time."""

    def __init__(self, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.lock, self.chance = torch, Lock(), Random(0)
        self.tokenizer = AutoTokenizer.from_pretrained(DEMO)
        self.model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=getattr(torch, dtype)).eval()

    def complete(self, ids: list[int], body: dict[str, Any], nondeterminism: float) -> tuple[list[int], Any]:
        """New ids, and the log-probabilities float64 [T, vocab] of the raw logits that each was chosen from."""
        torch = self.torch
        how: dict[str, Any] = {"do_sample": False}
        if body.get("temperature", 1) > 0:
            how = {"do_sample": True, "temperature": float(body.get("temperature", 1)), "top_p": body.get("top_p", 1.0)}
            how |= {"top_k": max(0, body.get("top_k", -1)), "min_p": body.get("min_p") or None}
        if nondeterminism:
            how["logits_processor"] = [self._runner_up(nondeterminism)]
        with self.lock, torch.no_grad():
            torch.manual_seed(body.get("seed", 0))
            out = self.model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=body["max_tokens"],
                output_logits=True, return_dict_in_generate=True, **how,
            )  # fmt: skip
        return out.sequences[0, len(ids) :].tolist(), torch.cat(out.logits).double().log_softmax(-1)

    def _runner_up(self, rate: float) -> Any:
        def processed(ids: Any, scores: Any) -> Any:
            if self.chance.random() < rate:
                scores = scores.clone()
                scores[0, scores[0].argmax()] = -float("inf")
            return scores

        return processed


class Handler(BaseHTTPRequestHandler):
    """What the server answers."""

    protocol_version = "HTTP/1.1"
    model: Model
    knobs: ClassVar[dict[str, Any]] = dict(KNOBS)
    requests: ClassVar[list[dict[str, Any]]] = []
    lock = Lock()
    wrong = False
    under_way: ClassVar[list[Handler]] = []

    def log_message(self, *told: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        knobs = self.knobs
        if self.path == "/seen":
            return self._send(200, self.requests)
        self._note(None)
        if self.path == "/v1/models" and knobs["loading"]:
            knobs["loading"] -= 1
            return self._send(503, {"error": {"message": "loading"}}, {"retry-after": "0.01"})
        if self.path == "/v1/models":
            return self._send(200, {"object": "list", "data": [{"id": "demo", "owned_by": knobs["owner"]}]})
        if self.path == "/version":
            return self._send(200, {"version": knobs["version"]})
        return self._send(404, {"error": {"message": "no such page"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/knobs":
            type(self).knobs, type(self).requests = {**KNOBS, **body}, []
            self.model.chance.seed(0)
            return self._send(200, {})
        self._note(body)
        knobs = self.knobs
        given = self.headers.get("authorization", "")
        if knobs["redirect"]:
            return self._send(307, {}, {"location": knobs["redirect"] + self.path})
        if knobs["key"] and given != f"Bearer {knobs['key']}":
            return self._send(401, {"error": {"message": f"wrong key: {given}"}})
        with self.lock:
            self.wrong = sum(r["body"] is not None for r in self.requests) > knobs["after"]
            failure = knobs["fail"].pop(0) if knobs["fail"] and self.wrong else None
        if failure:
            after = {"retry-after": str(failure["retry_after"])} if "retry_after" in failure else {}
            reason = "failing" + (f" {given}" if knobs["echo"] else "")
            return self._send(failure["status"], {"error": {"message": reason}}, after)
        if knobs["strict"] and (unknown := sorted(set(body) - OPENAIS)):
            return self._send(400, {"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}})
        if knobs["positive"] and body.get("top_k", 0) < 0:
            return self._send(500, {"error": {"message": "Input should be greater than or equal to 0"}})
        time.sleep(knobs["hang"] * self.wrong)
        return self._send(200, self._answer(body, "chat" in self.path, given))

    def _answer(self, body: dict[str, Any], chat: bool, given: str) -> Any:
        knobs, tokenizer = self.knobs, self.model.tokenizer
        asked = "\n".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        ids = tokenizer(asked)["input_ids"] if isinstance(asked, str) else asked
        self.under_way.append(self)
        time.sleep(0.005 * knobs["beside"])  # others come meanwhile
        alone = knobs["beside"] and len(self.under_way) < 2
        new, log_p = self.model.complete(ids, body, 0.0 if alone else knobs["nondeterminism"])
        self.under_way.remove(self)
        stopped = new[-1] in (self.model.model.generation_config.eos_token_id, tokenizer.eos_token_id)
        text = tokenizer.decode(new, skip_special_tokens=True) + (given if knobs["echo"] else "")
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if stopped else "length", "stop_reason": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if knobs["retokenized"]:
            new = tokenizer(text)["input_ids"]
        if body.get("logprobs") not in (None, False) and knobs["logprobs"]:
            choice["logprobs"] = self._logprobs(new, log_p, body, chat)
        if body.get("return_token_ids") and knobs["ids"]:
            choice |= {"token_ids": new, "prompt_token_ids": ids}
        counts = {"prompt_tokens": len(ids), "completion_tokens": len(new)}
        beside = {"id": "c", "model": body["model"], "system_fingerprint": "fp_1", "usage": counts}
        return beside | {"choices": [choice]} | ({"filler": "x" * knobs["bytes"]} if self.wrong else {})

    def _logprobs(self, new: list[int], log_p: Any, body: dict[str, Any], chat: bool) -> Any:
        count = body.get("top_logprobs", 0) if chat else body["logprobs"]
        top_p, top_ids = log_p.topk(count or 1)
        by_id = body.get("return_tokens_as_token_ids") and self.knobs["ids"]
        name = (lambda i: f"token_id:{i}") if by_id else self.model.tokenizer.decode
        chosen = [float(log_p[t, i]) for t, i in enumerate(new)]
        tops = [list(zip(map(name, row.tolist()), p.tolist())) for row, p in zip(top_ids, top_p)]
        if not chat:
            return {
                "tokens": [name(i) for i in new], "token_logprobs": chosen, "top_logprobs": [dict(top) for top in tops],
                "text_offset": [0] * len(new),
            }  # fmt: skip
        shown = [[{"token": n, "logprob": p} for n, p in top] for top in tops]
        rows = zip(new, chosen, shown)
        return {"content": [{"token": name(i), "logprob": p, "top_logprobs": top} for i, p, top in rows]}

    def _note(self, body: Any) -> None:
        with self.lock:
            self.requests.append(
                {"path": self.path, "headers": {n.lower(): v for n, v in self.headers.items()}, "body": body}
            )

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        if status == 200 and self.path.startswith("/v1/c") and self.wrong:
            data = data[: len(data) // 2] if self.knobs["truncated"] else data
            data = self.knobs["plain"].encode() or data
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # whoever asked has gone
            pass


if __name__ == "__main__":
    Handler.model = Model(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
