"""What the probe of the paths takes of a run: seconds and share, in one run of the demo model in its default size.

    python benchmarks/probe.py [--limit N] [--max-new-tokens N]

A ratio within one run; the run is made in this process, so that imports and the page are in it as in the command's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    begin = time.perf_counter(), time.process_time()
    import decodedrift as dd
    from decodedrift.models import probe

    needed, probes = probe.needed, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter(), time.process_time()
        answer = needed(*args, **kwargs)
        probes.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        return answer

    probe.needed = timed
    with tempfile.TemporaryDirectory() as folder:
        study = dd.compare("demo", out=Path(folder) / "run", **given, noise_floor=False, default_text=False)
    wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
    took = [sum(column) for column in zip(*probes, strict=True)]
    print(f"path {study.environment['generation']['path']}, {len(probes)} variants probed")
    print(f"wall {took[0]:.2f} of {wall:.1f} s: {took[0] / wall:.2%}")
    print(f"CPU  {took[1]:.2f} of {cpu:.1f} s: {took[1] / cpu:.2%}")


if __name__ == "__main__":
    main()
