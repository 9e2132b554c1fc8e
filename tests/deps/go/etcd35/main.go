// SPDX-License-Identifier: Apache-2.0

// Package main is the oldest etcd that nodes work with, built from its module for the tests.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
