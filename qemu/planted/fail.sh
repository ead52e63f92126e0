#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that fails.
echo "TAP version 13"
echo "1..1"
echo "not ok 1 this is planted"
exit 1
