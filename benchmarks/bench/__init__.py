# SPDX-License-Identifier: Apache-2.0
"""The parts of `benchmarks/run.py`: servers, scenarios, the machine, and the report."""
