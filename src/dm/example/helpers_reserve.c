// SPDX-License-Identifier: GPL-2.0
/* The shims of src/dm, compiled once more: an object belongs to one module only. */

#include "../helpers.c"
