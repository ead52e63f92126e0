/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Where a guest program says to the plugin of qemu/rig/count that a window begins or ends: a no-op of
 * seven bytes whose displacement nobody else would write. The machine does nothing for it.
 */
#ifndef MARKER_H
#define MARKER_H

#define MARKER_OPCODE 0x0f, 0x1f, 0x80 /* nopl disp32(%rax) */
#define MARKER_BEGIN 0x4c454e01
#define MARKER_END 0x4c454e02

#define MARKER_TEXT(displacement) MARKER_STRING(displacement)
#define MARKER_STRING(displacement) #displacement

/* The compiler must not move an access to memory over a marker. */
#define marker(displacement) \
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80\n\t.long " MARKER_TEXT(displacement) ::: "memory")

#endif
