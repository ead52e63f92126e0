// SPDX-License-Identifier: GPL-2.0
/*
 * issue: sends operations of 4 KiB to block devices, one at a time, between two markers.
 *
 * usage: issue COUNT ROUNDS CPU[,CPU...] OP:DEVICE:OFFSET...   OP: write, read, flush, discard
 *
 * OFFSET is that of the blocks in use, in bytes.
 *
 * In each round every pair of operation and device has its turn, in the order given, so that what
 * changes slowly in the machine changes for all of them alike. A turn is a warm-up of one operation
 * for each block in use and then, between the markers, COUNT operations. For each turn one line:
 *
 *     <cpu> <op> <device> <operations that succeeded> <errno of the last one that did not, or 0>
 *
 * They are written at the very end: whoever reads them would run inside a window.
 *
 * Each CPU has a process of its own, with memory and open files of its own. They do all of this one
 * after the other and live until the last is done, so what two of them have in common is shared.
 *
 * Discards go to blocks that were never written, so that each finds the same.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "marker.h"
#include "program.h"

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

static void take(unsigned int cpu, const struct turn *turn, char *buffer, unsigned long count)
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
	printf("%u %s %s %lu %d\n", cpu, turn->op, turn->device, good, error);
}

/* What the process of a CPU does. It waits for a byte from `go` and sends one to `done`. */
static void work(unsigned int cpu, unsigned long count, unsigned long rounds, char **words,
		 int pairs, int go, int done)
{
	struct turn *turns = calloc((size_t)pairs, sizeof(*turns));
	char *buffer = aligned_alloc(BLOCK, BLOCK), byte;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		fail("cpu");
	if (!buffer || !turns)
		fail("memory");
	/* The text of all results fits: nothing is written before the end. */
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	memset(buffer, 0x5a, BLOCK);
	for (int i = 0; i < pairs; i++)
		turns[i] = turn_of(words[i]);
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		fail("mlockall");
	if (read(go, &byte, 1) != 1)
		fail("go");
	for (unsigned long round = 0; round < rounds; round++)
		for (int i = 0; i < pairs; i++)
			take(cpu, &turns[i], buffer, count);
	fflush(stdout);
	if (write(done, "", 1) != 1)
		fail("done");
	pause();
}

struct worker {
	pid_t pid;
	int go;
	int done;
};

static struct worker start(unsigned int cpu, char **argv, int argc)
{
	struct worker worker;
	int go[2], done[2];

	if (pipe(go) || pipe(done))
		fail("pipe");
	worker.pid = fork();
	if (worker.pid < 0)
		fail("fork");
	if (!worker.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work(cpu, strtoul(argv[1], NULL, 0), strtoul(argv[2], NULL, 0), argv + 4, argc - 4,
		     go[0], done[1]);
	}
	/* Only the worker holds its end of `done`, so its death is an end of file here. */
	close(go[0]);
	close(done[1]);
	worker.go = go[1];
	worker.done = done[0];
	return worker;
}

int main(int argc, char **argv)
{
	struct worker workers[64];
	int count = 0;
	char byte;

	if (argc < 5) {
		fprintf(stderr, "usage: issue COUNT ROUNDS CPU[,CPU...] OP:DEVICE:OFFSET...\n");
		return 2;
	}
	for (char *cpu = strtok(argv[3], ","); cpu && count < 64; cpu = strtok(NULL, ","))
		workers[count++] = start((unsigned int)strtoul(cpu, NULL, 0), argv, argc);
	for (int i = 0; i < count; i++)
		if (write(workers[i].go, "", 1) != 1 || read(workers[i].done, &byte, 1) != 1)
			return 2;
	for (int i = 0; i < count; i++)
		kill(workers[i].pid, SIGKILL);
	return 0;
}
