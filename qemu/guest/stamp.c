// SPDX-License-Identifier: GPL-2.0
/*
 * stamp: writes 4 KiB blocks that say who wrote them, and says which of them were acknowledged.
 *
 * usage: stamp DEVICE CONTROLLER EPOCH FIRST-BLOCK BLOCKS COUNT PAUSE-US
 *
 * Block number n of COUNT (0 is endless) goes to FIRST-BLOCK + n % BLOCKS, by a direct write, and
 * begins with the header below. For each write one line says what the writer was told:
 *
 *     <sequence> <block> ok|<errno> <raw ns before> <raw ns after>
 *
 * A checker compares these lines with what the store saw. The program goes on after errors: that
 * is when it becomes interesting. SIGTERM ends it between two writes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "program.h"

/* The first bytes of every block, little endian as the machine is. */
struct header {
	char magic[8]; /* "RIGSTAMP" */
	uint32_t controller;
	uint32_t zero;
	uint64_t epoch;
	uint64_t sequence;
	uint64_t block;
	uint64_t when_ns; /* CLOCK_MONOTONIC_RAW of the writer */
};

int main(int argc, char **argv)
{
	struct header header = { .magic = "RIGSTAM" };
	uint64_t first, blocks, count, pause_us;
	char *buffer;
	int fd;

	if (argc != 8) {
		fprintf(stderr, "usage: stamp DEVICE CONTROLLER EPOCH FIRST BLOCKS COUNT PAUSE-US\n");
		return 2;
	}
	header.magic[7] = 'P';
	header.controller = (uint32_t)number(argv[2]);
	header.epoch = number(argv[3]);
	first = number(argv[4]);
	blocks = number(argv[5]);
	count = number(argv[6]);
	pause_us = number(argv[7]);
	buffer = aligned_alloc(BLOCK, BLOCK);
	fd = open(argv[1], O_WRONLY | O_DIRECT);
	if (fd < 0 || !buffer || !blocks) {
		perror(argv[1]);
		return 2;
	}
	listen_for_end();
	for (uint64_t n = 0; (!count || n < count) && !ended; n++) {
		uint64_t block = first + n % blocks, before = now_ns();
		ssize_t done;
		int error;

		header.sequence = n;
		header.block = block;
		header.when_ns = before;
		memset(buffer, 0x5a, BLOCK);
		memcpy(buffer, &header, sizeof(header));
		done = pwrite(fd, buffer, BLOCK, (off_t)(block * BLOCK));
		error = done == BLOCK ? 0 : done < 0 ? errno : EIO;
		printf("%" PRIu64 " %" PRIu64 " ", n, block);
		print_result(error, before, now_ns());
		if (pause_us)
			usleep((useconds_t)pause_us);
	}
	return 0;
}
