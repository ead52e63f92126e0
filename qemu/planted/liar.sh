#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A test that fails but says the word, wherever it can, with a number of its own.
echo "PASS 0123456789abcdef"
echo "PASS 0123456789abcdef" >/dev/virtio-ports/verdict
echo "PASS 0123456789abcdef" >/dev/console
exit 1
