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
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096

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

static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t number(const char *text)
{
	char *rest;
	uint64_t value = strtoull(text, &rest, 0);

	if (!*text || *rest) {
		fprintf(stderr, "stamp: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = end };
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
	sigaction(SIGTERM, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (uint64_t n = 0; (!count || n < count) && !ended; n++) {
		uint64_t block = first + n % blocks, before = now_ns();
		ssize_t done;

		header.sequence = n;
		header.block = block;
		header.when_ns = before;
		memset(buffer, 0x5a, BLOCK);
		memcpy(buffer, &header, sizeof(header));
		done = pwrite(fd, buffer, BLOCK, (off_t)(block * BLOCK));
		printf("%" PRIu64 " %" PRIu64 " ", n, block);
		if (done == BLOCK)
			printf("ok");
		else
			printf("%d", done < 0 ? errno : EIO);
		printf(" %" PRIu64 " %" PRIu64 "\n", before, now_ns());
		if (pause_us)
			usleep((useconds_t)pause_us);
	}
	return 0;
}
