# SPDX-License-Identifier: Apache-2.0
"""The one typed configuration: schema, loading, checks, rendering."""
