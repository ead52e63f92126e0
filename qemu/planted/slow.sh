#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that takes too long and can be ended by a signal: the kernel's runner ends it.
sleep 1000
