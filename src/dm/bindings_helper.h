/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Input of bindgen for src/dm/bindings.rs: headers and constants that the bindings of the kernel crate
 * lack.
 *
 * Bindgen does not declare a macro with a cast. Such a macro is written as
 *	const type RUST_CONST_HELPER_NAME = NAME;
 * and the build removes the prefix, as the kernel's build does for its own bindings.
 */

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/ioprio.h>
#include <linux/pr.h>
#include <linux/reboot.h>
#include <linux/syscore_ops.h>

const blk_status_t RUST_CONST_HELPER_BLK_STS_NOTSUPP = BLK_STS_NOTSUPP;
const blk_status_t RUST_CONST_HELPER_BLK_STS_RESV_CONFLICT = BLK_STS_RESV_CONFLICT;
const blk_status_t RUST_CONST_HELPER_BLK_STS_MEDIUM = BLK_STS_MEDIUM;
const blk_status_t RUST_CONST_HELPER_BLK_STS_RESOURCE = BLK_STS_RESOURCE;
const blk_status_t RUST_CONST_HELPER_BLK_STS_IOERR = BLK_STS_IOERR;
const blk_status_t RUST_CONST_HELPER_BLK_STS_DM_REQUEUE = BLK_STS_DM_REQUEUE;
const blk_status_t RUST_CONST_HELPER_BLK_STS_AGAIN = BLK_STS_AGAIN;
const blk_status_t RUST_CONST_HELPER_BLK_STS_OFFLINE = BLK_STS_OFFLINE;

const blk_opf_t RUST_CONST_HELPER_REQ_SYNC = REQ_SYNC;
const blk_opf_t RUST_CONST_HELPER_REQ_META = REQ_META;
const blk_opf_t RUST_CONST_HELPER_REQ_IDLE = REQ_IDLE;
const blk_opf_t RUST_CONST_HELPER_REQ_FUA = REQ_FUA;
const blk_opf_t RUST_CONST_HELPER_REQ_PREFLUSH = REQ_PREFLUSH;
const blk_opf_t RUST_CONST_HELPER_REQ_NOWAIT = REQ_NOWAIT;

const blk_features_t RUST_CONST_HELPER_BLK_FEAT_POLL = BLK_FEAT_POLL;
const blk_features_t RUST_CONST_HELPER_BLK_FEAT_ATOMIC_WRITES = BLK_FEAT_ATOMIC_WRITES;

const blk_mode_t RUST_CONST_HELPER_BLK_OPEN_READ = BLK_OPEN_READ;
const blk_mode_t RUST_CONST_HELPER_BLK_OPEN_WRITE = BLK_OPEN_WRITE;

/* IOPRIO_PRIO_VALUE(IOPRIO_CLASS_RT, 0), which is no constant expression in C. */
const unsigned short RUST_CONST_HELPER_DM_IOPRIO_RT = IOPRIO_CLASS_RT << IOPRIO_CLASS_SHIFT;
