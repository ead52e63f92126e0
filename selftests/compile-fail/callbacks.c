// SPDX-License-Identifier: GPL-2.0
/*
 * The functions that C calls through a pointer. They have the types of the kernel's headers, and the
 * names of the callbacks in src/dm. The script callbacks uses this file.
 */

#include <linux/blk_types.h>
#include <linux/device-mapper.h>
#include <linux/notifier.h>

#define FUNCTION(name, type) extern typeof(*(type)0) name

FUNCTION(ctr, dm_ctr_fn);
FUNCTION(dtr, dm_dtr_fn);
FUNCTION(map, dm_map_fn);
FUNCTION(end_io, dm_endio_fn);
FUNCTION(presuspend, dm_presuspend_fn);
FUNCTION(status, dm_status_fn);
FUNCTION(message, dm_message_fn);
FUNCTION(iterate_devices, dm_iterate_devices_fn);
FUNCTION(io_hints, dm_io_hints_fn);

/* The compiler emits the type of a function whose address is taken. */
void *const callbacks[] = {
	ctr, dtr, map, end_io, presuspend, status, message, iterate_devices, io_hints,
};
