"""Run by `bench_simulator.py` where vLLM is: `python vllm_replies.py JOB RESULT`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    """Read a job; write the seconds of every round. Standard output is vLLM's own."""
    job_file, result_file = map(Path, sys.argv[1:])
    job = json.loads(job_file.read_text(encoding="utf-8"))
    llm = LLM(
        model=job["model"],
        dtype="float32",
        max_num_seqs=len(job["prompts"]),
        kv_cache_memory_bytes=64 << 20,
        enable_prefix_caching=False,  # or later rounds would have less to read
    )
    params = SamplingParams(temperature=0, max_tokens=job["max_tokens"])
    seconds = []
    for _ in range(job["num_rounds"] + 1):
        start = time.perf_counter()
        llm.generate(job["prompts"], params, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
    result_file.write_text(json.dumps(seconds[1:]), encoding="utf-8")


if __name__ == "__main__":
    main()
