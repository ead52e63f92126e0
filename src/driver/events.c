// SPDX-License-Identifier: GPL-2.0
/* Defines the trace events of events.h, and the functions by which events.rs emits them. */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "events.h"
