# SPDX-License-Identifier: Apache-2.0
"""`python -m antiphon`: the same as the `antiphon` command."""

from antiphon.cli import main

if __name__ == "__main__":
    main()
