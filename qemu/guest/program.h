/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of this folder have in common. A program defines _GNU_SOURCE before it includes
 * any header, because number() uses program_invocation_short_name.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 4096

static volatile sig_atomic_t ended;

static inline void end(int number)
{
	(void)number;
	ended = 1;
}

/* SIGTERM sets `ended`, and each line of output is written at once. */
static inline void listen_for_end(void)
{
	struct sigaction action = { .sa_handler = end };

	sigaction(SIGTERM, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

static inline void fail(const char *what)
{
	perror(what);
	exit(2);
}

static inline uint64_t number(const char *text)
{
	char *rest;
	uint64_t value = strtoull(text, &rest, 0);

	if (!*text || *rest) {
		fprintf(stderr, "%s: not a number: %s\n", program_invocation_short_name, text);
		exit(2);
	}
	return value;
}

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Ends the line of an attempt: "ok|<errno> <raw ns before> <raw ns after>". */
static inline void print_result(int error, uint64_t before_ns, uint64_t after_ns)
{
	if (error)
		printf("%d", error);
	else
		printf("ok");
	printf(" %" PRIu64 " %" PRIu64 "\n", before_ns, after_ns);
}

#endif
