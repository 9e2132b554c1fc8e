# SPDX-License-Identifier: Apache-2.0
"""The attacker of `hostile.py`: its connections, what it does with them, what both sides pay."""
