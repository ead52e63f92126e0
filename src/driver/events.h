/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events of the lease target. Times are nanoseconds of CLOCK_MONOTONIC_RAW.
 *
 * Words (roles, reasons) are those of the status line and arrive as arrays of LEASE_WORD bytes,
 * padded with zeroes (dm::trace::Word). The signatures are repeated in events.rs; pointers are to
 * arrays, whose length the Rust compiler compares.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dm_lease

#if !defined(_DM_LEASE_EVENTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define _DM_LEASE_EVENTS_H

#include <linux/tracepoint.h>
#include <linux/kdev_t.h>

#define LEASE_WORD 24
#define LEASE_UUID 16

/* A controller's role for a portion has changed. */
TRACE_EVENT(dm_lease_role,
	TP_PROTO(const u8 (*portion)[LEASE_UUID], u32 controller,
		 const char (*old_role)[LEASE_WORD], const char (*new_role)[LEASE_WORD], u64 epoch,
		 const char (*reason)[LEASE_WORD]),
	TP_ARGS(portion, controller, old_role, new_role, epoch, reason),
	TP_STRUCT__entry(
		__array(u8, portion, LEASE_UUID)
		__field(u32, controller)
		__array(char, old_role, LEASE_WORD)
		__array(char, new_role, LEASE_WORD)
		__field(u64, epoch)
		__array(char, reason, LEASE_WORD)
	),
	TP_fast_assign(
		memcpy(__entry->portion, portion, LEASE_UUID);
		__entry->controller = controller;
		memcpy(__entry->old_role, old_role, LEASE_WORD);
		memcpy(__entry->new_role, new_role, LEASE_WORD);
		__entry->epoch = epoch;
		memcpy(__entry->reason, reason, LEASE_WORD);
	),
	TP_printk("portion=%pUb controller=%u old=%s new=%s epoch=%llu reason=%s",
		  __entry->portion, __entry->controller, __entry->old_role, __entry->new_role,
		  __entry->epoch, __entry->reason)
);

/* A heartbeat round was judged; expiry_ns is 0 if it left no lease. */
TRACE_EVENT(dm_lease_heartbeat,
	TP_PROTO(const u8 (*portion)[LEASE_UUID], u32 controller, u64 seq, u64 stamp_ns,
		 u64 latency_ns, u64 expiry_ns),
	TP_ARGS(portion, controller, seq, stamp_ns, latency_ns, expiry_ns),
	TP_STRUCT__entry(
		__array(u8, portion, LEASE_UUID)
		__field(u32, controller)
		__field(u64, seq)
		__field(u64, stamp_ns)
		__field(u64, latency_ns)
		__field(u64, expiry_ns)
	),
	TP_fast_assign(
		memcpy(__entry->portion, portion, LEASE_UUID);
		__entry->controller = controller;
		__entry->seq = seq;
		__entry->stamp_ns = stamp_ns;
		__entry->latency_ns = latency_ns;
		__entry->expiry_ns = expiry_ns;
	),
	TP_printk("portion=%pUb controller=%u seq=%llu stamp=%llu latency=%llu expiry=%llu",
		  __entry->portion, __entry->controller, __entry->seq, __entry->stamp_ns,
		  __entry->latency_ns, __entry->expiry_ns)
);

/* The gate gave a permit to a state-changing bio. */
TRACE_EVENT(dm_lease_permit,
	TP_PROTO(const u8 (*portion)[LEASE_UUID], u32 controller, u32 dev, u32 op, u64 sector,
		 u32 sectors, u64 epoch, u64 checked_ns, u64 expiry_ns),
	TP_ARGS(portion, controller, dev, op, sector, sectors, epoch, checked_ns,
		expiry_ns),
	TP_STRUCT__entry(
		__array(u8, portion, LEASE_UUID)
		__field(u32, controller)
		__field(u32, dev)
		__field(u32, op)
		__field(u64, sector)
		__field(u32, sectors)
		__field(u64, epoch)
		__field(u64, checked_ns)
		__field(u64, expiry_ns)
	),
	TP_fast_assign(
		memcpy(__entry->portion, portion, LEASE_UUID);
		__entry->controller = controller;
		__entry->dev = dev;
		__entry->op = op;
		__entry->sector = sector;
		__entry->sectors = sectors;
		__entry->epoch = epoch;
		__entry->checked_ns = checked_ns;
		__entry->expiry_ns = expiry_ns;
	),
	TP_printk("portion=%pUb controller=%u member=%u:%u op=%u sector=%llu sectors=%u epoch=%llu checked=%llu expiry=%llu",
		  __entry->portion, __entry->controller, MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->op, __entry->sector, __entry->sectors, __entry->epoch,
		  __entry->checked_ns, __entry->expiry_ns)
);

/*
 * The gate failed a state-changing bio: before it was issued, or (late) by reporting an error
 * although the device had completed it.
 */
TRACE_EVENT(dm_lease_refuse,
	TP_PROTO(const u8 (*portion)[LEASE_UUID], u32 controller, u32 dev, u32 op, u64 sector,
		 u32 sectors, bool late),
	TP_ARGS(portion, controller, dev, op, sector, sectors, late),
	TP_STRUCT__entry(
		__array(u8, portion, LEASE_UUID)
		__field(u32, controller)
		__field(u32, dev)
		__field(u32, op)
		__field(u64, sector)
		__field(u32, sectors)
		__field(bool, late)
	),
	TP_fast_assign(
		memcpy(__entry->portion, portion, LEASE_UUID);
		__entry->controller = controller;
		__entry->dev = dev;
		__entry->op = op;
		__entry->sector = sector;
		__entry->sectors = sectors;
		__entry->late = late;
	),
	TP_printk("portion=%pUb controller=%u member=%u:%u op=%u sector=%llu sectors=%u %s",
		  __entry->portion, __entry->controller, MAJOR(__entry->dev), MINOR(__entry->dev),
		  __entry->op, __entry->sector, __entry->sectors,
		  __entry->late ? "late" : "refused")
);

#endif /* _DM_LEASE_EVENTS_H */

/* This part must be outside of the protection. The build adds this directory to the search path. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE events
#include <trace/define_trace.h>
