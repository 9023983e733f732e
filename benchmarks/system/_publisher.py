"""`Publisher.publish_many` in a separate process: each line of its input gives the number of messages to publish."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop

from realizehit.client.publisher import Publisher

PATTERN = {"kind": "news", "channel": "CNN"}
PAYLOAD = {"title": "x" * 116}


async def main(broker: str) -> None:
    async with Publisher(broker) as publisher:
        print(json.dumps({}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            messages = [(PATTERN, PAYLOAD)] * json.loads(line)["messages"]
            cpu, start = time.process_time(), time.perf_counter()
            done = await publisher.publish_many(messages)
            said = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "messages": len(done)}
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[2]))
