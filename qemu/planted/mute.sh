#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that ends the agent (the child of init), and with it the guest, in an orderly way.
read -r agent _ </proc/1/task/1/children
kill -9 "$agent"
sleep 1000
