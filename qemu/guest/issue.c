// SPDX-License-Identifier: GPL-2.0
/*
 * issue: sends operations of 4 KiB to block devices, one at a time, between two markers.
 *
 * usage: issue COUNT ROUNDS CPU OP:DEVICE:OFFSET...     OP: write, read, flush, discard
 *
 * OFFSET is that of the blocks in use, in bytes.
 *
 * In each round every pair of operation and device has its turn, in the order given, so that what
 * changes slowly in the machine changes for all of them alike. A turn is a warm-up of one operation
 * for each block in use and then, between the markers, COUNT operations. For each turn one line:
 *
 *     <op> <device> <operations that succeeded> <errno of the last one that did not, or 0>
 *
 * They are written at the very end: whoever reads them would run inside a window.
 *
 * Discards go to blocks that were never written, so that each finds the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "marker.h"

#define BLOCK 4096
#define BLOCKS 64
#define DISCARDED (4 << 20) /* from the blocks in use to those for discards, in bytes */

struct turn {
	const char *op;
	int (*perform)(const struct turn *turn, char *buffer, unsigned long n);
	const char *device;
	off_t offset;
	int fd;
};

static off_t block(const struct turn *turn, unsigned long n)
{
	return turn->offset + (off_t)(n % BLOCKS * BLOCK);
}

static int write_one(const struct turn *turn, char *buffer, unsigned long n)
{
	return pwrite(turn->fd, buffer, BLOCK, block(turn, n)) == BLOCK ? 0 : -1;
}

static int read_one(const struct turn *turn, char *buffer, unsigned long n)
{
	return pread(turn->fd, buffer, BLOCK, block(turn, n)) == BLOCK ? 0 : -1;
}

static int flush_one(const struct turn *turn, char *buffer, unsigned long n)
{
	(void)buffer;
	(void)n;
	return fsync(turn->fd);
}

static int discard_one(const struct turn *turn, char *buffer, unsigned long n)
{
	uint64_t range[2] = { (uint64_t)block(turn, n) + DISCARDED, BLOCK };

	(void)buffer;
	return ioctl(turn->fd, BLKDISCARD, range);
}

static const struct turn ops[] = {
	{ .op = "write", .perform = write_one },
	{ .op = "read", .perform = read_one },
	{ .op = "flush", .perform = flush_one },
	{ .op = "discard", .perform = discard_one },
};

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static struct turn turn_of(char *word)
{
	char *op = strtok(word, ":"), *device = strtok(NULL, ":"), *offset = strtok(NULL, ":");

	for (size_t i = 0; offset && i < sizeof(ops) / sizeof(ops[0]); i++) {
		struct turn turn = ops[i];

		if (strcmp(op, turn.op))
			continue;
		turn.device = device;
		turn.offset = (off_t)strtoull(offset, NULL, 0);
		/* Whether a read updates the time of access would depend on the time of day. */
		turn.fd = open(device, O_RDWR | O_DIRECT | O_NOATIME);
		if (turn.fd < 0)
			fail(device);
		return turn;
	}
	fprintf(stderr, "issue: not an operation, a device and an offset: %s\n", word);
	exit(2);
}

static void take(const struct turn *turn, char *buffer, unsigned long count)
{
	unsigned long good = 0;
	int error = 0;

	for (unsigned long n = 0; n < BLOCKS; n++)
		turn->perform(turn, buffer, n);
	marker(MARKER_BEGIN);
	for (unsigned long n = 0; n < count; n++) {
		if (turn->perform(turn, buffer, n))
			error = errno;
		else
			good++;
	}
	marker(MARKER_END);
	printf("%s %s %lu %d\n", turn->op, turn->device, good, error);
}

int main(int argc, char **argv)
{
	unsigned long count, rounds;
	struct turn *turns;
	cpu_set_t cpus;
	char *buffer;
	int pairs = argc - 4;

	if (pairs < 1) {
		fprintf(stderr, "usage: issue COUNT ROUNDS CPU OP:DEVICE:OFFSET...\n");
		return 2;
	}
	count = strtoul(argv[1], NULL, 0);
	rounds = strtoul(argv[2], NULL, 0);
	CPU_ZERO(&cpus);
	CPU_SET(strtoul(argv[3], NULL, 0), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		fail("cpu");
	/* The turns and the text of their results fit; nothing is written before the end. */
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	buffer = aligned_alloc(BLOCK, BLOCK);
	turns = calloc((size_t)pairs, sizeof(*turns));
	if (!buffer || !turns)
		fail("memory");
	memset(buffer, 0x5a, BLOCK);
	for (int i = 0; i < pairs; i++)
		turns[i] = turn_of(argv[4 + i]);
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		fail("mlockall");
	for (unsigned long round = 0; round < rounds; round++)
		for (int i = 0; i < pairs; i++)
			take(&turns[i], buffer, count);
	return 0;
}
