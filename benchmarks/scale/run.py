# SPDX-License-Identifier: Apache-2.0
"""How large a cluster has to be: a table in Markdown.

python benchmarks/scale/run.py [SESSIONS]...        1M 10M 100M, unless given
    --set NAME=VALUE                                another value of an input, any number
    --check benchmarks/results/DATE-cluster.json    beside what a run found; exit code 1 if far
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scale.inputs import Inputs, InputsError, read
from scale.model import size
from scale.report import checks, markdown

SIZES = ("1M", "10M", "100M")
FACTORS = {"k": 1_000, "M": 1_000_000}


def count(text: str) -> int:
    """`250k`, `10M` or plain digits."""
    digits, factor = (text[:-1], FACTORS[text[-1]]) if text[-1:] in FACTORS else (text, 1)
    if not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of sessions")
    return int(digits) * factor


def setting(text: str) -> tuple[str, float]:
    """`NAME=VALUE`."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE") from None


def main() -> int:
    """0, or 1 where a prediction is far from what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sessions", nargs="*", type=count)
    parser.add_argument("--set", action="append", default=[], type=setting, dest="changes")
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    try:
        inputs: Inputs = read().with_(**dict(options.changes))
        if options.check is not None:
            return _check(inputs, options.check)
        sizes = options.sessions or [count(text) for text in SIZES]
        print(markdown(inputs, [size(inputs, one) for one in sizes]), end="")
    except (InputsError, ValueError) as error:
        sys.exit(f"scale: {error}")
    return 0


def _check(inputs: Inputs, path: Path) -> int:
    found = checks(inputs, path)
    print("| | predicted | found | |\n| --- | ---: | ---: | --- |")
    print("\n".join(map(str, found)))
    return 0 if all(one.is_near for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
