#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that takes the kernel down.
echo c >/proc/sysrq-trigger
