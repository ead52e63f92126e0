// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin for QEMU's translator: how often each instruction of the guest kernel was executed, and
 * which cache lines it wrote, between two markers.
 *
 * usage: -plugin plugin.so,out=FILE[,stores=on]
 *
 * Every address of kernel text has a counter for each vCPU, so nothing has to be known beforehand
 * of what lies where: symbols and ranges are the business of whoever reads FILE. A window belongs
 * to the vCPU that executed the marker (guest/marker.h); what others do meanwhile is not in it.
 * FILE gets for each window, numbers in hexadecimal but for the counts:
 *
 *	window <vCPU>
 *	x <address> <executions>
 *	w <address of the instruction> <line> <writes>       with stores=on
 *	end
 *
 * A line is an address divided by 64. Whatever goes wrong (a table is full, markers do not pair) is
 * a line `error <text>`, never a wrong count. An instruction that faults is executed twice.
 *
 * Locking: translation may run on several vCPUs at once and takes `lock`; an open window is touched
 * by its vCPU alone, `window` is atomic because the others ask whether it is theirs.
 *
 * No header of the interface is packaged, so what is used of version 3 of it is declared here.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../guest/marker.h"

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;

enum { NO_REGS = 0 };    /* enum qemu_plugin_cb_flags */
enum { MEM_WRITE = 2 };  /* enum qemu_plugin_mem_rw */
enum { INLINE_ADD = 0 }; /* enum qemu_plugin_op */

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
					   void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    void (*cb)(unsigned int vcpu, void *data), int flags,
					    void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn, int op,
							 qemu_plugin_u64 entry, uint64_t imm);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn,
				      void (*cb)(unsigned int vcpu, uint32_t info, uint64_t address,
						 void *data),
				      int flags, int rw, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t size);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *score, unsigned int vcpu);

EXPORT int qemu_plugin_version = 3;

#define SLOTS (1u << 20)  /* addresses of kernel text that are ever executed: about 300,000 */
#define WRITES (1u << 17) /* pairs of instruction and line in one window */
#define NO_VCPU UINT32_MAX

struct write {
	uint64_t pc, line, count;
};

static FILE *out;
static bool stores;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Which counter an address has: open addressing; 0 is no kernel address and marks a free place. */
static uint64_t places[2 * SLOTS];
static uint32_t place_slots[2 * SLOTS];
static uint64_t addresses[SLOTS];
static _Atomic uint32_t slots;
static struct qemu_plugin_scoreboard *counters;

static _Atomic uint32_t window = NO_VCPU;
static uint64_t before[SLOTS];
static struct write writes[WRITES];
static uint32_t writes_used;
static bool writes_full;

static void complain(const char *text)
{
	fprintf(out, "error %s\n", text);
	fflush(out);
}

static uint64_t hash(uint64_t value)
{
	value *= 0x9e3779b97f4a7c15;
	return value ^ value >> 32;
}

/* The counter of an address; SLOTS if there is none left. Under `lock`. */
static uint32_t slot_of(uint64_t address)
{
	uint64_t place = hash(address) % (2 * SLOTS);

	while (places[place] && places[place] != address)
		place = (place + 1) % (2 * SLOTS);
	if (!places[place]) {
		if (slots == SLOTS) {
			complain("no counter is left");
			return SLOTS;
		}
		places[place] = address;
		place_slots[place] = slots;
		addresses[slots] = address;
		slots++;
	}
	return place_slots[place];
}

static void stored(unsigned int vcpu, uint32_t info, uint64_t address, void *data)
{
	uint64_t pc = (uintptr_t)data, line = address / 64, place;

	(void)info;
	if (window != vcpu || writes_full)
		return;
	place = hash(pc ^ line << 20) % WRITES;
	while (writes[place].count && (writes[place].pc != pc || writes[place].line != line))
		place = (place + 1) % WRITES;
	if (!writes[place].count++) {
		writes[place].pc = pc;
		writes[place].line = line;
		/* Some places stay free, or the search above would not end. */
		writes_full = ++writes_used > WRITES - WRITES / 8;
	}
}

static void begin(unsigned int vcpu, void *data)
{
	uint64_t *counts = qemu_plugin_scoreboard_find(counters, vcpu);

	(void)data;
	if (window != NO_VCPU)
		complain("a window begins inside another");
	memset(before, 0, sizeof(before));
	memcpy(before, counts, slots * sizeof(*counts));
	memset(writes, 0, sizeof(writes));
	writes_used = 0;
	writes_full = false;
	window = vcpu;
}

static void end(unsigned int vcpu, void *data)
{
	uint64_t *counts = qemu_plugin_scoreboard_find(counters, vcpu);

	(void)data;
	if (window != vcpu)
		complain("a window ends that did not begin here");
	window = NO_VCPU;
	fprintf(out, "window %u\n", vcpu);
	for (uint32_t slot = 0; slot < slots; slot++)
		if (counts[slot] != before[slot])
			fprintf(out, "x %" PRIx64 " %" PRIu64 "\n", addresses[slot],
				counts[slot] - before[slot]);
	for (uint32_t place = 0; place < WRITES; place++)
		if (writes[place].count)
			fprintf(out, "w %" PRIx64 " %" PRIx64 " %" PRIu64 "\n", writes[place].pc,
				writes[place].line, writes[place].count);
	if (writes_full)
		complain("too many lines were written in this window");
	fprintf(out, "end\n");
	fflush(out);
}

static void count(struct qemu_plugin_insn *insn, uint64_t address)
{
	qemu_plugin_u64 counter = { .score = counters };
	uint32_t slot;

	pthread_mutex_lock(&lock);
	slot = slot_of(address);
	pthread_mutex_unlock(&lock);
	if (slot == SLOTS)
		return;
	counter.offset = slot * sizeof(uint64_t);
	qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD, counter, 1);
	if (stores)
		qemu_plugin_register_vcpu_mem_cb(insn, stored, NO_REGS, MEM_WRITE,
						 (void *)(uintptr_t)address);
}

/* A marker is executed by a program: what looks like one in the kernel is something else. */
static void look_for_marker(struct qemu_plugin_insn *insn)
{
	static const uint8_t opcode[] = { MARKER_OPCODE };
	uint8_t bytes[sizeof(opcode) + sizeof(uint32_t)];
	uint32_t displacement;

	if (qemu_plugin_insn_size(insn) != sizeof(bytes) ||
	    qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) != sizeof(bytes) ||
	    memcmp(bytes, opcode, sizeof(opcode)))
		return;
	memcpy(&displacement, bytes + sizeof(opcode), sizeof(displacement));
	if (displacement == MARKER_BEGIN)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, NO_REGS, NULL);
	if (displacement == MARKER_END)
		qemu_plugin_register_vcpu_insn_exec_cb(insn, end, NO_REGS, NULL);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		/* The upper half of the address space is the kernel's. */
		if (address >> 63)
			count(insn, address);
		else
			look_for_marker(insn);
	}
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
		else if (!strcmp(argv[i], "stores=on"))
			stores = true;
		else
			return -1;
	}
	if (!out)
		return -1;
	counters = qemu_plugin_scoreboard_new(SLOTS * sizeof(uint64_t));
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
