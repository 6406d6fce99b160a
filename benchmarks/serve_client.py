"""Clients of ``mmcl-fast serve`` over loopback: each sends one file after another on its own connection.

python -m benchmarks.serve_client JSON

JSON has the keys ``port``, ``clients``, ``seconds`` and ``files`` (pairs of a modality and a path). Every file is first
sent alone. An answer under load is wrong if its best probability differs by more than ``TOLERANCE`` from the answer
alone. The program prints one JSON object. It has the seconds of each answer by modality, the number of answers, errors
by kind, wrong answers, and the processor time of the clients.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

TOLERANCE = 0.01
HEAD = "POST /predict?top_k=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n"


class Client:
    """A connection that is opened again after an error."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, body: bytes) -> tuple[int, bytes]:
        """Send a file; return the status and the body of the answer."""
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            writer.write(HEAD.format(len(body)).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            answer = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        except BaseException:
            self.close()
            raise
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), answer

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


def best_probability(answer: bytes) -> float:
    return json.loads(answer)["items"][0]["labels"][0]["probability"]


async def run_clients(job: dict) -> dict:
    """Run the clients of a job, and return what the program prints."""
    bodies = [(modality, Path(path).read_bytes()) for modality, path in job["files"]]
    first = Client(job["port"])
    expected = [best_probability((await first.request(body))[1]) for _, body in bodies]
    first.close()
    print("alone", flush=True)  # benchmarks.serve waits for this line: the load begins
    taken: dict[str, list[float]] = defaultdict(list)
    errors: Counter[str] = Counter()
    wrong, cpu, start = 0, time.process_time(), time.perf_counter()

    async def work(number: int) -> None:
        nonlocal wrong
        client, turn = Client(job["port"]), number * len(bodies) // job["clients"]
        while (began := time.perf_counter()) < start + job["seconds"]:
            (modality, body), known = bodies[turn % len(bodies)], expected[turn % len(bodies)]
            turn += 1
            try:
                status, answer = await client.request(body)
            except (OSError, asyncio.IncompleteReadError, ValueError) as fault:
                errors[type(fault).__name__] += 1
                continue
            if status != 200:
                errors[str(status)] += 1
                continue
            taken[modality].append(time.perf_counter() - began)
            wrong += abs(best_probability(answer) - known) > TOLERANCE
        client.close()

    await asyncio.gather(*(work(number) for number in range(job["clients"])))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "answers": sum(map(len, taken.values())),
        "errors": errors,
        "wrong": wrong,
        "client CPU s": time.process_time() - cpu,
        "latencies": {m: [round(t, 5) for t in sorted(times)] for m, times in sorted(taken.items())},
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_clients(json.loads(sys.argv[1])))))
