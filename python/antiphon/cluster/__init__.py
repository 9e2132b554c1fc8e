# SPDX-License-Identifier: Apache-2.0
"""Other nodes: control calls between them and from operators, and what etcd says of them."""
